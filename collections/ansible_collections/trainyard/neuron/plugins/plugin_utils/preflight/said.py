# SPDX-License-Identifier: Apache-2.0
"""What of a host's variables cannot work, whatever the host is: a later role would refuse it, hours from now."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import clients, runner
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch.rules import ThresholdError, thresholds_of

#: Variable, value, rule and fix of a problem; a certificate's value is told to nobody.
Said = tuple[str, Any, str, str]

_PAIR = "give the chain and its private key as PEM text, the key without a password"


def router(variables: Mapping[str, Any]) -> list[Said]:
    """Return what HAProxy, or who stands beside it, will not take."""
    found: list[Said] = []
    if variables.get("load_balancer_tls") == "given":
        wrong = certificate_problem(str(variables.get("load_balancer_certificate") or ""))
        found += (
            [("load_balancer_certificate", None, f"load_balancer_tls is given, and it {wrong}", _PAIR)] if wrong else []
        )
    if variables.get("load_balancer_virtual_address") and not variables.get("load_balancer_virtual_interface"):
        rule = "must be given: it carries load_balancer_virtual_address"
        fix = "name the router's interface, such as ens5 (`ip -br address` there)"
        found.append(("load_balancer_virtual_interface", "", rule, fix))
    if variables.get("load_balancer_backend") == "vllm_router":
        for name in ("load_balancer_affinity_header", "load_balancer_affinity_prefix_bytes"):
            if variables.get(name):
                rule = "chooses a replica, and so does load_balancer_backend: vllm_router"
                found.append((name, variables[name], rule, "leave one of the two out"))
    return found


def watch(variables: Mapping[str, Any]) -> list[Said]:
    """Return what Prometheus will not take."""
    found: list[Said] = []
    try:
        thresholds_of(variables.get("monitoring_thresholds") or {})
    except ThresholdError as error:
        told = "; ".join(line.removeprefix("monitoring_thresholds.").rstrip("?") for line in str(error).splitlines())
        found.append(("monitoring_thresholds", None, told, "docs/alerts.md has them all"))
    pair = [str(variables.get(name) or "") for name in ("monitoring_certificate", "monitoring_certificate_key")]
    if any(pair):
        wrong = certificate_problem("\n".join(pair))
        found += [("monitoring_certificate", None, wrong, _PAIR)] if wrong else []
    return found


def loads(benchmarks: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[Said]:
    """Return the loads that the client of a benchmark cannot send.

    Args:
        benchmarks: those in which a host sends load, of the plan.
        variables: of the host; a load among them is given for the run, and takes the place of all.
    """
    found: dict[str, Said] = {}
    for benchmark in benchmarks:
        client = client_of(benchmark, variables)
        given = variables.get("benchmark_load") or benchmark["load"]
        more = {"urls": [benchmark["url"]], "cluster": {"hosts": 2} if len(benchmark["load_hosts"]) > 1 else {}}
        try:
            load = runner.resolve_load(dict(given), runner.slots_of(list(benchmark["replicas"])))
            clients.CLIENTS[client]("", "").check({**load, **more})
        except runner.RunError as error:
            rule = str(error).removeprefix("benchmark_load: ")
            found[rule] = ("benchmark_load", None, rule, "docs/benchmarks.md has every word of a load")
        except clients.ClientError as error:
            text = str(error)
            found[text] = (
                "benchmark_client",
                client,
                f"cannot send the load of {benchmark['deployment']}: {text}",
                "one of the two",
            )
        if client == "vllm_bench" and not variables.get("benchmark_vllm_venv"):
            rule = "must be given: vllm_bench is of a vLLM environment of the load host"
            found["venv"] = ("benchmark_vllm_venv", "", rule, "name it, or leave benchmark_client out")
    return list(found.values())


def client_of(benchmark: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
    """Return the client that sends a benchmark's load, as the role chooses it."""
    asked = str(variables.get("benchmark_client") or "")
    return asked or ("llmperf" if len(benchmark["load_hosts"]) > 1 else "llmeter")


def certificate_problem(pem: str) -> str:
    """Return why a text is no certificate with its private key, empty where it is."""
    for mark, what in (("BEGIN CERTIFICATE", "certificate"), ("PRIVATE KEY", "private key")):
        if mark not in pem:
            return f"has no {what} (a text with {mark!r})"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write(pem)
        file.flush()
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file.name, password="")
        except (OSError, ValueError) as error:
            return f"cannot be read: {getattr(error, 'reason', None) or error}"
    return ""
