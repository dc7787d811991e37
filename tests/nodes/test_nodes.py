# SPDX-License-Identifier: Apache-2.0
"""Work spread over execution nodes: how it is cut, what a node is sent, and what becomes of one that is lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from bench import nodes as bench
from bench.plan_scale import FOUR, fleet
from trainyard.cli import app
from trainyard.nodes.answer import Answer, AnswerError, Watched
from trainyard.nodes.cut import Part, waves_of
from trainyard.nodes.engine import Spread
from trainyard.nodes.parcel import INVENTORY, pack
from trainyard.nodes.settings import Node, NodesError, read
from trainyard.nodes.stream import Stream
from trainyard.paths import ROOT

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet  # isort: skip

WORKER = Path(__file__).with_name("worker.py")


def planned(hosts: int) -> dict[str, Any]:
    return dict(plan_fleet(fleet(hosts, FOUR)).to_dict())


@pytest.mark.parametrize(("hosts", "parts", "sizes"), [(7, 3, [2, 2, 3]), (2, 4, [1, 1]), (5, 1, [5])])
def test_to_provision_is_cut_evenly_and_every_host_is_in_one_part(hosts: int, parts: int, sizes: list[int]) -> None:
    plan = planned(hosts)
    (wave,) = waves_of("provision", plan, parts)
    assert [len(part.hosts) for part in wave] == sizes
    assert [part.number for part in wave] == list(range(1, len(sizes) + 1))
    assert sorted(name for part in wave for name in part.hosts) == sorted(plan["hosts"])


def test_hosts_that_send_to_one_another_stay_together() -> None:
    given = fleet(6, FOUR)
    for number, host in enumerate(given["hosts"].values()):
        if number % 2:
            del host["trainyard_deployment_d"]
    (wave,) = waves_of("provision", plan_fleet(given).to_dict(), 2)
    assert [[int(name[-1]) % 2 for name in part.hosts] for part in wave] in ([[0] * 3, [1] * 3], [[1] * 3, [0] * 3])


def test_those_that_compile_for_all_come_before_those_that_fetch() -> None:
    plan = planned(9)
    first, second = waves_of("compile", plan, 2)
    elected = {row["compile_host"] for host in plan["hosts"].values() for row in host["artifacts"]}
    assert {name for part in first for name in part.hosts} == elected
    assert sorted(name for part in [*first, *second] for name in part.hosts) == sorted(plan["hosts"])
    assert [part.number for part in [*first, *second]] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nodes: []", "nodes"),
        ("nodes: [{name: a}, {name: a}]", "a is there twice"),
        ("nodes: [{name: a, command: [ssh]}]", "command"),
        ("nodes: [{name: a, runner: ssh a}]", "runner"),
        ("- a", "must be a mapping"),
    ],
)
def test_a_file_that_names_no_nodes_is_refused_with_its_reason(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "nodes.yml").write_text(content)
    with pytest.raises(NodesError, match=re.escape(said)):
        read(tmp_path / "nodes.yml")


def test_a_node_is_here_unless_it_is_said_where(tmp_path: Path) -> None:
    (tmp_path / "nodes.yml").write_text("nodes: [{name: here}, {name: a, runner: [ssh, a, ansible-runner]}]")
    assert read(tmp_path / "nodes.yml") == [
        Node("here", ("ansible-runner",)),
        Node("a", ("ssh", "a", "ansible-runner")),
    ]


INVENTORY_FILE = """
all:
  vars:
    trusted: "{{ 1 + 1 }}"
    never: !unsafe "{{ 1 + 1 }}"
    secret: !vault |
      $ANSIBLE_VAULT;1.1;AES256
      6162
  children:
    neuron: {hosts: {h1: {ansible_host: 10.0.0.1}}}
