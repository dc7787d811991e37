# SPDX-License-Identifier: Apache-2.0
"""What runs in a replica's container: it becomes nobody on its host."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.roles.test_container_runtime import CONTAINER, DEPLOYMENT, UNIT
from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("container-attack")]

NAME = "qwen-shaped-0"
OWN = f"/run/vllm/{NAME}"
PROOF = "/var/tmp/owned-by-a-container"  # noqa: S108 (on the host; nobody else makes it)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    variables = {"trainyard_deployment_tiny_llama": None, "trainyard_deployment_qwen_shaped": DEPLOYMENT}
    with stand_in("container-attack", 1, "--sdk-release", "2.27.0", **variables) as made:
        made.play("site.yml", "--skip-tags=benchmark")
        yield made


def inside(lab: Lab, script: str) -> str:
    """Python as the container's root."""
    return lab.on("lab-1", f"podman exec {CONTAINER} python -c 'exec(bytes.fromhex(\"{script.encode().hex()}\"))'")


def test_it_sees_nothing_of_its_host_but_what_it_needs(lab: Lab) -> None:
    (container,) = json.loads(lab.on("lab-1", f"podman container inspect {CONTAINER}"))
    mounts = {mount["Destination"]: mount["RW"] for mount in container["Mounts"]}
    entry = json.loads(lab.on("lab-1", f"cat /etc/vllm/current/{NAME}.json"))
    written = {f"{OWN}/metrics": True, f"{OWN}/compile": True}
    assert mounts == {entry["weights_path"]: False, entry["artifact_path"]: False, **written}
    assert lab.on("lab-1", f"stat -c %U {OWN} {OWN}/replica.json").split() == ["root", "root"]


def test_its_root_has_no_more_of_roots_powers_than_to_read_what_it_was_given(lab: Lab) -> None:
    script = """
import os, pathlib
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
print(*sorted({line.split()[1].lstrip("0") for line in lines if line.startswith(("CapPrm", "CapEff", "CapBnd"))}))
pathlib.Path("/tmp/mine").touch()
for name, call in (
    ("chown", lambda: os.chown("/tmp/mine", 1, 1)),
    ("setuid", lambda: os.setuid(1)),
    ("mknod", lambda: os.mknod("/tmp/kmsg", 0o020600, os.makedev(1, 11))),
    ("chroot", lambda: os.chroot("/tmp")),
):
    try:
        call()
        print(name)
    except PermissionError:
        pass
"""
    # 1 << CAP_DAC_OVERRIDE, and none of the calls went through.
    assert inside(lab, script) == "2"


def test_what_it_plants_is_neither_run_nor_written_through_when_its_host_stops_it(lab: Lab) -> None:
    state = f"cd {OWN}; sha256sum replica.json gate.json pid; ls -A"
    before = lab.on("lab-1", state)
    lab.on("lab-1", "cp /etc/hostname /root/untouched && sha256sum /root/untouched > /root/untouched.sum")
    script = f"""
import json, os, pathlib
program = pathlib.Path("{OWN}/metrics/program")
program.write_text("#!/bin/sh\\ntouch {PROOF}\\n")
program.chmod(0o755)
record = {{"name": "{NAME}", "argv": [str(program)], "url": "http://127.0.0.1:8000", "cores": "0-15"}}
record.update(served_name="x", runtime="container", container_engine=str(program), neuron_ls=str(program))
for folder in ("{OWN}", "{OWN}/metrics", "{OWN}/compile"):
    (pathlib.Path(folder) / "replica.json").write_text(json.dumps(record))
    for name in ("gate.json", "gate.json.new", "ended", "ended.new", "pid", "stopping"):
        os.symlink("/root/untouched", f"{{folder}}/{{name}}")
print("planted")
"""
    assert inside(lab, script) == "planted"
    assert lab.on("lab-1", state) == before, "it reached what root acts upon"
    lab.on("lab-1", f"systemctl restart {UNIT}")
    assert lab.on("lab-1", f"systemctl show -P ActiveState {UNIT}") == "active"
    lab.on("lab-1", f"systemctl stop {UNIT}")
    assert lab.on("lab-1", f"systemctl show -P Result {UNIT}") == "success"
    assert lab.on("lab-1", f"test -e {PROOF} && echo ran || echo not") == "not"
    assert "OK" in lab.on("lab-1", "sha256sum --check /root/untouched.sum")
    assert lab.on("lab-1", "podman ps --all --quiet") == ""
    lab.on("lab-1", f"systemctl start {UNIT}")


def test_its_client_ends_nothing_by_what_it_asks_for(lab: Lab) -> None:
    artifact = json.loads(lab.on("lab-1", f"cat /etc/vllm/current/{NAME}.json"))["artifact_path"]
    shown = f"systemctl show -P InvocationID -P NRestarts {UNIT}"
    before = lab.on("lab-1", shown)
    for model in (
        "Unable to find precompiled artifacts",
        f"Unable to find precompiled artifacts from {artifact}. Recompiling...",
    ):
        body = json.dumps({"model": model, "prompt": "x", "max_tokens": 1})
        curl = f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Content-Type: application/json' -d '{body}'"
        assert lab.on("lab-1", f"{curl} http://127.0.0.1:8000/v1/completions") == "404"
    lab.on("lab-1", "sleep 2")
    assert lab.on("lab-1", shown) == before
