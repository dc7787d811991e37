# SPDX-License-Identifier: Apache-2.0
"""What the product says when something is wrong, collected from its own code, to be searched by the text.

python docs/messages.py            writes the first table of docs/troubleshooting.md, of the texts in a server's log
python docs/messages.py --check    fails, with a diff, where that table is not current
python docs/messages.py --page     prints every message, as `make docs` has it on a page of its own

The other messages change too often to be kept in the tree: the site's page is made of them when it is built.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "collections/ansible_collections/trainyard/neuron/plugins"
PAGE = ROOT / "docs/troubleshooting.md"
BEGIN, END = "<!-- Texts: written by docs/messages.py from module_utils/serving/phases.py -->", "<!-- End of texts -->"

CLASSES = {
    "fix": "configuration, by whoever wrote it",
    "retry": "nothing is broken; systemd starts it again",
    "replace": "hardware, by giving the host back",
}

#: Calls whose arguments are a message, and in which of them it and its way out stand (None: in the text itself).
CALLS: dict[str, tuple[int, int | None]] = {
    "Problem": (3, 4),
    "BadValueError": (0, 1),
    "JobError": (0, 2),
    "TopologyError": (1, None),
    **dict.fromkeys(
        (
            "ArtifactError",
            "AskError",
            "BadNameError",
            "BindingError",
            "BrokenStatesError",
            "ClientError",
            "ConfigError",
            "FenceError",
            "FileError",
            "ImageError",
            "InventoryError",
            "LabError",
            "LockHeldError",
            "LockLostError",
            "ManifestError",
            "PeerError",
            "ProbeError",
            "RefusedError",
            "ReleaseError",
            "RenderError",
            "ReportError",
            "RollError",
            "RouterError",
            "RunError",
            "RunPlanError",
            "SdkError",
            "ServingError",
            "SourceError",
            "SpecError",
            "StateError",
            "StepError",
            "StorageError",
            "StoreError",
            "TreeError",
            "UnitError",
            "UnreachableError",
            "UnwantedError",
            "VacateError",
            "VenvError",
        ),
        (0, None),
    ),
}

#: Where a message comes up, by the directory of its code.
AREAS = (
    ("plugin_utils/plan", "The plan and preflight"),
    ("module_utils/plan", "The plan and preflight"),
    ("module_utils/storage", "The data volume"),
    ("module_utils/sdk", "The Neuron SDK"),
    ("module_utils/venv", "The Neuron SDK"),
    ("module_utils/host_packages", "The Neuron SDK"),
    ("module_utils/jobs", "Weights and compiled artifacts"),
    ("module_utils/job", "Weights and compiled artifacts"),
    ("module_utils/serving", "Serving"),
    ("module_utils/units", "Serving"),
    ("module_utils/routing", "The router"),
    ("module_utils/roll", "Redeploys and the lock"),
    ("plugin_utils/roll", "Redeploys and the lock"),
    ("plugin_utils/run", "Redeploys and the lock"),
    ("module_utils/benchmark", "Benchmarks"),
    ("plugin_utils/report", "Benchmarks"),
    ("src/trainyard/report", "Benchmarks"),
    ("src/trainyard/sweep", "Sweeps"),
    ("src/trainyard/lab", "The lab"),
    ("src/trainyard", "The command line"),
    ("", "Modules and playbooks"),
)


def rules() -> tuple[Any, ...]:
    """The classifier of a server's log."""
    spec = importlib.util.spec_from_file_location("phases", PLUGINS / "module_utils/serving/phases.py")
    if spec is None or spec.loader is None:
        raise SystemExit("no module_utils/serving/phases.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["phases"] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return tuple(module.RULES)


def texts(pattern: str) -> list[str]:
    """A pattern as the texts that it stands for, `...` where anything may be and `N` for a number."""
    found = [" ".join(text.split()) for text in _texts(list(parser.parse(pattern)))]
    return list(dict.fromkeys(found))


def _texts(items: list[Any]) -> list[str]:
    """The texts of a parsed pattern, every alternative one of its own."""
    found = [""]
    for kind, value in items:
        found = [begun + more for begun in found for more in _one(kind, value)]
    return found


def _one(kind: Any, value: Any) -> list[str]:
    """The texts of one part of a parsed pattern."""
    if kind is sre.LITERAL:
        return [chr(value)]
    if kind is sre.SUBPATTERN:
        return _texts(list(value[-1]))
    if kind is sre.BRANCH:
        return [text for branch in value[1] for text in _texts(list(branch))]
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, most, inner = value
        repeated = _texts(list(inner))
        if repeated == ["."]:
            return ["..."]
        return repeated if least else [*repeated, ""] if most == 1 else repeated
    if kind is sre.IN:
        if value[0][0] is sre.CATEGORY:
            return ["N"]
        letters = [chr(one) for each, one in value if each is sre.LITERAL]
        # [Hh] is one text, [23] are two.
        return list({letter.lower(): letter for letter in reversed(letters)}.values())[::-1]
    return ["."] if kind is sre.ANY else [""]


def log_table() -> str:
    """The texts of a server's log with what they mean and ask for."""
    lines = ["| the log says | it is | cause | next |", "| --- | --- | --- | --- |"]
    for pattern, kind, cause, action in rules():
        said = "<br>".join(f"`{text}`" for text in texts(pattern.pattern))
        lines.append(f"| {_cell(said)} | {kind} | {_cell(cause)} | {_cell(action)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def collected() -> dict[str, list[tuple[str, str]]]:
    """Every message with its way out, by area, in the order of the files."""
    found: dict[str, list[tuple[str, str]]] = {name: [] for _, name in AREAS}
    for path in sorted([*PLUGINS.rglob("*.py"), *(ROOT / "src").rglob("*.py")]):
        place = str(path.relative_to(PLUGINS if PLUGINS in path.parents else ROOT))
        area = next(name for begin, name in AREAS if place.startswith(begin))
        for row in _of_python(path):
            if row not in found[area]:
                found[area].append(row)
    for path in sorted([ROOT / "site.yml", *ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")]):
        found["Modules and playbooks"] += list(_of_yaml(path))
    return {area: rows for area, rows in found.items() if rows}


def _of_python(path: Path) -> Iterator[tuple[str, str]]:
    """The messages of a file, in its order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = _constants(tree)
    for scope in ast.walk(tree):
        if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        calls = [node for node in ast.walk(scope) if isinstance(node, ast.Call) and _name(node) in CALLS]
        for call in sorted(calls, key=lambda node: node.lineno):
            said, way = CALLS[_name(call)]
            values = [*call.args, *(keyword.value for keyword in call.keywords)]
            if len(values) <= said:
                continue
            text, fix = (
                _known(_text(values[at], scope, call.lineno), constants) if at is not None and len(values) > at else ""
                for at in (said, way)
            )
            if re.search(r"[a-z]{3}", re.sub(r"<[^>]*>", "", text)):
                yield text, fix


def _constants(tree: ast.Module) -> dict[str, str]:
    """The texts that a module gives a name at its top."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _known(text: str, constants: dict[str, str]) -> str:
    """A message with the module's own constants put in."""
    return re.sub(r"<([A-Z_]+)>", lambda found: constants.get(found[1], found[0]), text)


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _text(node: ast.expr, scope: ast.AST, line: int) -> str:
    """What an expression says, with `<...>` for what is known only when it happens."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, scope, line) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return _filled(_text(node.left, scope, line), node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, scope, line) + _text(node.right, scope, line)
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "format":
        return re.sub(r"\{[^}]*\}", "<...>", _text(node.func.value, scope, line))  # type: ignore[attr-defined]
    if isinstance(node, ast.Name):
        value = _assigned(node.id, scope, line)
        return _text(value, scope, line) if value is not None else f"<{node.id}>"
    if isinstance(node, ast.FormattedValue):
        inner = node.value
        return _text(inner, scope, line) if isinstance(inner, ast.Constant) else f"<{_short(inner)}>"
    return f"<{_short(node)}>"


def _filled(form: str, values: ast.expr) -> str:
    """A `%` form with the names of what is put into it."""
    names = [_short(value) for value in (values.elts if isinstance(values, ast.Tuple) else [values])]
    parts = re.split(r"%(?:\(\w+\))?[-0-9.]*[sdrfgx]", form)
    if len(parts) != len(names) + 1:
        names = ["..."] * (len(parts) - 1)
    filled = parts[0] + "".join(f"<{name}>{part}" for name, part in zip(names, parts[1:], strict=True))
    return filled.replace("%%", "%")


def _short(node: ast.expr) -> str:
    """A name for a value: its last word."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return "..."


def _assigned(name: str, scope: ast.AST, line: int) -> ast.expr | None:
    """What a name of a function was last given before a line, if that can be seen."""
    found: ast.expr | None = None
    given = [node for node in ast.walk(scope) if isinstance(node, ast.Assign) and node.lineno <= line]
    for node in sorted(given, key=lambda node: node.lineno):
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name and not _mentions(node.value, name):
                found = node.value
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for one, value in zip(target.elts, node.value.elts, strict=False):
                    if isinstance(one, ast.Name) and one.id == name and not _mentions(value, name):
                        found = value
    return found


def _mentions(node: ast.expr, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node))


def _of_yaml(path: Path) -> Iterator[tuple[str, str]]:
    """The messages of the tasks that refuse."""
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        yield from _of_tasks(document)


def _of_tasks(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for item in value:
            yield from _of_tasks(item)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key == "fail_msg" or (key == "msg" and "ansible.builtin.fail" not in value):
                text = re.sub(r"\{\{\s*(\w+).*?\}\}", r"<\1>", str(inner), flags=re.DOTALL)
                if re.search(r"[a-z]{3}", re.sub(r"<[^>]*>", "", text)):
                    yield text, ""
            else:
                yield from _of_tasks(inner)


def _code(text: str) -> str:
    """A message as a cell; HTML must not take its angle brackets for its own."""
    return _cell(text).replace("<", "&lt;").replace(">", "&gt;")


def page() -> str:
    """Every message, as a page."""
    found = collected()
    count = sum(len(rows) for rows in found.values())
    text = [
        "# Every message",
        "",
        f"The {count} refusals and failures that trainyard can say, collected from its code: search this page, or the",
        "site, for the words that you see. What stands in angle brackets is filled in when it happens. A message with",
        "no word in the second column has what to do in its own text. What a server's log says is in",
        "[Troubleshooting](troubleshooting.md).",
        "",
    ]
    for area, rows in found.items():
        text += [f"## {area}", "", "| message | fix |", "| --- | --- |"]
        text += [f"| {_code(said)} | {_code(fix)} |" for said, fix in rows]
        text.append("")
    return "\n".join(text)


def wanted() -> str:
    """What docs/troubleshooting.md is to be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{log_table()}\n\n{END}{rest.partition(END)[2]}"


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 if `--check` found that the table is not current."""
    arguments = argparse.ArgumentParser(description="Collect what the product says when something is wrong.")
    arguments.add_argument("--check", action="store_true", help="change nothing, fail where something would change")
    arguments.add_argument("--page", action="store_true", help="print every message as Markdown")
    given = arguments.parse_args(argv)
    if given.page:
        sys.stdout.write(page())
        return 0
    found, current = PAGE.read_text(encoding="utf-8"), wanted()
    if found == current:
        return 0
    if not given.check:
        PAGE.write_text(current, encoding="utf-8")
        return 0
    lines = (text.splitlines(keepends=True) for text in (found, current))
    sys.stdout.writelines(difflib.unified_diff(*lines, str(PAGE), "current"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
