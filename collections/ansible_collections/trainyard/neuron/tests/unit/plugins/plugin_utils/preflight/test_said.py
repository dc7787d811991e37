# SPDX-License-Identifier: Apache-2.0
"""Variables that a role of a later stage would refuse are told of in preflight, with no host's help."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight import said

BENCHMARK: dict[str, Any] = {
    "deployment": "m",
    "url": "http://10.0.0.9:8080",
    "load": {"concurrency": 4, "requests": 8},
    "load_hosts": [{"name": "load"}],
    "replicas": [{"max_num_seqs": 4}],
}


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate, its key, and a key of another one."""
    folder = tmp_path_factory.mktemp("pems")
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=x",
    ]
    for name in ("its", "other"):
        more = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
        subprocess.run([*make, *more], check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


def lines(found: list[said.Said]) -> list[str]:
    return [f"{variable}: {rule}" for variable, _value, rule, _fix in found]


def test_a_certificate_is_one_with_its_key(pems: dict[str, str]) -> None:
    assert said.certificate_problem(pems["its.crt"] + pems["its.key"]) == ""
    assert "no certificate" in said.certificate_problem("")
    assert "no private key" in said.certificate_problem(pems["its.crt"])
    assert "KEY_VALUES_MISMATCH" in said.certificate_problem(pems["its.crt"] + pems["other.key"])
    assert "cannot be read" in said.certificate_problem("BEGIN CERTIFICATE PRIVATE KEY")


def test_a_router_s_certificate_interface_and_chooser(pems: dict[str, str]) -> None:
    assert said.router({}) == []
    assert said.router({"load_balancer_tls": "self_signed"}) == []
    given = {"load_balancer_tls": "given", "load_balancer_certificate": pems["its.crt"] + pems["its.key"]}
    assert said.router(given) == []
    found = said.router({**given, "load_balancer_certificate": pems["its.crt"]})
    assert [row[:2] for row in found] == [("load_balancer_certificate", None)]
    assert "has no private key" in found[0][2]
    pair = {"load_balancer_virtual_address": "10.0.0.100/24"}
    assert "must be given" in lines(said.router(pair))[0]
    assert said.router({**pair, "load_balancer_virtual_interface": "ens5"}) == []
    two = {"load_balancer_backend": "vllm_router", "load_balancer_affinity_header": "X-Session"}
    assert lines(said.router(two))[0].startswith("load_balancer_affinity_header: chooses")
    assert said.router({**two, "load_balancer_backend": "haproxy"}) == []


def test_a_monitor_s_thresholds_and_certificate(pems: dict[str, str]) -> None:
    assert said.watch({}) == []
    assert said.watch({"monitoring_thresholds": {"queue_time_s": 20}}) == []
    told = lines(said.watch({"monitoring_thresholds": {"queue_tim_s": 20}}))
    assert told == ["monitoring_thresholds: queue_tim_s: 20 is no threshold: did you mean 'queue_time_s'"]
    pair = {"monitoring_certificate": pems["its.crt"], "monitoring_certificate_key": pems["its.key"]}
    assert said.watch(pair) == []
    found = said.watch({**pair, "monitoring_certificate_key": pems["other.key"]})
    assert [row[0] for row in found] == ["monitoring_certificate"]


@pytest.mark.parametrize(
    ("load", "variables", "word"),
    [
        ({}, {}, ""),
        ({"turns": 3}, {}, ""),
        ({}, {"benchmark_client": "vllm_bench", "benchmark_vllm_venv": "/opt/vllm"}, ""),
        ({"turns": 3}, {"benchmark_client": "llmperf"}, "benchmark_client: cannot send the load of m"),
        ({"request_rate_per_s": 2}, {"benchmark_client": "llmperf"}, "no open loop"),
        ({"dataset": "/srv/x.jsonl"}, {"benchmark_client": "llmperf"}, "leave dataset empty"),
        ({}, {"benchmark_client": "vllm_bench"}, "benchmark_vllm_venv: must be given"),
        ({}, {"benchmark_load": {"concurency": 3}}, "benchmark_load: "),
        ({"turns": 3}, {"benchmark_client": "llmperf", "benchmark_load": {"concurrency": 3}}, ""),
    ],
)
def test_a_load_is_one_that_its_client_sends(load: dict[str, Any], variables: dict[str, Any], word: str) -> None:
    """What is given for the run takes the place of the deployments' loads; each mix of one has the same to say."""
    benchmark = {**BENCHMARK, "load": {**BENCHMARK["load"], **load}}
    found = lines(said.loads([benchmark, benchmark], variables))
    assert len(found) == bool(word)
    assert all(word in line for line in found)


def test_hosts_that_send_together_have_a_client_that_can() -> None:
    two = {**BENCHMARK, "load_hosts": [{"name": "a"}, {"name": "b"}]}
    assert said.loads([two], {}) == []
    assert "sends from one host" in lines(said.loads([two], {"benchmark_client": "llmeter"}))[0]
