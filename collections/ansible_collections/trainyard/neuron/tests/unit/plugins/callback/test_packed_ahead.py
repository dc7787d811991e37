# SPDX-License-Identifier: Apache-2.0
"""The modules of a run are packed beside it, before their tasks come, and nothing depends on that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import kept_modules

COLLECTIONS = Path(__file__).resolve().parents[7]
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))


def run(folder: Path, tasks: list[dict[str, Any]], *arguments: str, **environment: str) -> tuple[int, str]:
    """Run tasks on this machine; the exit code, and what was printed."""
    play: dict[str, Any] = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    play["vars"] = {"ansible_python_interpreter": sys.executable}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "ansible.cfg").write_text("")
    found_by = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_CALLBACKS_ENABLED": "trainyard.neuron.packed_ahead",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "XDG_CACHE_HOME": str(folder / "cache"),
        **environment,
    }
    argv = [PLAYBOOK, "-i", "localhost,", str(folder / "play.yml"), *arguments]
    done = subprocess.run(argv, env=found_by, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def packed(module: str, folder: Path) -> str:
    """A line of shell that waits until a module is packed, and then says which ones are."""
    there = f"{folder / 'tmp'}/*/ansiballz_cache"
    found = f"ls {there} 2>/dev/null | grep -v '[.]lock$'"
    wait = f"for turn in $(seq 300); do {found} | grep -q '[.]{module}-' && break; sleep 0.1; done"
    return f"{wait}; {found}"


def named(output: str) -> set[str]:
    """Which modules of ours a line said to be packed."""
    return {line.split("-")[0].rpartition(".")[2] for line in output.split() if ".neuron.plugins.modules." in line}


def never(module: str, **more: Any) -> dict[str, Any]:
    return {f"trainyard.neuron.{module}": {}, "when": False, **more}


def test_modules_of_later_tasks_are_there_before_them_and_no_others(tmp_path: Path) -> None:
    """Not what others' collections have, and not what an action plugin does alone."""
    block = {"block": [never("generation_probe"), never("packages")], "rescue": [never("jobs")]}
    look: dict[str, Any] = {"ansible.builtin.raw": packed("roll_lock", tmp_path), "register": "found"}
    tell = {"ansible.builtin.debug": {"msg": "{{ found.stdout_lines }}"}}
    ping = {"ansible.builtin.stat": {"path": "/"}, "when": False}
    code, output = run(tmp_path, [look, tell, block, ping, never("block_time"), never("roll_lock")])
    assert code == 0, output
    assert named(output.replace('"', "").replace(",", "")) == {"generation_probe", "jobs", "roll_lock"}


def test_a_task_whose_tag_is_not_asked_for_is_not_packed_for(tmp_path: Path) -> None:
    look: dict[str, Any] = {"ansible.builtin.raw": packed("roll_lock", tmp_path), "register": "found", "tags": ["b"]}
    tell = {"ansible.builtin.debug": {"msg": "{{ found.stdout_lines }}"}, "tags": ["b"]}
    tasks = [look, tell, never("jobs", tags=["a"]), never("roll_lock", tags=["b"])]
    code, output = run(tmp_path, tasks, "--tags", "b")
    assert code == 0, output
    assert named(output.replace('"', "").replace(",", "")) == {"roll_lock"}


def test_a_worker_sends_what_was_packed(tmp_path: Path) -> None:
    """The very file: it would be another one if the worker had made its own."""
    line = f"{packed('replica_info', tmp_path)}; stat --format '%i %Y %n' {tmp_path / 'tmp'}/*/ansiballz_cache/*[^k]"
    before: dict[str, Any] = {"ansible.builtin.raw": line, "register": "before"}
    after = before | {"register": "after"}
    same = {"ansible.builtin.assert": {"that": ["'replica_info' in before.stdout", "before.stdout == after.stdout"]}}
    code, output = run(tmp_path, [before, {"trainyard.neuron.replica_info": {}}, after, same])
    assert code == 0, output[-3000:]


@pytest.mark.parametrize("tasks", [[], [{"ansible.builtin.debug": {"msg": "x"}}]])
def test_a_run_that_is_over_at_once_ends_without_a_word_of_it(tmp_path: Path, tasks: list[dict[str, Any]]) -> None:
    code, output = run(tmp_path, [*tasks, never("jobs")])
    assert code == 0, output
    assert "Traceback" not in output
    assert "packed" not in output


def test_the_next_run_of_the_same_files_sends_what_this_one_packed(tmp_path: Path) -> None:
    """Shown by a mark that only what was kept has, and by a run that may not trust it."""
    look: dict[str, Any] = {"ansible.builtin.raw": packed("replica_info", tmp_path)}
    ask: dict[str, Any] = {"trainyard.neuron.replica_info": {}}
    assert run(tmp_path, [look, ask])[0] == 0
    (kept,) = (tmp_path / "cache/trainyard/modules").glob("*/*.replica_info-*")
    before = kept.read_bytes()
    code, output = run(tmp_path, [ask])
    assert code == 0, output
    assert kept.read_bytes() == before
    kept.write_bytes(kept_modules.sealed(b"no module"))
    assert run(tmp_path, [ask])[0] != 0, "what is kept is what is sent"
    kept.chmod(0o666)
    code, output = run(tmp_path, [ask])
    assert code == 0, output


@pytest.mark.parametrize("file", ["modules/replica_info.py", "module_utils/units.py"])
def test_a_file_that_changed_is_packed_anew(tmp_path: Path, file: str) -> None:
    ours = Path("ansible_collections/trainyard/neuron")
    shutil.copytree(COLLECTIONS / ours / "plugins", tmp_path / ours / "plugins")
    ask: dict[str, Any] = {"trainyard.neuron.replica_info": {}}
    assert run(tmp_path, [ask], ANSIBLE_COLLECTIONS_PATH=str(tmp_path))[0] == 0
    changed = tmp_path / ours / "plugins" / file
    first = "from __future__ import annotations\n"
    changed.write_text(changed.read_text().replace(first, f"{first}\nraise SystemExit('changed')\n", 1))
    code, output = run(tmp_path, [ask], ANSIBLE_COLLECTIONS_PATH=str(tmp_path))
    assert code != 0, output
