#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Runs one benchmark on a load host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: benchmark_run
short_description: Load a fleet with requests and account for every one of them
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Checks that the router serves the model, that every replica is healthy and that nobody else sends traffic; warms up;
    reads the replicas' own counters, runs the client while it samples how busy each replica is, and reads them again.
  - Leaves a directory of evidence, O(directory)/O(run_id), and the same as an archive for the way to the controller.
  - A run that O(run_id) already names as complete is not repeated; its summary is returned with C(changed=false).
options:
  run_id:
    description:
      - Name of the run and of its directory. Empty makes one of the time, O(label) and four random digits.
      - Given, it attaches to that run, complete or under way. What a run that was cut off left is put aside first.
    type: str
    default: ""
  label:
    description: What is measured, for the name of a new run.
    type: str
    default: run
  directory:
    description: Directory on the load host that holds the runs.
    type: path
    default: /var/lib/trainyard/benchmark
  client:
    description: The load generator.
    type: str
    choices: [llmeter, llmperf, vllm_bench]
    required: true
  client_home:
    description: The directory of its Python environment.
    type: path
    required: true
  client_script:
    description: The driver of V(llmeter).
    type: path
    default: ""
  url:
    description: URL of the router, without C(/v1).
    type: str
    required: true
  model:
    description: The model as the router names it.
    type: str
    required: true
  tokenizer:
    description: Directory on the load host with the model's tokenizer.
    type: path
    required: true
  replicas:
    description: The replicas behind the router, as the plan has them. C(id), C(url) and C(max_num_seqs) are read.
    type: list
    elements: dict
    required: true
  load:
    description: What to send. The fields are those of the role's C(benchmark_load).
    type: dict
    default: {}
  api_key:
    description: Key for the router.
    type: str
    default: ""
  cluster:
    description:
      - The Ray cluster of several load hosts, which must be up; C(address) (host:port), C(hosts) (how many it has) and
        C(token_file) (its token, a path on this host). Empty sends from this host alone.
    type: dict
    default: {}
  environment:
    description: Additions to the client's environment.
    type: dict
    default: {}
  idle_timeout_s:
    description: Seconds that the fleet may take to become idle before the load, and to settle after it.
    type: float
    default: 60
  longest_s:
    description:
      - How long all of it may take, in seconds, because the hosts leave then. The load's C(run_timeout_s) is shortened
        to what fits, which RV(shortened) tells; V(0) is no limit.
    type: float
    default: 0
  sample_period_s:
    description: Seconds between two looks at how busy each replica is.
    type: float
    default: 1
attributes:
  check_mode:
    description: Checks the load, looks at the fleet and sends nothing. A fleet that is not ready is a warning.
    support: full
  diff_mode:
    description: A run changes no configuration.
    support: none
"""

EXAMPLES = r"""
- name: Measure
  trainyard.neuron.benchmark_run:
    label: tiny-llama
    client: llmeter
    client_home: /opt/trainyard/benchmark/llmeter
    client_script: /opt/trainyard/benchmark/llmeter_load.py
    url: http://127.0.0.1:8080
    model: tiny-llama
    tokenizer: /data/weights/tiny-llama/0123456789ab
    replicas: "{{ lookup('trainyard.neuron.plan', 'host', name='lab-1').replicas }}"
    load: {requests: 100, mean_input_tokens: 128, mean_output_tokens: 64}
"""

RETURN = r"""
run_id:
  description: The run's name.
  returned: when a run was done
  type: str
archive:
  description: The run's directory as one file.
  returned: when a run was done
  type: str
  sample: /var/lib/trainyard/benchmark/20261122-001500-tiny-llama-3f2a.tar.gz
counts:
  description: Requests sent, and what became of them, over all repeats.
  returned: when a run was done
  type: dict
  sample: {"sent": 100, "succeeded": 100, "failed": 0, "timed_out": 0}
shortened:
  description: Why the load may take less than was asked for; empty where it may not.
  returned: when a run was done
  type: list
  elements: str
load:
  description: The load with every field filled in.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import clients, counters, runner

ARGUMENT_SPEC: Dict[str, Any] = {
    "run_id": {"type": "str", "default": ""},
    "label": {"type": "str", "default": "run"},
    "directory": {"type": "path", "default": "/var/lib/trainyard/benchmark"},
    "client": {"type": "str", "choices": ["llmeter", "llmperf", "vllm_bench"], "required": True},
    "client_home": {"type": "path", "required": True},
    "client_script": {"type": "path", "default": ""},
    "url": {"type": "str", "required": True},
    "model": {"type": "str", "required": True},
    "tokenizer": {"type": "path", "required": True},
    "replicas": {"type": "list", "elements": "dict", "required": True},
    "load": {"type": "dict", "default": {}},
    "api_key": {"type": "str", "default": "", "no_log": True},
    "cluster": {"type": "dict", "default": {}},
    "environment": {"type": "dict", "default": {}},
    "idle_timeout_s": {"type": "float", "default": 60},
    "longest_s": {"type": "float", "default": 0},
    "sample_period_s": {"type": "float", "default": 1},
}


def prepare(params: Dict[str, Any]) -> runner.Run:
    """The run that the parameters describe; `RunError` or `ClientError` says what is wrong with them."""
    load = runner.resolve_load(params["load"], runner.slots_of(params["replicas"]))
    load = runner.within(load, params["longest_s"], params["idle_timeout_s"])
    client = clients.CLIENTS[params["client"]](params["client_home"], params["client_script"])
    fleet = runner.Fleet(params["url"], params["model"], runner.by_id(params["replicas"]), params["api_key"])
    client.check({**load, "urls": [fleet.url], "cluster": params["cluster"]})
    name = params["run_id"] or runner.new_id(params["label"])
    return runner.Run(Path(params["directory"]) / name, fleet, client, load, params)


def check_tools(run: runner.Run, params: Dict[str, Any]) -> None:
    """The client's environment and the tokenizer are on this host, or `RunError`."""
    if not Path(run.client.python).exists():
        raise runner.RunError(f"{params['client_home']} is no Python environment: install the client first")
    if not (Path(params["tokenizer"]) / "tokenizer.json").exists():
        raise runner.RunError(
            f"{params['tokenizer']} has no tokenizer.json: name a directory of this host with the model's tokenizer"
        )


def rehearse(module: AnsibleModule, run: runner.Run) -> None:
    """Say whether the run could start now. In the check of a whole site the fleet need not be up yet: a warning."""
    try:
        runner.check_fleet(run.fleet, run.idle_timeout_s, run.load["models"])
    except runner.RunError as error:
        module.warn(str(error))
    module.exit_json(changed=True, load=run.load, msg="a run would start")


def main() -> None:
    """Do the run, or return the one that was done."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    try:
        run = prepare(params)
        done = runner.finished(run.root)
        if done is None and module.check_mode:
            rehearse(module, run)
        made = False
        if done is None:
            check_tools(run, params)
            _, made = run.attach(bool(params["run_id"]))
        counts = runner.account(runner.read_records(run.root))
        archive = runner.pack(run.root)
    except (runner.RunError, clients.ClientError, counters.UnreachableError) as error:
        module.fail_json(msg=str(error))
    asked_s = runner.resolve_load(params["load"], runner.slots_of(params["replicas"]))["run_timeout_s"]
    shortened = runner.told_of_time(asked_s, run.load["run_timeout_s"]) if made else []
    given = {"changed": made, "load": run.load, "counts": counts, "shortened": shortened}
    module.exit_json(archive=str(archive), run_id=run.root.name, **given)


if __name__ == "__main__":
    main()
