# SPDX-License-Identifier: Apache-2.0
"""The roll's task files as Ansible runs them, with modules that only write down what they were asked.

What hosts and routers really do is shown on stand-in hosts (test_roll, test_faults); here it is who is asked for what,
in which order, when an answer is bad.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Settings
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.roll.fleets import fleet_plan, names, planned

from tests.roll.given_plan import keep
from trainyard.paths import ROOT

SHAPE = {"h1": 1, "h2": 2, "h3": 2}
STUB = """#!/usr/bin/python3
import json
from pathlib import Path
here = Path({folder!r})
words = json.loads(r'''<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>''')
bad = json.loads((here / "bad.json").read_text())
def log(*parts):
    with (here / "calls").open("a") as out:
        out.write(" ".join(parts) + chr(10))
answer = {{"changed": True}}
if {name!r} == "router_server":
    log(words["state"], *words["servers"])
    late = {{item: 2 for item in words["servers"] if words["state"] == "drain" and item in bad.get("busy", [])}}
    answer |= {{"arrived": not late, "left": late, "msg": "still has requests" if late else ""}}
elif {name!r} == "replica_release":
    back = words.get("state") == "restored"
    rows = []
    for item in words["replicas"]:
        log("restore" if back else "replace", item["id"])
        wrong = item["id"] in bad.get("dead" if back else "fails", [])
        release = item["was"] if back else item["release"]
        lost = item["id"] in bad.get("lost", [])
        if bad.get("lost"):
            log("proved", str(words["fence"]["number"]))
        why = "it is held by bob@ops-2" if lost else "no gate" if wrong else ""
        rows.append({{"id": item["id"], "name": item["name"], "release": release, "gated": not why,
                     "error": why, "seconds": {{}}}})
        answer |= {{"lock_lost": True}} if lost else {{}}
    answer |= {{"replicas": rows, "failed": any(row["error"] for row in rows), "msg": rows[-1]["error"]}}
elif {name!r} == "roll_lock" and words.get("claim"):
    refused = words.get("moves") and words["moves"][0]["host"] in bad.get("locked", [])
    holder = {{**words["claim"], "number": 7, "boot": "b", "since_s": 0.0, "ends_s": 1.0, "displaced": None}}
    del holder["take_over"]
    if bad.get("late"):
        holder["lease_s"] = -1.0
    answer |= {{"lock": {{"holder": holder, "refused": "it is another run's" if refused else ""}}}}
    answer |= {{"failed": True, "msg": "it is another run's"}} if refused else {{}}
elif {name!r} == "roll_lock" and words["state"] == "kept":
    log("kept", str(words["fence"]["number"]))
elif {name!r} == "replica_info":
    row = {{"active": "active", "running": "new", "current": "new", "staged": ["new"]}}
    servers = {{item: {{"state": "ready", "up": True}} for item in {names!r}}}
    answer |= {{"changed": False, "replicas": {{"m-0": row, "m-1": row}}, "servers": servers, "holder": None}}
