# SPDX-License-Identifier: Apache-2.0
"""The exporter of hosts, with the files that role neuron_monitor lays out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Book
from ansible_collections.trainyard.neuron.plugins.module_utils.watch import exporter, replicas

from lab.neuron_sim import config, sysfs
from trainyard.paths import ROOT


def test_the_program_runs_as_it_is_laid_out_on_a_host(tmp_path: Path) -> None:
    """With the files that the role copies and no others, by the system's Python, isolated as its first line says."""
    role = ROOT / "roles/neuron_monitor"
    utils = ROOT / "collections/ansible_collections/trainyard/neuron/plugins/module_utils"
    for item in yaml.safe_load((role / "vars/main.yml").read_text(encoding="utf-8"))["__neuron_monitor_parts"]:
        path = tmp_path / Path(item["path"]).relative_to("/usr/local/lib/trainyard")
        if item.get("state") == "directory":
            path.mkdir()
            for file in (utils / item["package"]).glob("*.py") if "package" in item else ():
                (path / file.name).write_bytes(file.read_bytes())
        else:
            path.write_bytes((utils / item["module_util"]).read_bytes() if "module_util" in item else b"")
    program, told = tmp_path / "exporter", tmp_path / "exporter.json"
    program.write_bytes((role / "files/exporter").read_bytes())
    told.write_text(json.dumps({"mounts": [str(tmp_path)]}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-BEs", program, "--once", "--settings", told], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "trainyard_exporter_look_timestamp_seconds" in done.stdout
    told.write_text("{", encoding="utf-8")
    argv = [sys.executable, "-BEs", program, "--settings", told]
    refused = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.startswith("trainyard: /etc/trainyard/exporter.json is not usable: it is no JSON")


def test_a_look_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sixteen devices and sixteen replicas, in processor time: a look each 15 s takes less than 0.5 % of one."""
    sysfs.create(config.HostConfig(root=tmp_path))
    root, runtime, probe = (tmp_path / name for name in ("vllm", "vllm-run", "probe"))
    for folder in (root / "current", runtime, probe, tmp_path / "out"):
        folder.mkdir(parents=True)
    entry = json.dumps({"deployment": "d", "release": "r", "argv": ["word"] * 60, "environment": {"A": "b" * 400}})
    for index in range(16):
        (root / f"current/d-{index}.json").write_text(entry, encoding="utf-8")
        (runtime / f"d-{index}").mkdir()
        (runtime / f"d-{index}/replica.json").write_text(entry, encoding="utf-8")
        (probe / f"d-{index}.json").write_text("{}", encoding="utf-8")
    asked = tmp_path / "bin/systemctl"
    asked.parent.mkdir()
    asked.write_text("#!/bin/sh\nfor n in 0 1 2 3; do printf 'Id=vllm@d-%s.service\\n\\n' $n; done\n", encoding="utf-8")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", f"{asked.parent}:{os.environ['PATH']}")
    places = replicas.Places(root, runtime, probe, tmp_path / "fence.json", tmp_path / "fence.nft")
    told = exporter.Settings(sysfs=str(tmp_path / "sys"), kernel_log=str(tmp_path / "log"), mounts=("/",))
    made = exporter.Exporter(told, tmp_path / "out", replicas.Replicas(places, book=Book(tmp_path / "roll")))
    made.look(pytest.fail)
    began = exporter._cpu_s()
    for _ in range(10):
        made.look(pytest.fail)
    assert "trainyard_neuron_devices 16.0" in made.page.decode()
    assert made.page.count(b"trainyard_replica_info{") == 16
    assert (exporter._cpu_s() - began) / 10 / told.period_s < 0.005
