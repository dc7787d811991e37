# SPDX-License-Identifier: Apache-2.0
"""Writes docs/recipes.md: both recipes beside their sources, each value looked up where it is rendered from.

python docs/recipe_tables.py            writes
python docs/recipe_tables.py --check    fails, with a diff, where the page is not current
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "collections"), str(ROOT / "src")]

from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark.presets import PRESETS  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import container, settings  # noqa: E402

from trainyard.plan_command import plan_or_exit  # noqa: E402

ROWS = Path(__file__).with_name("recipes.yml")
PAGE = Path(__file__).with_name("recipes.md")
INVENTORY = "inventory/trn2"
VERDICTS = ("same", "changed", "left out", "added")

INTRO = """# The two recipes beside their sources

Written by `docs/recipe_tables.py` from [recipes.yml](recipes.yml) and from the plan of `inventory/trn2`; a test holds
it to both. "Ours" is looked up where it is rendered from. Every flag and every variable that a compile or a server gets
has a line, and what differs from the source says why.
"""


class Rendered:
    """What one recipe comes to: the plan's first replica, its artifact, its host, its load."""

    def __init__(self, plan: Mapping[str, Any], deployment: str) -> None:
        self.plan = plan
        hosts = [
            (host, [row for row in host["replicas"] if row["deployment"] == deployment])
            for host in plan["hosts"].values()
        ]
        self.host, self.replicas = next((host, rows) for host, rows in hosts if rows)
        self.replica = self.replicas[0]
        self.artifact = next(row for row in self.host["artifacts"] if row["digest"] == self.replica["artifact"])
        self.sdk = self.host["sdk"][0]
        self.load = PRESETS[deployment]

    def flags(self, argv: Sequence[str]) -> dict[str, str]:
        """The flags of a command line with their values; `set` for those that take none."""
        found = {}
        for at, word in enumerate(argv):
            if word.startswith("--"):
                following = argv[at + 1] if at + 1 < len(argv) else "--"
                found[word] = "set" if following.startswith("--") else following
        return found

    def container(self) -> list[str]:
        """The words that the container engine gets for the first replica, before the server's own command."""
        if self.replica["runtime"] != "container":
            return []
        known = {key: value for key, value in self.replica.items() if key in settings.Replica.__dataclass_fields__}
        words = list(container.command(settings.parse(json.dumps(known)), []))
        return words[: words.index(self.replica["image"])]

    def value(self, where: str) -> str | None:
        """What `where` leads to, as text; None where nothing of that name is rendered.

        Raises:
            KeyError: `where` names no place that there is.
        """
        place, _, name = where.partition(":")
        serve, compiled = self.flags(self.replica["argv"]), self.flags(self.artifact["argv"])
        if place in ("serve", "compile") and name.startswith("--"):
            return {"serve": serve, "compile": compiled}[place].get(name)
        if place in ("serve-env", "compile-env"):
            return {"serve-env": self.replica, "compile-env": self.artifact}[place]["environment"].get(name)
        if place == "role":
            return self._of_role(*name.split(":"))
        if place == "container":
            words = self.container()
            found = [words[at + 1] for at, word in enumerate(words) if word == name]
            return ", ".join(found) or (name if name in " ".join(words) else None)
        rows: dict[str, Any] = {
            "replica": self.replica,
            "second": self.replicas[1] if len(self.replicas) > 1 else {},
            "host": self.host,
            "sdk": self.sdk,
            "load": self.load,
            "serve": self._program(self.replica["argv"]),
            "compile": {"program": Path(self.artifact["argv"][0]).name},
            "plan": {"replicas": len(self.replicas), "router": f"port {self.plan['router']['port']} of the router"},
        }
        found = rows[place]
        for part in name.split("."):
            found = found[part]
        return found if isinstance(found, str) else json.dumps(found)

    @staticmethod
    def _program(argv: Sequence[str]) -> dict[str, str]:
        if "-m" in argv:
            return {"module": argv[argv.index("-m") + 1]}
        return {"program": " ".join(argv[:2]), "model": argv[2]}

    @staticmethod
    def _of_role(role: str, variable: str) -> str:
        folder = ROOT / "roles" / role / ("vars" if variable.startswith("__") else "defaults")
        return str(yaml.safe_load((folder / "main.yml").read_text(encoding="utf-8"))[variable])


def recipes() -> list[dict[str, Any]]:
    """The recipes of the data file."""
    return list(yaml.safe_load(ROWS.read_text(encoding="utf-8")))


def rows_of(recipe: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a recipe, through all of its sections."""
    for section in recipe["sections"]:
        yield from section["rows"]


def faults(recipe: Mapping[str, Any], rendered: Rendered) -> list[str]:
    """What is wrong with the lines of a recipe: a verdict that does not hold, no reason, something that has no line."""
    found = []
    for row in rows_of(recipe):
        value, theirs = rendered.value(row["where"]), row.get("theirs")
        said = f"{recipe['deployment']}: {row['where']} is {value}"
        if row["verdict"] not in VERDICTS:
            found.append(f"{said}: {row['verdict']} is no verdict")
        if row["verdict"] == "same" and "note" not in row and not _equal(value, theirs):
            found.append(f"{said} and not {theirs}, which is what `same` says")
        if row["verdict"] != "same" and not row.get("why"):
            found.append(f"{said}, {row['verdict']}, and nobody says why")
        if (row["verdict"] == "left out") != (value is None):
            found.append(f"{said}, and it is said to be {row['verdict']}")
        if (row["verdict"] == "added") != (theirs is None):
            found.append(f"{said}, {row['verdict']}, and the source says {theirs}")
    told = {row["where"] for row in rows_of(recipe)}
    for place, row in (("serve", rendered.replica), ("compile", rendered.artifact)):
        given = [f"{place}:{flag}" for flag in rendered.flags(row["argv"])]
        given += [f"{place}-env:{name}" for name in row["environment"]]
        found += [f"{recipe['deployment']}: {where} has no line" for where in given if where not in told]
    return found


def _equal(value: str | None, theirs: str | None) -> bool:
    try:
        return float(str(value)) == float(str(theirs))
    except ValueError:
        return value == theirs


def page() -> str:
    """The whole page."""
    plan = plan_or_exit([str(ROOT / INVENTORY)])
    lines = [INTRO]
    for recipe in recipes():
        rendered = Rendered(plan, recipe["deployment"])
        lines += [f"## {recipe['title']}", f"Source: {recipe['source']}. Deployment: `{recipe['deployment']}`.", ""]
        for section in recipe["sections"]:
            lines += [f"### {section['title']}", *([section["intro"]] if "intro" in section else []), ""]
            lines += ["| what | the source | ours | | why |", "| --- | --- | --- | --- | --- |"]
            for row in section["rows"]:
                ours = rendered.value(row["where"])
                cells = [
                    _code(row["what"]) if row["what"].startswith("-") or row["what"].isupper() else row["what"],
                    row.get("theirs", ""),
                    "" if ours is None else _code(ours),
                    row["verdict"],
                    row.get("why") or row.get("note") or "",
                ]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _code(text: str) -> str:
    """A value as code, shortened where it is a digest or a long path."""
    return f"`{text}`" if len(text) <= 90 else f"`{text[:87]}...`"


def main() -> int:
    """Write the page, or say how it differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not current")
    arguments = parser.parse_args()
    wanted, present = page(), PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if arguments.check:
        lines = difflib.unified_diff(present.splitlines(True), wanted.splitlines(True), "docs/recipes.md", "current")
        sys.stdout.writelines(lines)
        return int(wanted != present)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
