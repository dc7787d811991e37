# SPDX-License-Identifier: Apache-2.0
"""What `make dist` makes works by itself: in an empty directory, in an environment that knows no checkout."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from release.__main__ import make
from release.version import Version
from trainyard.paths import ROOT

VERSION = Version("9.8.7rc6", "9.8.7-rc.6", 1_700_000_000)


@dataclass(frozen=True)
class Place:
    """An empty directory with an environment of its own beside it."""

    folder: Path
    python: Path
    wheel: Path
    archive: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        dropped = ("ANSIBLE_", "PYTHON", "TRAINYARD_", "VIRTUAL_ENV")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        clean |= {
            "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder.parent / "home"),
            "PWD": str(self.folder),
        }
        return subprocess.run(words, cwd=self.folder, env=clean, capture_output=True, text=True, check=False)

    def trainyard(self, *words: str) -> str:
        done = self.run(str(self.python.parent / "trainyard"), *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ansible(self, *words: str) -> str:
        done = self.run(str(self.python), "-m", "ansible", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Both artifacts installed. The environment has this one's libraries, but no module of the toolkit."""
    root = tmp_path_factory.mktemp("published")
    archive, wheel, _sums = make(ROOT, root / "dist", VERSION)
    venv.create(root / "venv", with_pip=False)
    python = root / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", str(wheel)], check=True)
    # A line of a .pth file is a folder to look in; the editable checkout, in a .pth of that folder, is not followed.
    site = Path(sysconfig.get_path("purelib", vars={"base": str(root / "venv")}))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (root / "empty").mkdir()
    (root / "home").mkdir()
    made = Place(root / "empty", python, wheel, archive)
    made.ansible("galaxy", "collection", "install", str(archive), "--no-deps", "-p", "collections")
    return made


