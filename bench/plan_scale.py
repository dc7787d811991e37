#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long the planner takes for a fleet: `python bench/plan_scale.py [--hosts 1000] [--limit-s 5]`.

Every host has four deployments with 16 replicas in all, in its own copy of the variables, as an inventory gives them.
Runs on one core and judges that core's time, which a busy machine does not change; exits 1 above the limit.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.plan import plan_fleet  # noqa: E402


def deployment(name: str, width: int, count: int, port: int) -> dict[str, Any]:
    """Return a deployment of a Llama with its own length, so that each has its own artifact."""
    return {
        "name": name,
        "model": {"repo": "meta-llama/Llama-3.2-1B-Instruct", "revision": "0" * 40},
        "served_name": name,
        "sdk_release": "2.23.0",
        "tensor_parallel_size": width,
        "data_parallel_size": count,
        "max_num_seqs": 4,
        "max_model_len": 1024 * width,
        "port": port,
        "neuron_config": {"on_device_sampling_config": {"do_sample": True, "dynamic": True, "global_topk": 64}},
    }


def fleet(hosts: int) -> dict[str, Any]:
    """Return the planner's input: 16 replicas on each host."""
    deployments = [("a", 16, 1, 8000), ("b", 8, 2, 8100), ("c", 4, 5, 8200), ("d", 1, 8, 8300)]
    variables = {f"trainyard_deployment_{item[0]}": deployment(*item) for item in deployments}
    variables["trainyard_instance_type"] = "trn2.48xlarge"
    return {
        "hosts": {
            f"trn2-{number:04d}": {**copy.deepcopy(variables), "ansible_host": f"10.0.{number // 250}.{number % 250}"}
            for number in range(hosts)
        },
        "routers": ["trn2-0000", "trn2-0001"],
    }


def main() -> int:
    """Plan the fleet three times and judge the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--limit-s", type=float, default=5.0, help="exit 1 when the median is above it")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    given = fleet(arguments.hosts)
    taken, waited = [], []
    for _run in range(3):
        start, start_wall = time.process_time(), time.perf_counter()
        plan = plan_fleet(given).to_dict()
        taken.append(time.process_time() - start)
        waited.append(time.perf_counter() - start_wall)
    median_s = sorted(taken)[1]
    replicas = sum(len(host["replicas"]) for host in plan["hosts"].values())
    result = {
        "hosts": arguments.hosts,
        "replicas": replicas,
        "median_cpu_s": round(median_s, 3),
        "cpu_s": [round(seconds, 3) for seconds in taken],
        "wall_s": [round(seconds, 3) for seconds in waited],
        "limit_s": arguments.limit_s,
        "python": sys.version.split()[0],
    }
    print(json.dumps(result))
    return 0 if median_s <= arguments.limit_s and replicas == 16 * arguments.hosts else 1


if __name__ == "__main__":
    sys.exit(main())
