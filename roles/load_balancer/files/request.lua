-- SPDX-License-Identifier: Apache-2.0
-- The model that a request's body names, found as the replicas' own JSON reader finds it.
--
-- HAProxy's json_query takes the first of two members, does not know an escaped name and gives up on what is nested
-- deeply: then what is checked here is not what a replica reads. This reads every member of the outermost object and
-- passes over everything else at the speed of a string search.

-- Deeper than any request of the API; a replica's own reader gives up at about twice that.
local DEEPEST = 500
-- Brackets and strings of one body. A body of more has no place in a proxy that serves other streams beside it.
local MOST_PARTS = 100000
-- Longer names are nobody's.
local LONGEST_NAME = 256

local find, byte, sub = string.find, string.byte, string.sub

local MANY_SLASHES = string.rep("\\", 64)

local PLAIN = {
    ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

-- The quote that ends a string whose first character is at `from`; nil where it has none.
local function closing_quote(text, from)
    local at = from
    while true do
        local quote = find(text, '"', at, true)
        if not quote then return nil end
        local before = quote - 1
        while before - 63 >= from and sub(text, before - 63, before) == MANY_SLASHES do before = before - 64 end
        while before >= from and byte(text, before) == 92 do before = before - 1 end
        if (quote - before) % 2 == 1 then return quote end
        at = quote + 1
    end
end

-- What a string of JSON means; nil where it is none.
local function meaning(raw)
    if not find(raw, "\\", 1, true) then return raw end
    local parts, at = {}, 1
    while true do
        local slash = find(raw, "\\", at, true)
        parts[#parts + 1] = sub(raw, at, (slash or 0) - 1)
        if not slash then return table.concat(parts) end
        local kind = sub(raw, slash + 1, slash + 1)
        at = slash + 2
        if kind ~= "u" then
            if not PLAIN[kind] then return nil end
            parts[#parts + 1] = PLAIN[kind]
        else
            local digits = string.match(raw, "^%x%x%x%x", at)
            if not digits then return nil end
            local code = tonumber(digits, 16)
            at = at + 4
            if code >= 0xD800 and code <= 0xDFFF then
                local low = string.match(raw, "^\\u([Dd][C-Fc-f]%x%x)", at)
                if code > 0xDBFF or not low then return nil end
                code = 0x10000 + (code - 0xD800) * 0x400 + tonumber(low, 16) - 0xDC00
                at = at + 6
            end
            parts[#parts + 1] = utf8.char(code)
        end
    end
end

-- A string's meaning where it can be a name at all; else the empty string, which is no model's name.
local function as_name(raw)
    if #raw > 6 * LONGEST_NAME then return "" end
    local name = meaning(raw)
    -- What HAProxy compares ends at a NUL.
    if not name or #name > LONGEST_NAME or find(name, "%c") then return "" end
    return name
end

-- The position after a value that begins at `at`, and how many parts it had; nil where it is not JSON.
local function after_value(text, at)
    local first = byte(text, at)
    if first == 34 then
        local quote = closing_quote(text, at + 1)
        return quote and quote + 1, 1
    end
    if first ~= 123 and first ~= 91 then
        local stop = find(text, "[%s,%]}]", at)
        if not stop or stop == at then return nil end
        return stop, 1
    end
    local depth, parts = 1, 1
    at = at + 1
    while true do
        at = find(text, '["%[%]{}]', at)
        parts = parts + 1
        if not at or parts > MOST_PARTS then return nil end
        local found = byte(text, at)
        if found == 34 then
            at = closing_quote(text, at + 1)
            if not at then return nil end
        elseif found == 123 or found == 91 then
            depth = depth + 1
            if depth > DEEPEST then return nil end
        else
            depth = depth - 1
            if depth == 0 then return at + 1, parts end
        end
        at = at + 1
    end
end

-- Whether a body is an object of JSON, and the name of its model: "" for a name that nobody has, nil for none.
local function read(text)
    local at, parts, model = find(text, "%S"), 0, nil
    if not at or byte(text, at) ~= 123 then return false end
    at = find(text, "%S", at + 1)
    if at and byte(text, at) == 125 then return not find(text, "%S", at + 1), nil end
    while at do
        if byte(text, at) ~= 34 then return false end
        local quote = closing_quote(text, at + 1)
        if not quote then return false end
        -- "model", each character of which may be written as \uXXXX.
        local is_model = quote - at <= 31 and meaning(sub(text, at + 1, quote - 1)) == "model"
        at = find(text, "%S", quote + 1)
        if not at or byte(text, at) ~= 58 then return false end
        at = find(text, "%S", at + 1)
        if not at then return false end
        local after, more = after_value(text, at)
        if not after then return false end
        parts = parts + more + 1
        if parts > MOST_PARTS then return false end
        if is_model then
            -- Of two members of one name the last one counts, there as here.
            if byte(text, at) == 34 then
                model = as_name(sub(text, at + 1, after - 2))
            elseif sub(text, at, after - 1) == "null" then
                model = nil
            else
                return false
            end
        end
        at = find(text, "%S", after)
        if not at then return false end
        if byte(text, at) == 125 then return not find(text, "%S", at + 1), model end
        if byte(text, at) ~= 44 then return false end
        at = find(text, "%S", at + 1)
    end
    return false
end

if core then
    core.register_action("read_model", { "http-req" }, function(txn)
        local is_object, model = read(txn.f:req_body() or "")
        if is_object then txn:set_var("txn.is_json", true) end
        if model then txn:set_var("txn.named", model) end
    end)
end

return read
