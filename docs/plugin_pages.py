# SPDX-License-Identifier: Apache-2.0
"""A page for each module, lookup, filter and callback of the collection, from the documentation that it carries."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

PLUGINS = Path(__file__).resolve().parent.parent / "collections/ansible_collections/trainyard/neuron/plugins"
#: A table of options; what is returned has no default.
HEAD = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
KINDS = {"modules": "module", "lookup": "lookup", "filter": "filter", "callback": "callback"}
MARKUP = re.compile(r"\b(?:V|C|O|E|M|P|RV|I|B)\(((?:\\.|[^\\)])*)\)")


def constants(path: Path) -> dict[str, str]:
    """The documentation strings of a plugin's file."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.targets[0], ast.Name)
        ):
            found[node.targets[0].id] = str(node.value.value)
    return found


def paragraphs(description: str | list[str]) -> list[str]:
    """A description as Markdown, a paragraph each."""
    rows = [description] if isinstance(description, str) else description
    return [" ".join(MARKUP.sub(lambda found: f"`{found[1]}`", row).split()) for row in rows]


def cell(text: str) -> str:
    """Text that fits a cell of a table."""
    return text.replace("|", "\\|")


def rows(options: Mapping[str, Any], parent: str = "") -> Iterator[str]:
    """A row for each option, those below it after it."""
    for name, option in options.items():
        kind = str(option.get("type", "str")) + (f" of {option['elements']}" if option.get("elements") else "")
        if option.get("choices"):
            kind += ": " + ", ".join(f"`{choice}`" for choice in option["choices"])
        default = f"`{json.dumps(option['default'])}`" if "default" in option else ""
        if option.get("required"):
            default = "required"
        meaning = " ".join(paragraphs(option["description"]))
        yield f"| `{parent}{name}` | {cell(kind)} | {cell(default)} | {cell(meaning)} |"
        yield from rows(option.get("suboptions") or option.get("contains") or {}, f"{parent}{name}.")


def options_of(documentation: Mapping[str, Any]) -> dict[str, Any]:
    """A plugin's options with those of the collection's own fragments."""
    found = dict(documentation.get("options") or {})
    for name in documentation.get("extends_documentation_fragment") or []:
        if name.startswith("trainyard.neuron."):
            path = PLUGINS / "doc_fragments" / f"{name.rpartition('.')[2]}.py"
            found.update(yaml.safe_load(constants(path)["DOCUMENTATION"])["options"])
    return found


def page(kind: str, name: str, constant: Mapping[str, str]) -> tuple[str, str]:
    """A plugin's one line, and its page."""
    documentation = yaml.safe_load(constant["DOCUMENTATION"])
    short = paragraphs(documentation["short_description"])[0]
    text = [f"# {name}", "", f"`trainyard.neuron.{name}`, a {KINDS[kind]}: {short}.", ""]
    for paragraph in paragraphs(documentation["description"]):
        text += [f"- {paragraph}"]
    options = options_of(documentation)
    if options:
        text += ["", "## Options", "", *HEAD, *rows(options)]
    if constant.get("EXAMPLES", "").strip():
        text += ["", "## Examples", "", "```yaml", constant["EXAMPLES"].strip(), "```"]
    returned = yaml.safe_load(constant.get("RETURN", "")) or {}
    if returned:
        text += [
            "",
            "## Returned",
            "",
            HEAD[0].replace("option", "key").replace("default", ""),
            HEAD[1],
            *rows(returned),
        ]
    return short, "\n".join(text) + "\n"


def pages() -> dict[str, str]:
    """Each page by its path in the site, `modules/index.md` among them."""
    found: dict[str, str] = {}
    index = ["# Modules and plugins", "", "The collection `trainyard.neuron`, written from what each file documents."]
    for kind, word in KINDS.items():
        index += ["", f"## {word.capitalize()}s", ""]
        for path in sorted((PLUGINS / kind).glob("*.py")):
            constant = constants(path)
            if "DOCUMENTATION" not in constant:
                continue
            short, text = page(kind, path.stem, constant)
            # A lookup may have the name of a module.
            where = f"{path.stem}.md" if kind == "modules" else f"{kind}_{path.stem}.md"
            found[f"modules/{where}"] = text
            index.append(f"- [{path.stem}]({where}): {short}")
    found["modules/index.md"] = "\n".join(index) + "\n"
    return found
