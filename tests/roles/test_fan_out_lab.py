# SPDX-License-Identifier: Apache-2.0
"""Eight hosts that share no store: one download, one compile a digest, the rest from host to host; then a ninth joins.

One lab goes through its life in the order of the tests; each needs the one before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab_plays import COMPILE, PROVISION, changes, logs
from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("fan-out-lab")]

HOSTS = [f"lab-{number}" for number in range(1, 9)]
NINTH = "lab-9"

#: A second deployment beside the lab's own, of the same model for longer texts: its artifact is another.
FLEET: dict[str, Any] = {
    "model_compile_store": "",
    "trainyard_overrides": {"tiny-llama": {"data_parallel_size": 1}},
    "trainyard_deployment_tiny_llama_long": {
        "name": "tiny-llama-long",
        "model": {
            "repo": "{{ lab_model_repo }}",
            "source": "huggingface",
            "revision": "{{ lab_model_revision }}",
        },
        "served_name": "tiny-llama-long",
        "sdk_release": "2.23.0",
        "generation": "nxdi_v0",
        "runtime": "venv",
        "tensor_parallel_size": 32,
        "data_parallel_size": 1,
        "max_num_seqs": 4,
        "max_model_len": 2048,
        "dtype": "bfloat16",
        "port": 8500,
        "neuron_config": {"model_type": "llama"},
    },
}

#: The last line that the compiler says of a compile that went well.
CLOSING = "Compiling and tracing time"

#: Reads every file of every result on a host and compares it with its manifest; prints one line for each result.
VERIFY = (
    "cd /usr/local/lib/trainyard && python3 -B -c 'import pathlib\n"
    "from trainyard_jobs import manifest\n"
    'for found in sorted(pathlib.Path("/data").glob("*/**/manifest.json")):\n'
    "    described = manifest.read(found.parent)\n"
    '    print(described["kind"], described["files_digest"], manifest.full_problems(found.parent, described))\''
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("fan-out", len(HOSTS), **FLEET) as made:
        yield made


def compiles(lab: Lab, hosts: list[str]) -> dict[str, int]:
    """How many compiles went well on each host, where any did."""
    return {host: log.count(CLOSING) for host, log in logs(lab, "artifact", hosts).items() if CLOSING in log}


def sources(lab: Lab, kind: str, hosts: list[str]) -> dict[str, list[str]]:
    """Where each host fetched from, in order."""
    return {host: re.findall(r"^fetching from ([\w./-]+)", log, re.M) for host, log in logs(lab, kind, hosts).items()}


def assert_no_trust_is_left(lab: Lab, hosts: list[str]) -> None:
    for host in hosts:
        assert lab.on(host, "grep -s trainyard-job /home/ubuntu/.ssh/authorized_keys || true") == ""
        assert lab.on(host, "find /run/trainyard/peers -type f") == ""


def test_eight_hosts_cost_one_download_and_one_compile_a_digest(lab: Lab) -> None:
    lab.play(PROVISION, COMPILE)
    came_from = sources(lab, "weights", HOSTS)
    assert all(len(found) == 1 for found in came_from.values()), came_from
    from_hub = [host for host, found in came_from.items() if not found[0].startswith("lab-")]
    assert len(from_hub) == 1, came_from
    assert sum(compiles(lab, HOSTS).values()) == 2, compiles(lab, HOSTS)
    assert len(compiles(lab, HOSTS)) == 2, "one host compiled both"


def test_each_host_has_all_of_it_and_every_byte_is_right(lab: Lab) -> None:
    found = {host: lab.on(host, VERIFY) for host in HOSTS}
    assert len(set(found.values())) == 1, found
    lines = found[HOSTS[0]].splitlines()
    assert [line.split()[0] for line in lines] == ["artifact", "artifact", "weights"]
    assert all(line.endswith(" []") for line in lines), lines


def test_no_host_serves_another_for_longer_than_the_logarithm(lab: Lab) -> None:
    came_from = sources(lab, "weights", HOSTS)

    def hops(host: str) -> int:
        sender = came_from[host][0]
        return 1 + hops(sender) if sender.startswith("lab-") else 0

    served = [found[0] for found in came_from.values()]
    assert max(hops(host) for host in HOSTS) <= 3
    assert max(served.count(host) for host in HOSTS) <= 3


def test_no_host_trusts_another_afterwards(lab: Lab) -> None:
    assert_no_trust_is_left(lab, HOSTS)


def test_second_run_fetches_and_compiles_nothing(lab: Lab) -> None:
    before = logs(lab, "artifact", HOSTS)
    assert changes(lab.play(PROVISION, COMPILE)) == 0
    assert logs(lab, "artifact", HOSTS) == before


def test_ninth_host_gets_everything_from_the_fleet(lab: Lab) -> None:
    lab.trainyard("lab", "up", "--name", lab.name, "--hosts", "9")
    before = compiles(lab, HOSTS)
    lab.play(PROVISION, COMPILE)
    assert compiles(lab, [*HOSTS, NINTH]) == before
    for kind, count in (("weights", 1), ("artifact", 2)):
        (found,) = sources(lab, kind, [NINTH]).values()
        assert len(found) == count
        assert set(found) <= set(HOSTS), found
    assert lab.on(NINTH, VERIFY) == lab.on(HOSTS[0], VERIFY)
    assert_no_trust_is_left(lab, [*HOSTS, NINTH])