def test_both_have_the_version_of_the_tag_and_a_digest(place: Place) -> None:
    assert place.archive.name == "trainyard-neuron-9.8.7-rc.6.tar.gz"
    assert place.wheel.name == "trainyard-9.8.7rc6-py3-none-any.whl"
    sums = dict(reversed(line.split()) for line in (place.wheel.parent / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (place.archive, place.wheel)}
    said = place.trainyard("--version")
    assert said.startswith("trainyard 9.8.7rc6\ntrainyard.neuron 9.8.7-rc.6 in ")
    assert str(ROOT) not in said


def test_the_wheel_is_made_of_files_of_one_date(place: Place) -> None:
    with zipfile.ZipFile(place.wheel) as wheel:
        rows = wheel.infolist()
    assert {row.date_time[0] for row in rows} == {2023}
    hosts = next(row for row in rows if row.filename.endswith("project/inventory/lab/hosts.py"))
    assert hosts.external_attr >> 16 & 0o100
    assert [row.filename for row in rows if "/tests/unit/" in row.filename] == []


def test_every_role_and_playbook_of_the_tree_is_in_the_archive(place: Place) -> None:
    home = place.folder / "collections/ansible_collections/trainyard/neuron"
    roles = {path.name for path in (ROOT / "roles").iterdir() if any(path.rglob("*.yml"))}
    books = {path.stem for path in (ROOT / "playbooks").glob("*.yml")} | {"site"}
    assert {path.name for path in (home / "roles").iterdir()} == roles
    assert {path.stem for path in (home / "playbooks").glob("*.yml")} == books
    assert [path for path in home.rglob("*") if path.is_file() and str(ROOT).encode() in path.read_bytes()] == []
    manifest = json.loads((home / "MANIFEST.json").read_text(encoding="utf-8"))["collection_info"]
    locked = yaml.safe_load((ROOT / "requirements.yml").read_text(encoding="utf-8"))["collections"]
    assert manifest["dependencies"].items() <= {one["name"]: one["version"] for one in locked}.items()
    assert {"amazon.aws", "community.aws"} <= manifest["dependencies"].keys()
    said = (home / "README.md").read_text(encoding="utf-8")
    called = {name for name in roles | books if not name.endswith("_planned")}
    assert [name for name in called if f"trainyard.neuron.{name}`" not in said] == []


@pytest.fixture(scope="module")
def written(place: Place) -> str:
    """What `trainyard init` says, which writes the inventory `mine` and Ansible's settings."""
    return place.trainyard("init", "mine", "--recipe", "qwen3-32b", "--host", "trn2-a=10.0.0.11")


def test_an_inventory_is_written_and_planned_and_every_playbook_is_parsed_with_it(place: Place, written: str) -> None:
    said = written
    assert "ansible-playbook trainyard.neuron.site -i mine" in said
    assert "cd " not in said
    assert "replicas on 1 hosts" in place.trainyard("plan", "-i", "mine")
    settings = (place.folder / "ansible.cfg").read_text(encoding="utf-8")
    assert "roles_path" not in settings
    books = [f"trainyard.neuron.{path.stem}" for path in sorted((ROOT / "playbooks").glob("*.yml"))]
    given = ["-e", "extension_reservation=cr-1", "-e", "extension_hours=24"]
    place.ansible("playbook", "--syntax-check", "-i", "mine", *given, "trainyard.neuron.site", *books)
    tasks = place.ansible("playbook", "--list-tasks", "-i", "mine", "trainyard.neuron.site")
    assert "trainyard.neuron.vllm_endpoint : Lay out the release" in tasks


@pytest.mark.usefixtures("written")
def test_the_collection_of_the_wheel_is_found_where_none_is_installed(place: Place) -> None:
    settings = (place.folder / "ansible.cfg").read_text(encoding="utf-8")
    (place.folder / "collections").rename(place.folder / "away")
    try:
        assert place.ansible("playbook", "--syntax-check", "-i", "mine", "trainyard.neuron.site")
    finally:
        (place.folder / "away").rename(place.folder / "collections")
    assert str(place.python.parent.parent) in settings


@pytest.mark.usefixtures("written")
def test_settings_that_are_there_are_left_alone(place: Place) -> None:
    before = (place.folder / "ansible.cfg").read_bytes()
    said = place.trainyard("init", "second", "--recipe", "qwen3-32b", "--host", "trn2-a=10.0.0.11")
    assert "was left as it is" in said
    assert (place.folder / "ansible.cfg").read_bytes() == before


def test_a_lab_has_its_state_with_the_user_and_its_inventory_with_the_wheel(place: Place) -> None:
    source = place.trainyard("lab", "inventory").strip()
    assert Path(source).is_relative_to(place.python.parent.parent)
    assert json.loads(place.run(f"{source}/hosts.py").stdout) == {"_meta": {"hostvars": {}}}
    kept = place.folder.parent / "home/.local/state/trainyard/.lab/default/inventory.json"
    kept.parent.mkdir(parents=True)
    kept.write_text('{"neuron": {"hosts": ["h1"]}}', encoding="utf-8")
    try:
        assert json.loads(place.run(f"{source}/hosts.py").stdout) == {"neuron": {"hosts": ["h1"]}}
    finally:
        kept.unlink()


EXAMPLE = re.compile(r"^## Example\n.*?^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("written")
def test_each_role_is_used_alone_as_its_page_says(place: Place) -> None:
    home = place.folder / "collections/ansible_collections/trainyard/neuron/roles"
    files = []
    for page in sorted(home.glob("*/README.md")):
        (text,) = EXAMPLE.findall(page.read_text(encoding="utf-8"))
        role = f"trainyard.neuron.{page.parent.name}"
        specs = yaml.safe_load((page.parent / "meta/argument_specs.yml").read_text(encoding="utf-8"))
        options = specs["argument_specs"]["main"]["options"]
        used = [one for play in yaml.safe_load(text) for one in play.get("roles", []) if one["role"] == role]
        assert len(used) == 1, role
        assert set(used[0]) - {"role", "tags"} <= set(options), role
        assert {name for name, option in options.items() if option.get("required")} <= set(used[0]), role
        files.append(f"example_{page.parent.name}.yml")
        (place.folder / files[-1]).write_text(f"---\n{text}", encoding="utf-8")
    assert len(files) > 10
    place.ansible("playbook", "--syntax-check", "-i", "mine", *files)
    # Of the one that plans for itself, the plan itself: no host is reached for it.
    listed = place.ansible("playbook", "--list-tasks", "-i", "mine", "example_vllm_endpoint.yml")
    assert listed.index("Plan the fleet from the inventory") < listed.index("trainyard.neuron.vllm_endpoint : Lay out")
