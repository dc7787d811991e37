# SPDX-License-Identifier: Apache-2.0
"""What becomes of the tree's texts in the published collection, and what is refused because it would not work there."""

from __future__ import annotations

import ast
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from release.collection import Carried, CollectionError, named, needed, normal, sanity_ignored, stage, with_full_names
from release.tree import links_followed
from release.version import Version
from trainyard.paths import ROOT

HOME = ROOT / "collections/ansible_collections/trainyard/neuron"
ROLES = ["nvme_raid", "model_weights"]
BOOKS = {"preflight": "playbooks/preflight.yml", "site": "playbooks/site.yml", "unlock": "playbooks/unlock.yml"}


def test_roles_and_playbooks_get_their_full_names_in_every_form() -> None:
    text = """---
# Usage: see below
- name: Plan
  ansible.builtin.import_playbook: playbooks/preflight.yml
- hosts: neuron
  roles:
    - nvme_raid # first
    - model_weights
  tasks: []
- hosts: neuron
  roles:
    - role: nvme_raid
      tags: [nvme_raid]
    - {role: trainyard.neuron.model_weights}
  tasks:
    - ansible.builtin.include_role:
        tasks_from: start
        name: model_weights
      tags:
        - nvme_raid
    - ansible.builtin.import_role: {name: nvme_raid}
    - ansible.builtin.user: {name: nvme_raid}
"""
    made = with_full_names(text, "x.yml", ROLES, BOOKS)
    book, first, second = yaml.safe_load(made)
    assert book["ansible.builtin.import_playbook"] == "trainyard.neuron.preflight"
    assert first["roles"] == ["trainyard.neuron.nvme_raid", "trainyard.neuron.model_weights"]
    assert second["roles"][0] == {"role": "trainyard.neuron.nvme_raid", "tags": ["nvme_raid"]}
    include, imported, user = second["tasks"]
    assert include["ansible.builtin.include_role"]["name"] == "trainyard.neuron.model_weights"
    assert include["tags"] == ["nvme_raid"]
    assert imported["ansible.builtin.import_role"] == {"name": "trainyard.neuron.nvme_raid"}
    assert user["ansible.builtin.user"] == {"name": "nvme_raid"}
    assert "# first" in made
    assert with_full_names(made, "x.yml", ROLES, BOOKS) == made


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- hosts: a\n  roles: [unknown]\n", "'unknown' is no full name"),
        ("- hosts: a\n  roles: [{role: '{{ x }}'}]\n", "is no full name"),
        ("- ansible.builtin.import_playbook: other.yml\n", "'other.yml' is no full name"),
        ("- hosts: a\n  tasks:\n    - include_role: {name: elsewhere}\n", "'elsewhere' is no full name"),
        ("dependencies: [{role: elsewhere}]\n", "'elsewhere' is no full name"),
        ("- hosts: a\n  vars: {x: '{{ playbook_dir }}/x'}\n", "playbook_dir"),
    ],
)
def test_what_would_not_be_found_there_is_refused(text: str, why: str) -> None:
    with pytest.raises(CollectionError, match=r"playbooks/x\.yml: ") as refused:
        with_full_names(text, "playbooks/x.yml", ROLES, BOOKS)
    assert why in str(refused.value)


def test_the_root_of_a_checkout_becomes_where_the_user_stands() -> None:
    text = "- hosts: a\n  vars: {x: \"{{ y | default(playbook_dir | dirname ~ '/results') }}\"}\n"
    assert "lookup('ansible.builtin.env', 'PWD') ~ '/results'" in with_full_names(text, "x.yml", ROLES, BOOKS)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("run playbooks/preflight.yml, or site.yml.", "run trainyard.neuron.preflight, or trainyard.neuron.site."),
        ('"ansible-playbook playbooks/unlock.yml -i x"', '"ansible-playbook trainyard.neuron.unlock -i x"'),
        ("`playbooks/other.yml`", "`playbooks/other.yml`"),
        ("[it](../../playbooks/preflight.yml)", "[it](../../playbooks/preflight.yml)"),
        ("a/site.yml my-site.yml", "a/site.yml my-site.yml"),
    ],
)
def test_a_playbook_is_spoken_of_by_the_name_that_it_has_there(text: str, made: str) -> None:
    assert named(text, BOOKS) == made


def test_a_link_leads_to_what_is_carried_or_into_the_repository() -> None:
    here = Carried({"roles/a/README.md": "roles/a/README.md", "c/h/meta/runtime.yml": "meta/runtime.yml"})

    def followed(text: str) -> str:
        return links_followed(text, "roles/b/README.md", "roles/b/README.md", here.place, "v1.0.0")

    assert followed("[a](../a/README.md#x)") == "[a](../a/README.md#x)"
    assert followed("[a](../a)") == "[a](../a)"
    assert followed("[m](../../c/h/meta/runtime.yml)") == "[m](../../meta/runtime.yml)"
    assert followed("[d](../../docs/x.md#y)") == ("[d](https://github.com/trainyard/trainyard/blob/v1.0.0/docs/x.md#y)")
    assert followed("[w](https://example.com/a) [h](#here)") == "[w](https://example.com/a) [h](#here)"


def staged(folder: Path, files: dict[str, str]) -> Path:
    for way, text in files.items():
        (folder / "made" / way).parent.mkdir(parents=True, exist_ok=True)
        (folder / "made" / way).write_text(text, encoding="utf-8")
    return folder / "made"


def lock(folder: Path, **versions: str) -> Path:
    rows: list[dict[str, Any]] = [{"name": name.replace("_", "."), "version": say} for name, say in versions.items()]
    (folder / "requirements.yml").write_text(yaml.safe_dump({"collections": rows}), encoding="utf-8")
    return folder / "requirements.yml"