"""


def test_the_inventory_arrives_as_it_was_read_with_its_trust_its_vaults_and_its_pinned_images(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet/hosts.yml").write_text(INVENTORY_FILE)
    pinned = f"public.ecr.aws/neuron/vllm:1 sha256:{'a' * 64}"
    (tmp_path / "fleet/trainyard_images.txt").write_text(pinned + "\n")
    parcel = tmp_path / "parcel"
    parcel.mkdir()
    pack(parcel, [str(tmp_path / "fleet")])

    def listed(source: Path) -> Any:
        argv = ["ansible-inventory", "-i", str(source), "--list", "--export"]
        return json.loads(subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    there = listed(parcel / "inventory" / INVENTORY)
    assert there == listed(tmp_path / "fleet/hosts.yml")
    assert there["all"]["vars"]["never"] == {"__ansible_unsafe": "{{ 1 + 1 }}"}
    assert there["all"]["vars"]["trusted"] == "{{ 1 + 1 }}"
    assert pinned in (parcel / "inventory/trainyard_images.txt").read_text()
    assert (parcel / "project/ansible.cfg").read_bytes() == (ROOT / "ansible.cfg").read_bytes()
    assert (parcel / "project/playbooks/roles/nvme_raid/tasks/main.yml").is_file()


@pytest.fixture
def parcel(tmp_path: Path) -> Path:
    folder = tmp_path / "parcel"
    (folder / "project").mkdir(parents=True)
    (folder / "project/site.yml").write_text("[]\n")
    (folder / "inventory").mkdir()
    (folder / "inventory" / INVENTORY).write_text("#!/bin/sh\n")
    return folder


def node(name: str, how: str, sent: Path) -> Node:
    return Node(name, (sys.executable, str(WORKER), str(sent), how))


@pytest.mark.parametrize(
    ("how", "end", "said"),
    [
        ("works", "done", ""),
        ("fails", "failed", "h1: Make it: no disk"),
        ("refuses", "lost", "ERROR! no such playbook"),
        ("dies", "lost", "Unexpected empty line"),
        ("deaf", "lost", "no Python here"),
        ("raves", "lost", "{{{"),
        ("hangs", "lost", "no sign of life for 2 s"),
        ("endless", "lost", "a line of it is longer than"),
        ("nested", "lost", "cannot be read"),
        ("words", "lost", "an event of it has no data"),
        ("colours", "failed", "h1: Make it: ?[2Jall is well"),
    ],
)
def test_a_node_works_or_its_hosts_fail_or_it_is_lost(
    parcel: Path, tmp_path: Path, how: str, end: str, said: str
) -> None:
    silent_s = 2.0 if how == "hangs" else 30.0
    outcome = Stream(node("a", how, tmp_path / "sent").runner, parcel, {"playbook": "site.yml"}, silent_s).run()
    assert outcome.end == end
    assert said in "\n".join(outcome.why)


@pytest.mark.parametrize("how", ["links", "climbs"])
def test_a_node_writes_and_removes_nothing_on_the_controller(parcel: Path, tmp_path: Path, how: str) -> None:
    (tmp_path / "precious").write_text("kept")
    outcome = Stream(node("a", how, tmp_path / "sent").runner, parcel, {"playbook": "site.yml"}, 30.0).run()
    assert outcome.end == "done", outcome.why
    assert not (tmp_path / "planted").exists()
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "precious").is_symlink()


@pytest.mark.parametrize("size", [-1, True, None, "x", 1.5, 1 << 40])
def test_an_archive_of_no_size_is_not_waited_for(size: Any, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with os.fdopen(reader, "rb") as source, pytest.raises(AnswerError, match="bytes"):
        Answer(Watched(source, 1.0), str(tmp_path)).artifacts_callback({"zipfile": size})


def test_a_node_that_is_not_there_is_lost(parcel: Path) -> None:
    outcome = Stream(["/nowhere/ansible-runner"], parcel, {"playbook": "site.yml"}).run()
    assert (outcome.end, outcome.why) == ("lost", ["/nowhere/ansible-runner: No such file or directory"])


def sent_to(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_part_of_a_lost_node_is_done_again_and_takes_over_the_lock_of_the_one_before(
    parcel: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    lines: list[str] = []
    spread = Spread(
        "provision", [node("a", "dies", bad), node("b", "works", good)], parcel, {"x": "secret"}, say=lines.append
    )
    assert spread.run([[Part(1, ("h1", "h2")), Part(2, ("h3",))]])
    (lost,) = sent_to(bad)
    (again,) = (row for row in sent_to(good) if row["limit"] == lost["limit"])
    assert spread.redone() == [{"h1,h2": 1, "h3": 2}[lost["limit"]]]
    first, second = (row["envvars"]["TRAINYARD_RUN"].partition(":")[0] for row in (lost, again))
    assert first != second
    assert again["extravars"] == {"x": "secret", "trainyard_take_over": first}
    assert lost["extravars"] == {"x": "secret"}
    for row in (lost, again):
        assert row["envvars"]["TRAINYARD_RUN_OVER"] == "1"
        assert "secret" not in json.dumps([row["words"], {**row, "extravars": None}])
        assert row["playbook"] == "playbooks/provision.yml"
    assert any("a: part" in line and "is lost with the node" in line for line in lines)
    assert not spread.left()


def test_where_every_node_is_lost_what_is_left_is_named_and_no_further_wave_begins(
    parcel: Path, tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    spread = Spread("compile", [node("a", "dies", sent), node("b", "dies", sent)], parcel)
    assert not spread.run([[Part(1, ("h1",)), Part(2, ("h2",))], [Part(3, ("h3",))]])
    assert {attempt.part.number for attempt in spread.left()} <= {1, 2}
    assert spread.left()
    assert all(row["limit"] != "h3" for row in sent_to(sent))


def test_a_part_that_fails_is_not_done_again_by_another_node(parcel: Path, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    spread = Spread("provision", [node("a", "fails", sent), node("b", "fails", sent)], parcel)
    assert not spread.run([[Part(1, ("h1",)), Part(2, ("h2",))]])
    assert len(sent_to(sent)) == 2
    assert (spread.redone(), spread.left()) == ([], [])


def test_a_node_killed_in_the_middle_costs_time_and_no_host(tmp_path: Path) -> None:
    row = bench.measure(2, 4, 0.0, kill=True, folder=tmp_path)
    assert (row["redone_parts"], row["parts"], row["hosts"]) == (1, 2, 4)


def test_the_figures_of_several_nodes_are_shares_of_what_one_took() -> None:
    one = measured(1, 64, 60.0, 100.0)
    rows = [one, measured(4, 64, 20.0, 80.0)]
    assert [row["to_one"]["node_cpu_s"] for row in bench.with_ratios(rows)] == [1, 0.33]
    assert [row["to_one"]["wall_s"] for row in bench.with_ratios(rows)] == [1, 0.8]
    assert bench.with_ratios(rows[1:]) == rows[1:]


def test_growth_is_for_each_doubling_of_the_hosts_with_the_same_nodes() -> None:
    rows = [measured(1, 16, 10.0, 20.0), measured(2, 16, 6.0, 12.0), measured(1, 64, 40.0, 45.0)]
    first, second, third = bench.with_ratios(rows)
    assert "growth" not in {**first, **second}
    assert (third["growth"]["node_cpu_s"], third["growth"]["wall_s"]) == (2, 1.5)
    assert third["to_one"]["wall_s"] == 1


def measured(nodes: int, hosts: int, node_cpu_s: float, wall_s: float) -> dict[str, Any]:
    """A row of the bench."""
    rest = {"killed_nodes": 0, "cpu_s": 1.0, "controller_cpu_s": None, "max_rss_mb": 100}
    return {"nodes": nodes, "hosts": hosts, "node_cpu_s": node_cpu_s, "wall_s": wall_s, **rest}


def test_images_without_a_digest_are_pinned_by_one_run_before_several_ask(tmp_path: Path) -> None:
    (tmp_path / "nodes.yml").write_text("nodes: [{name: here}]")
    runner = CliRunner()
    made = runner.invoke(app, ["init", str(tmp_path / "mine"), "--recipe", "qwen3-32b", "--host", "a=10.0.0.11"])
    assert made.exit_code == 0, made.output
    argv = ["provision", "-i", str(tmp_path / "mine"), "--nodes", str(tmp_path / "nodes.yml")]
    done = runner.invoke(app, argv)
    assert done.exit_code == 1
    assert "has no digest yet" in " ".join(done.output.split())
    (tmp_path / "nodes.yml").write_text(yaml.safe_dump({"nodes": [{"name": "here", "runner": []}]}))
    assert runner.invoke(app, argv).exit_code == 2
