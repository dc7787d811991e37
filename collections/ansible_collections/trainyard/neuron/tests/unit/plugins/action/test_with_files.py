# SPDX-License-Identifier: Apache-2.0
"""A task's `files` as a play lays them out: a real ansible-playbook over the local connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[8]


def play(project: Path, files: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    task = {
        "name": "Look",
        "trainyard.neuron.jobs": {"state": "looked", "jobs": [], "files": files},
        "register": "found",
    }
    show = {"name": "Show", "ansible.builtin.debug": {"msg": "DID={{ found.files.changed_paths | to_json }}"}}
    (project / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task, show]}])
    )
    (project / "templates").mkdir(exist_ok=True)
    (project / "templates/word.j2").write_text("{{ word }}\n")
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "play.yml", *options]
    variables = f'{{"ansible_python_interpreter": "{sys.executable}", "word": "here"}}'
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
    }
    return subprocess.run(
        [*argv, "-e", variables], cwd=project, env=environment, text=True, capture_output=True, check=False
    )


def test_files_are_rendered_and_land_beside_the_modules_own_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    items = [{"path": str(out), "state": "directory"}, {"path": f"{out}/word", "template": "word.j2"}]
    assert "changed=1" in play(tmp_path, {"items": items}, "--check").stdout
    assert not out.exists()
    done = play(tmp_path, {"items": items})
    # A long path is folded where it is printed.
    assert f'DID=["{out}","{out}/word"]' in "".join(done.stdout.split()), done.stdout + done.stderr
    assert (out / "word").read_text() == "here\n"
    assert "changed=0" in play(tmp_path, {"items": items}).stdout


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"items": [], "wonder": 1}, "files: wonder"),
        ({"items": [{"path": "/x"}]}, "/x: a file needs exactly one of"),
        ({"items": [{"path": "/x", "template": "none.j2"}]}, "/x: "),
    ],
)
def test_files_that_cannot_be_laid_out_are_refused_before_the_host(
    tmp_path: Path, files: dict[str, Any], said: str
) -> None:
    refused = play(tmp_path, files)
    assert refused.returncode != 0
    assert said in refused.stdout, refused.stdout + refused.stderr
