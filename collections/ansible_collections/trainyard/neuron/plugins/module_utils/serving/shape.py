# SPDX-License-Identifier: Apache-2.0
"""Whether a mapping has the words and the kinds of value that a dataclass has. Every problem at once."""

from __future__ import annotations

import difflib
from typing import Any, Callable, Dict, Iterable, List, Mapping, Tuple

#: Beyond it programs disagree on what a number of JSON is; infinity and what is no number are beyond it too.
_LARGEST = 1 << 53


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(test(entry) for entry in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


#: Annotation of a field -> in words, and whether a value of JSON is one.
KINDS: Dict[str, Tuple[str, Callable[[Any], bool]]] = {
    "str": ("a text", _is_text),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number from 0", _is_whole),
    "Optional[str]": ("a text", _is_text),
    "Optional[int]": ("a whole number from 0", _is_whole),
    "float": ("a number from 0", _is_number),
    "Tuple[str, ...]": ("a list of texts", _list_of(_is_text)),
    "Tuple[int, ...]": ("a list of whole numbers", _list_of(_is_whole)),
    "Mapping[str, str]": (
        "texts by name",
        lambda value: isinstance(value, Mapping) and all(_is_text(entry) for entry in (*value, *value.values())),
    ),
}


KINDS["Mapping[str, Any]"] = ("settings by name", lambda value: isinstance(value, Mapping))
KINDS["Tuple[Mapping[str, str], ...]"] = ("a list of texts by name", _list_of(KINDS["Mapping[str, str]"][1]))


def spelled(word: str) -> str:
    """A field's name as files have it: one that Python takes for a word of its own ends with _ in a dataclass."""
    return word[:-1] if word.endswith("_") else word


def unknown(raw: Mapping[str, Any], known: Iterable[str], within: str = "") -> List[str]:
    """What of a mapping's words is not known, a sentence each with the nearest word.

    Args:
        raw: the mapping.
        known: the words that are.
        within: the word under which the mapping stands, for the message.
    """
    words = sorted(known)
    found = []
    for word in sorted(map(str, raw)):
        if word not in words:
            near = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
            more = ", meant is perhaps {0}".format(near[0]) if near else ""
            found.append("{0}{1} is no word that is known{2}".format(within, word, more))
    return found


def problems(
    kind: Any, raw: Mapping[str, Any], needed: Iterable[str] = (), beside: Iterable[str] = (), within: str = ""
) -> List[str]:
    """What of a mapping is not as the dataclass has it, a sentence each.

    Args:
        kind: the dataclass; fields whose annotation is not in `KINDS` are its reader's business.
        raw: the mapping; null is the same as nothing.
        needed: words that have to be there.
        beside: further words that are known, and are of no use here.
        within: the word under which the mapping stands, for the message.
    """
    fields = {spelled(word): entry for word, entry in kind.__dataclass_fields__.items()}
    found = unknown(raw, {*fields, *beside}, within)
    found += ["{0}{1} is missing".format(within, word) for word in needed if raw.get(word) is None]
    for word, entry in fields.items():
        words, fits = KINDS.get(entry.type, ("", None))
        value = raw.get(word)
        if fits and value is not None and not fits(value):
            found.append("{0}{1} is {2!r:.80}, wanted is {3}".format(within, word, value, words))
    return found
