# SPDX-License-Identifier: Apache-2.0
"""Writes the table of variables into the README of each role, from the role's argument specification.

python docs/role_tables.py            writes
python docs/role_tables.py --check    fails, with a diff, where a README is not current
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"
BEGIN = "<!-- Variables: written by docs/role_tables.py from meta/argument_specs.yml -->"
END = "<!-- End of variables -->"

#: Ansible's markup in descriptions: V(value), C(code), O(option), E(environment), M(module), P(plugin), RV(returned).
MARKUP = re.compile(r"\b(?:V|C|O|E|M|P|RV)\(((?:\\.|[^\\)])*)\)")


def plain(description: str | list[str]) -> str:
    """A description as Markdown that fits a cell of a table."""
    text = " ".join([description] if isinstance(description, str) else description)
    text = MARKUP.sub(lambda found: f"`{found[1]}`", text)
    return " ".join(text.split()).replace("|", "\\|")


def kind(option: Mapping[str, Any]) -> str:
    """The type of an option, with its elements or its choices."""
    if option.get("choices"):
        return " / ".join(f"`{choice}`" for choice in option["choices"])
    name = str(option.get("type", "str"))
    return f"{name} of {option['elements']}" if option.get("elements") else name


def default(option: Mapping[str, Any]) -> str:
    """The default of an option as it would be written in YAML."""
    if "default" not in option:
        return "required" if option.get("required") else ""
    value = option["default"]
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def rows(options: Mapping[str, Any], parent: str = "") -> Iterator[str]:
    """A row for each option, those of nested options below their own."""
    for name, option in options.items():
        shown = f"{parent}{name}"
        cells = (f"`{shown}`", kind(option), default(option), plain(option.get("description", "")))
        yield f"| {' | '.join(cells)} |"
        yield from rows(option.get("options") or {}, f"{shown}[].")


def table(role: Path) -> str:
    """The part of a README that is written."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    head = "| variable | type | default | meaning |\n| --- | --- | --- | --- |\n"
    parts = []
    for entry, spec in specs.items():
        title = "" if entry == "main" else f"Tasks from `{entry}.yml`:\n\n"
        options = spec.get("options") or {}
        parts.append(title + (head + "\n".join(rows(options)) if options else "None."))
    return f"{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}"


def readme(role: Path) -> str:
    """What a role's README is to be.

    Raises:
        ValueError: it has no place for the table.
    """
    text = (role / "README.md").read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{role / 'README.md'}: needs the lines {BEGIN!r} and {END!r}, once each")
    before, _, rest = text.partition(BEGIN)
    return before + table(role) + rest.partition(END)[2]


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 if `--check` found a README that is not current."""
    parser = argparse.ArgumentParser(description="Write the tables of variables into the roles' READMEs.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where something would change")
    check = parser.parse_args(argv).check
    differs = False
    for role in sorted(path.parent.parent for path in ROLES.glob("*/meta/argument_specs.yml")):
        path, wanted = role / "README.md", readme(role)
        found = path.read_text(encoding="utf-8")
        if found == wanted:
            continue
        differs = True
        if not check:
            path.write_text(wanted, encoding="utf-8")
            continue
        lines = (text.splitlines(keepends=True) for text in (found, wanted))
        sys.stdout.writelines(difflib.unified_diff(*lines, str(path), "current"))
    return int(check and differs)


if __name__ == "__main__":
    sys.exit(main())
