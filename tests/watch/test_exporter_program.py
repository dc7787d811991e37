# SPDX-License-Identifier: Apache-2.0
"""The exporter of hosts, with the files that role neuron_monitor lays out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

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
