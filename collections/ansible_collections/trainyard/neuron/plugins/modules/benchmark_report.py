#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Documentation of ``trainyard.neuron.benchmark_report``, which runs on the controller as an action."""

from __future__ import annotations

DOCUMENTATION = r"""
module: benchmark_report
short_description: Make the report of a benchmark run
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Unpacks the archive of M(trainyard.neuron.benchmark_run) beside itself on the controller and accounts for every
    request, compares the client's account with the servers' counters, and writes C(report.json) after the published
    schema.
options:
  archive:
    description: The archive on the controller. It is replaced by the run's directory.
    type: path
    required: true
  provenance:
    description: Where the figures come from, V(cpu), V(simulated) or V(measured on INSTANCE-TYPE).
    type: str
    required: true
  replicas:
    description: The replicas behind the router, as the plan has them.
    type: list
    elements: dict
    required: true
  scenario:
    description: Further fields of the report's scenario, such as C(instance_type) or C(price_per_host_hour_usd).
    type: dict
    default: {}
  objective:
    description: Limits that a request must keep to be good, C(time_to_first_token_ms), C(time_per_output_token_ms),
      C(request_latency_ms), and the C(percentile) of requests that must be good.
    type: dict
    default: {}
  failed_limit:
    description: Share of requests that may fail before the run is unsound.
    type: float
    default: 0.0
  balance_limit:
    description: How many times the mean of all replicas the busiest one may serve before the run is unsound.
      0 is no limit.
    type: float
    default: 0.0
  client_reason:
    description: Why this client was used, for the report.
    type: str
    default: ""
attributes:
  check_mode:
    description: Skipped, since check mode makes no run.
    support: full
"""

EXAMPLES = r"""
- name: Report
  trainyard.neuron.benchmark_report:
    archive: results/20261122-001500-tiny-llama-3f2a.tar.gz
    provenance: cpu
    replicas: "{{ lookup('trainyard.neuron.plan', 'host', name='lab-1').replicas }}"
  register: measured
"""

RETURN = r"""
path:
  description: The report.
  returned: success
  type: str
  sample: results/20261122-001500-tiny-llama-3f2a/report.json
page:
  description: The run as a page, which C(trainyard report) wrote; empty where that program is not on the controller.
  returned: success
  type: str
  sample: results/20261122-001500-tiny-llama-3f2a/report.html
table:
  description: The result as lines for a terminal.
  returned: success
  type: list
  elements: str
sound:
  description: Whether nothing about the run is an error.
  returned: success
  type: bool
flags:
  description: What a reader must know about the run.
  returned: success
  type: list
  elements: dict
results:
  description: The figures.
  returned: success
  type: dict
"""
