# SPDX-License-Identifier: Apache-2.0
"""Writes the planner's table of vLLM's flags from the tables that upstream's own code wrote (`lab/option_tables.py`).

A flag's form is told once for the versions in a row that have it alike:

    python lab/planner_flags.py        # after a table was added below lab/neuron_sim/options
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TABLES = Path(__file__).resolve().parent / "neuron_sim" / "options"
OUTPUT = (
    Path(__file__).resolve().parents[1]
    / "collections/ansible_collections/trainyard/neuron/plugins/plugin_utils/plan/vllm_flags.json"
)

#: What upstream converts a flag's text with -> what the planner takes for it.
_TAKES = {
    "int": "int",
    "float": "float",
    "human_readable_int": "count",
    "human_readable_int_or_auto": "count",
    "nullable_kvs": "pairs",
    "loads": "json",
    "parse_dataclass": "json",
    "from_cli": "json",
    "from_json": "json",
    "union_dict_and_str": "json",
}
_ACTIONS = {
    "BooleanOptionalAction": "either",
    "StoreTrueAction": "on",
    "StoreBoolean": "said",
    "AppendAction": "each",
    "LoRAParserAction": "texts",
    "PromptAdapterParserAction": "texts",
}


def versions() -> list[str]:
    """The versions of vLLM that there are tables of, oldest first."""
    names = [path.stem.partition("-")[2] for path in TABLES.glob("vllm-*.json")]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def form(row: dict[str, Any]) -> dict[str, Any]:
    """What one option takes, in the planner's words."""
    takes = _ACTIONS.get(row["action"]) or _TAKES.get(row.get("of") or row.get("type") or "", "text")
    if row.get("nargs") == "+" and takes not in ("texts", "each", "pairs"):
        takes += "s"
    found: dict[str, Any] = {"takes": takes}
    # vLLM's own converter makes nothing of the text None, which is then none of its choices.
    choices = [choice for choice in row.get("choices") or () if choice != "None"]
    if choices:
        found["choices"] = choices
    # `vllm serve` has it, and `python -m vllm.entrypoints.openai.api_server` has not.
    if row.get("serve"):
        found["serve"] = True
    return found


def flags() -> dict[str, list[dict[str, Any]]]:
    """Every flag by its long name, with its forms and the first and the last version that has each."""
    known = versions()
    found: dict[str, list[dict[str, Any]]] = {}
    for position, version in enumerate(known):
        table = json.loads((TABLES / f"vllm-{version}.json").read_text(encoding="utf-8"))
        by_dest = {row["dest"]: row for row in table["options"]}
        alone = [{**row, "serve": row["dest"] not in by_dest} for row in table["serve"]]
        rows = {row["dest"]: row for row in [*table["options"], *alone] if row["flags"]}
        for row in rows.values():
            for flag in (name[2:] for name in row["flags"] if name.startswith("--")):
                if flag.startswith("no-") and f"--{flag[3:]}" in row["flags"]:
                    continue
                forms = found.setdefault(flag, [])
                last = forms[-1] if forms else {}
                if last.get("until") == known[position - 1] and form(row) == {
                    key: value for key, value in last.items() if key not in ("since", "until")
                }:
                    last["until"] = version
                else:
                    forms.append({"since": version, "until": version, **form(row)})
    return dict(sorted(found.items()))


def text() -> str:
    """The file's content: a line for each flag."""
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(forms)}" for name, forms in flags().items())
    return f'{{\n "versions": {json.dumps(versions())},\n "flags": {{\n{rows}\n }}\n}}\n'


if __name__ == "__main__":
    OUTPUT.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{len(flags())} flags of vLLM {versions()[0]} to {versions()[-1]} in {OUTPUT}\n")