def test_collections_that_are_used_are_declared_at_the_versions_of_the_lock(tmp_path: Path) -> None:
    made = staged(
        tmp_path,
        {
            "roles/a/tasks/main.yml": "- name: X\n  community.aws.elb_target: {}\n- ansible.builtin.debug: {}\n",
            "playbooks/a.yml": "- hosts: a\n  vars: {x: \"{{ lookup('amazon.aws.ssm_parameter', 'x') }}\"}\n",
            "plugins/modules/a.py": "from ansible_collections.ansible.posix.plugins import x\n",
            "inventory/a.yml": "a.b.c: 1\n",
        },
    )
    versions = lock(tmp_path, amazon_aws=">=10.1.2", community_aws=">=10.0.0", ansible_posix=">=2.1.0", x_y=">=1")
    assert needed(made, versions) == {"amazon.aws": ">=10.1.2", "ansible.posix": ">=2.1.0", "community.aws": ">=10.0.0"}
    with pytest.raises(CollectionError, match=r"community\.aws is used and not in requirements\.yml"):
        needed(made, lock(tmp_path, amazon_aws=">=10.1.2", ansible_posix=">=2.1.0"))


def archive_of(names: list[str], mtime: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid = len(name), mtime, mtime
            tar.addfile(member, io.BytesIO(name.encode()))
    return packed.getvalue()


def test_the_same_files_make_the_same_archive() -> None:
    first, second = normal(archive_of(["b", "a"], 5), 1_700_000_000), normal(archive_of(["a", "b"], 9), 1_700_000_000)
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first), mode="r:gz") as tar:
        assert [(one.name, one.mtime, one.uid) for one in tar] == [("a", 1_700_000_000, 0), ("b", 1_700_000_000, 0)]


def test_what_sanity_may_find_is_said_for_each_file_with_its_reason(tmp_path: Path) -> None:
    made = staged(tmp_path, {"plugins/modules/b.py": "", "plugins/modules/a.py": ""})
    said = sanity_ignored(made, "# head\n\nplugins/modules/*.py validate-modules:x # the licence\n")
    assert said == (
        "plugins/modules/a.py validate-modules:x # the licence\nplugins/modules/b.py validate-modules:x # the licence\n"
    )
    said = sanity_ignored(made, "plugins/modules/a.py import # a library\n", ("3.11", "3.12"))
    assert said == "plugins/modules/a.py import-3.11 # a library\nplugins/modules/a.py import-3.12 # a library\n"
    for core, since in (
        ("2.20", ""),
        ("2.21", "plugins/modules/a.py pylint:y # why\n"),
        ("2.100", "plugins/modules/a.py pylint:y # why\n"),
    ):
        assert sanity_ignored(made, "plugins/modules/a.py pylint:y@2.21 # why\n", (), core) == since
    with pytest.raises(CollectionError, match="no such file"):
        sanity_ignored(made, "plugins/modules/gone.py validate-modules:x # why")
    with pytest.raises(CollectionError, match="no reason"):
        sanity_ignored(made, "plugins/modules/a.py validate-modules:x")


def named_for(test: str) -> set[str]:
    """The files that the ignore file names for a test, in whatever version of ansible-core."""
    rows = (line.split(" ") for line in (ROOT / "release/sanity_ignore.txt").read_text(encoding="utf-8").splitlines())
    return {row[0] for row in rows if len(row) > 2 and row[1].partition("@")[0] == test}


def trees() -> dict[str, ast.Module]:
    """The collection's plugins, by path."""
    return {str(path.relative_to(HOME)): ast.parse(path.read_bytes()) for path in HOME.glob("plugins/**/*.py")}


def needing(library: str, parsed: Mapping[str, ast.Module]) -> set[str]:
    """Files that import a library when they are imported, or one of the collection that does."""

    def imported(tree: ast.Module) -> set[str]:
        found = set()
        for node in tree.body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        return found

    prefix = "ansible_collections.trainyard.neuron."
    wanted = {path: imported(tree) for path, tree in parsed.items()}
    names = {prefix + path.removesuffix(".py").replace("/", "."): path for path in parsed}
    found = {path for path, all_of in wanted.items() if any(name.split(".")[0] == library for name in all_of)}
    while more := {
        path
        for path, all_of in wanted.items()
        if path not in found and any(names.get(name) in found for name in all_of)
    }:
        found |= more
    return found


def test_what_sanity_would_find_is_named_as_soon_as_it_is_written() -> None:
    """Three findings that come with nearly every change; ansible-test itself is asked before a release."""
    parsed = trees()
    assert needing("pydantic", parsed) == named_for("import")
    thrown_away = {
        path
        for path, tree in parsed.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "_" and isinstance(node.ctx, ast.Store)
    }
    assert thrown_away == {path for path in named_for("pylint:disallowed-name") if path.startswith("plugins/")}
    runs = {
        path
        for path, tree in parsed.items()
        for node in ast.walk(tree)
        if path.startswith(("plugins/module_utils/", "plugins/modules/"))
        and isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"subprocess.run", "subprocess.Popen"}
    }
    assert runs <= named_for("pylint:ansible-bad-function")


def test_all_of_the_tree_can_be_published(tmp_path: Path) -> None:
    here = stage(ROOT, tmp_path / "made", Version("1.0.0", "1.0.0"), "v1.0.0")
    assert set(here.roles) == {path.parent.parent.name for path in ROOT.glob("roles/*/tasks/main.yml")}
    assert set(here.playbooks) == {"site", *(path.stem for path in ROOT.glob("playbooks/*.yml"))}
