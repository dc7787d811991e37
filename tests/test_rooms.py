# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: each room by who runs its code, and no room what stands above it. Every import is read."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainyard.paths import ROOT

COLLECTION = "ansible_collections.trainyard.neuron"
HOME = "collections/ansible_collections/trainyard/neuron"
MODULE_UTILS = f"{COLLECTION}.plugins.module_utils"
PLUGIN_UTILS = f"{COLLECTION}.plugins.plugin_utils"
OLDEST_PYTHON = (3, 9)
#: Libraries that a program of hosts finds in the environment that its role makes for it, and no module imports; what
#: runs on the controller has its own.
IN_THEIR_ENVIRONMENT = {
    f"{HOME}/plugins/module_utils/jobs/store.py": ("boto3", "botocore"),
    f"{HOME}/plugins/module_utils/jobs/weights.py": ("huggingface_hub",),
    f"{HOME}/plugins/modules/elb_targets.py": ("boto3", "botocore"),
    f"{HOME}/plugins/plugin_utils/ec2_blocks.py": ("boto3", "botocore"),
    f"{HOME}/plugins/plugin_utils/ec2_events.py": ("boto3", "botocore"),
    **{
        f"{HOME}/plugins/modules/{name}.py": ("botocore", "ansible_collections.amazon.aws.plugins.module_utils")
        for name in ("capacity_block", "capacity_block_extension", "capacity_block_info", "trainium_instances")
    },
}


@dataclass(frozen=True)
class Room:
    """A part of the tree, and what beside the standard library its files may import."""

    folder: str
    may: tuple[str, ...]


ROOMS = (
    Room(f"{HOME}/plugins/module_utils", (MODULE_UTILS,)),
    Room(f"{HOME}/plugins/modules", (MODULE_UTILS, "ansible.module_utils")),
    Room(f"{HOME}/plugins/plugin_utils", (MODULE_UTILS, PLUGIN_UTILS, "ansible", "jinja2", "pydantic", "yaml")),
    Room(f"{HOME}/plugins/action", (MODULE_UTILS, PLUGIN_UTILS, f"{COLLECTION}.plugins.action", "ansible")),
    Room(f"{HOME}/plugins/callback", (MODULE_UTILS, PLUGIN_UTILS, "ansible")),
    Room(f"{HOME}/plugins/filter", (MODULE_UTILS, PLUGIN_UTILS, "ansible")),
    Room(f"{HOME}/plugins/inventory", (MODULE_UTILS, PLUGIN_UTILS, "ansible")),
    Room(f"{HOME}/plugins/lookup", (MODULE_UTILS, PLUGIN_UTILS, "ansible")),
    Room(f"{HOME}/plugins/doc_fragments", ()),
    Room(
        "src",
        (
            *("trainyard", MODULE_UTILS, PLUGIN_UTILS),
            *("ansible", "ansible_runner", "boto3", "botocore", "httpx", "jinja2", "rich", "typer", "yaml"),
        ),
    ),
    Room("release", ("release", "yaml")),
    Room("lab", ("lab", "cryptography", "moto", "numpy", "tokenizers", "werkzeug")),
)
ON_HOSTS = (f"{HOME}/plugins/modules", f"{HOME}/plugins/module_utils")


def imports_of(tree: ast.AST, module: str, package: bool) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, wherever in it; what is relative is made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".") if node.module else []
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + package] + base
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def within(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def module_of(path: Path, root: Path) -> str:
    """The dotted name that a file has for those who import it."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[0] in {"collections", "src"}:
        parts = parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wrong_imports(root: Path, room: Room) -> list[str]:
    """Where files of a room import what they may not."""
    found = []
    for path in sorted((root / room.folder).rglob("*.py")):
        name = str(path.relative_to(root))
        may = room.may + IN_THEIR_ENVIRONMENT.get(name, ())
        tree = ast.parse(path.read_text(encoding="utf-8"), name)
        for line, imported in imports_of(tree, module_of(path, root), path.name == "__init__.py"):
            if imported.split(".")[0] not in sys.stdlib_module_names and not within(imported, may):
                found.append(f"{name}:{line} imports {imported}")
    return found


@pytest.mark.parametrize("room", ROOMS, ids=[room.folder.removeprefix(f"{HOME}/") for room in ROOMS])
def test_a_room_imports_only_what_it_may(room: Room) -> None:
    assert list((ROOT / room.folder).rglob("*.py")), f"{room.folder} is empty: the rule has nothing to hold"
    assert wrong_imports(ROOT, room) == []


def test_every_plugin_is_in_a_room() -> None:
    folders = {path.parent for path in (ROOT / HOME / "plugins").rglob("*.py")}
    rooms = [ROOT / room.folder for room in ROOMS]
    assert [folder for folder in folders if not any(folder.is_relative_to(room) for room in rooms)] == []


@pytest.mark.parametrize("folder", ON_HOSTS, ids=["modules", "module_utils"])
def test_what_hosts_run_has_the_syntax_of_the_oldest_python(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=OLDEST_PYTHON)


def test_the_tests_of_the_collection_need_nothing_of_the_toolkit() -> None:
    room = Room(
        f"{HOME}/tests", (COLLECTION, "ansible", "hypothesis", "jinja2", "jsonschema", "pydantic", "pytest", "yaml")
    )
    assert wrong_imports(ROOT, room) == []


def test_the_tests_of_the_collection_lie_where_ansible_test_looks() -> None:
    tests = list((ROOT / HOME / "tests/unit").rglob("test_*.py"))
    assert tests
    assert [path for path in tests if not path.is_relative_to(ROOT / HOME / "tests/unit/plugins")] == []


@pytest.mark.parametrize(
    ("file", "line", "room"),
    [
        ("plugins/modules/thing.py", f"from {PLUGIN_UTILS}.plan import plan", 1),
        ("plugins/modules/thing.py", "import yaml", 1),
        ("plugins/module_utils/plan/thing.py", "from ...modules import units", 0),
        ("plugins/module_utils/plan/thing.py", "from ...plugin_utils.plan import plan", 0),
        ("plugins/module_utils/plan/thing.py", "def late():\n    import boto3", 0),
        ("plugins/plugin_utils/thing.py", "from trainyard import paths", 2),
        ("plugins/plugin_utils/thing.py", "from tests import stand_in", 2),
        ("plugins/action/thing.py", "import lab.services", 3),
    ],
)
def test_an_import_upwards_is_found(tmp_path: Path, file: str, line: str, room: int) -> None:
    path = tmp_path / HOME / file
    path.parent.mkdir(parents=True)
    path.write_text(f"import json\nfrom {MODULE_UTILS} import units\n\n{line}\n", encoding="utf-8")
    (found,) = wrong_imports(tmp_path, ROOMS[room])
    assert found.startswith(f"{HOME}/{file}:{4 + line.count(chr(10))} imports ")


def test_syntax_that_the_oldest_python_does_not_have_is_found() -> None:
    with pytest.raises(SyntaxError):
        ast.parse("match 1:\n    case _:\n        pass\n", feature_version=OLDEST_PYTHON)


def test_no_file_is_let_off_for_what_it_does_not_import() -> None:
    for name, libraries in IN_THEIR_ENVIRONMENT.items():
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        imported = [found for _, found in imports_of(tree, "", package=False)]
        assert [one for one in libraries if not any(within(found, (one,)) for found in imported)] == [], name