print(json.dumps(answer))
"""


class Rolled:
    """A run that is over: exit code, output, and what the modules were asked, in order."""

    def __init__(self, folder: Path, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.text = done.stdout + done.stderr
        self.calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


@pytest.fixture
def collections(tmp_path: Path) -> Path:
    """The collection, with stubs for every module that would touch a host."""
    real = ROOT / "collections" / "ansible_collections" / "trainyard" / "neuron"
    copy = tmp_path / "collections" / "ansible_collections" / "trainyard" / "neuron"
    shutil.copytree(real, copy, ignore=shutil.ignore_patterns("tests", "__pycache__", "docs"))
    for name in ("router_server", "replica_release", "replica_info", "roll_lock", "roll_watch"):
        text = STUB.format(folder=str(tmp_path), name=name, names=names(SHAPE))
        (copy / "plugins" / "modules" / f"{name}.py").write_text(text)
    return tmp_path / "collections"


def roll(tmp_path: Path, collections: Path, bad: dict[str, Any], hooks: dict[str, list[str]] | None = None) -> Rolled:
    """Carry a planned roll out: three hosts of one and two replicas, two of them at a time after the first."""
    how = Settings(at_once=2, floor="1", canary_s=0, soak_s=0, batches=("1", "1", "100%"))
    fact, _ = planned(SHAPE, how, ("r1",), hooks)
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    variables = {"__rolling_redeploy_planned": {"roll": fact.to_dict()}, "where": str(tmp_path)}
    task = {"ansible.builtin.include_role": {"name": "rolling_redeploy", "tasks_from": "roll.yml"}}
    plan = keep(tmp_path, fleet_plan(SHAPE), ("r1",))
    book = [{"hosts": "neuron:router", "gather_facts": False, "vars": variables, "tasks": [plan, task]}]
    (tmp_path / "book.yml").write_text(json.dumps(book))
    (tmp_path / "hosts").write_text(
        "[neuron]\nh[1:3]\n[router]\nr1\n[all:vars]\nansible_connection=local\nansible_python_interpreter=/usr/bin/python3\n"
    )
    done = subprocess.run(
        ["ansible-playbook", str(tmp_path / "book.yml"), "-i", str(tmp_path / "hosts")],
        cwd=tmp_path,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "true",
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return Rolled(tmp_path, done)


WAVES = [["h1:m-0"], ["h2:m-0", "h2:m-1"], ["h3:m-0", "h3:m-1"]]


def asked(state: str, *wave: str) -> list[str]:
    """What a whole wave is asked when all goes well up to ``state``."""
    routers = " ".join(wave)
    steps = {"drain": [f"drain {routers}"], "replace": [f"replace {name}" for name in wave]}
    wanted = steps["drain"] + (steps["replace"] if state != "drain" else [])
    return wanted + ([f"ready {routers}"] if state == "ready" else [])


def test_every_wave_is_drained_replaced_and_readmitted_in_turn(tmp_path: Path, collections: Path) -> None:
    done = roll(tmp_path, collections, {})
    assert done.code == 0, done.text
    assert done.calls == [line for wave in WAVES for line in asked("ready", *wave)]
    assert "Redeploy is done: 5 of 5 replicas rolled in 3 waves." in done.text


def test_a_wave_runs_on_the_hosts_that_have_a_part_in_it_and_starts_nothing_on_others(
    tmp_path: Path, collections: Path
) -> None:
    """A task that a host skips costs the controller a process all the same."""
    text = roll(tmp_path, collections, {}).text
    waves = re.split(r"^TASK \[rolling_redeploy : Hold the locks of all hosts\].*$", text, flags=re.MULTILINE)[1:]
    waves[-1] = waves[-1].split("TASK [rolling_redeploy : Read what the replicas and the routers do now]")[0]
    taking_part = [set(re.findall(r"^\w+: \[(\w+)\]", wave, re.MULTILINE)) for wave in waves]
    assert taking_part == [{"h1", "r1"}, {"h1", "h2", "r1"}, {"h1", "h3", "r1"}]


def test_a_roll_in_which_a_host_refuses_its_lock_takes_no_wave(tmp_path: Path, collections: Path) -> None:
    done = roll(tmp_path, collections, {"locked": ["h3"]})
    assert done.code != 0
    assert done.calls == []
    assert "h3: it is another run's" in done.text


def test_one_that_fails_is_taken_back_with_its_sibling_and_later_hosts_are_not_asked(
    tmp_path: Path, collections: Path
) -> None:
    """Its sibling came up; it goes back too, and each is readmitted by its own gate."""
    bad = {"fails": ["h2:m-0"], "dead": ["h2:m-0"]}
    done = roll(tmp_path, collections, bad)
    assert done.code != 0
    before = [line for wave in WAVES[:1] for line in asked("ready", *wave)]
    after = [*asked("replace", *WAVES[1]), "drain h2:m-0 h2:m-1", "restore h2:m-0", "restore h2:m-1", "ready h2:m-1"]
    assert done.calls == before + after, done.text
    assert "Redeploy stopped at wave 2 of 3 (h2:m-0, h2:m-1); 1 of 5 replicas are rolled." in done.text
    assert "because: Wave 2 of 3 stops here: h2:m-0: no gate" in done.text
    assert "untouched: h3:m-0, h3:m-1" in done.text


def test_locks_that_are_due_are_renewed_in_each_wave_on_every_host(tmp_path: Path, collections: Path) -> None:
    done = roll(tmp_path, collections, {"late": True})
    assert done.code == 0, done.text
    assert done.calls.count("kept 7") == len(WAVES) * len(SHAPE)


def test_a_lock_that_is_lost_on_one_host_stops_all_of_them(tmp_path: Path, collections: Path) -> None:
    """What goes back is asked for as ever; each host proves its own lock."""
    done = roll(tmp_path, collections, {"lost": ["h2:m-0"]})
    assert done.code != 0
    assert not any("h3:" in line for line in done.calls), done.calls
    assert "because: Wave 2 of 3 stops here" in done.text
    assert "it is held by bob@ops-2" in done.text
    assert "untouched: h3:m-0, h3:m-1" in done.text
    proofs = [line for line in done.calls if line.startswith("proved")]
    assert proofs
    assert set(proofs) == {"proved 7"}


def test_requests_that_do_not_end_stop_the_roll_before_anything_is_replaced(tmp_path: Path, collections: Path) -> None:
    done = roll(tmp_path, collections, {"busy": ["h1:m-0"]})
    assert done.code != 0
    assert done.calls == ["drain h1:m-0", "drain h1:m-0", "restore h1:m-0", "ready h1:m-0"]


def test_a_hook_that_fails_takes_its_wave_back(tmp_path: Path, collections: Path) -> None:
    (tmp_path / "fail.yml").write_text("- ansible.builtin.fail:\n    msg: the balancer says no\n")
    (tmp_path / "note.yml").write_text(
        "- ansible.builtin.lineinfile:\n    path: '{{ where }}/calls'\n"
        "    line: \"hook {{ roll_hook }} {{ roll_hook_replicas | map(attribute='id') | join(' ') }}\"\n"
        "    create: true\n    insertafter: EOF\n    mode: '0644'\n"
    )
    note, fail = str(tmp_path / "note.yml"), str(tmp_path / "fail.yml")
    hooks = {"before": [note], "drain": [note, fail], "undrain": [note], "after": [note]}
    done = roll(tmp_path, collections, {}, hooks)
    everybody = " ".join(name for wave in WAVES for name in wave)
    assert done.code != 0
    assert done.calls == [
        f"hook before {everybody}",
        "drain h1:m-0",
        "hook drain h1:m-0",
        "drain h1:m-0",
        "restore h1:m-0",
        "ready h1:m-0",
        "hook undrain h1:m-0",
        f"hook after {everybody}",
    ]
    assert "the hooks `drain`" in done.text
