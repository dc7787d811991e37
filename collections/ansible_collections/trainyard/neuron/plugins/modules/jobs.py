#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.jobs``: one look at a host's jobs, and the start of missing ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: jobs
short_description: Have directories of results made by systemd units, once
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Weights and compiled artifacts take minutes to hours to make. Each is made by a systemd unit
    (C(trainyard-<kind>@<id>.service)), so neither a lost connection nor a killed controller ends the work; the next run
    finds the unit running and waits for it.
  - A result is complete when its C(manifest.json), written last, names the wanted inputs and every file that it lists
    has its size. That look is all that a second run costs.
  - The action plugin of the same name calls the module again while units run, and prints their progress.
options:
  jobs:
    description: The wanted results.
    type: list
    elements: dict
    required: true
    suboptions:
      kind:
        description: Which program makes the result.
        type: str
        choices: [weights, artifact, build]
        required: true
      id:
        description: Name of the job, part of the unit's name.
        type: str
        required: true
      path:
        description: Directory of the result. It appears whole or not at all.
        type: str
        required: true
      inputs:
        description: What the result is made from. A result made from other inputs is made anew.
        type: dict
        required: true
      spec:
        description: What else the program needs to know. Must hold no secret, it is a file on the host.
        type: dict
        default: {}
  state:
    description: V(present) makes what is missing. V(absent) stops the units and removes results and records.
    type: str
    choices: [present, absent]
    default: present
  wait_s:
    description: How many seconds one module run waits on the host before it reports progress.
    type: int
    default: 5
  mine:
    description: Ids that this task started or attached to. Filled by the action plugin.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Says what would be made and starts nothing.
    support: full
  diff_mode:
    description: One line for each job.
    support: full
"""

EXAMPLES = r"""
- name: The checkpoint is here, complete and verified
  trainyard.neuron.jobs:
    jobs:
      - kind: weights
        id: example-model-0123456789ab
        path: /data/weights/example/model/0123456789abcdef0123456789abcdef01234567
        inputs:
          repo: example/model
          revision: 0123456789abcdef0123456789abcdef01234567
          source: huggingface
          uri:
          exclude: []
"""

RETURN = r"""
done:
  description: Ids of the results that are complete.
  returned: success
  type: list
  elements: str
running:
  description: Jobs whose unit still works, with one line about each.
  returned: success
  type: list
  elements: dict
  sample: [{"id": "example-model-0123456789ab", "progress": "fetching, 1.2 GB of 4.8 GB (25 %), 310.0 MB/s, 12 s left"}]
failed_jobs:
  description: Jobs that ended without a result, with cause, state left, next step and the end of their log.
  returned: failure
  type: list
  elements: dict
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import job_units
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import progress

ARGUMENT_SPEC = {
    "jobs": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "kind": {"type": "str", "choices": ["weights", "artifact", "build"], "required": True},
            "id": {"type": "str", "required": True},
            "path": {"type": "str", "required": True},
            "inputs": {"type": "dict", "required": True},
            "spec": {"type": "dict", "default": {}},
        },
    },
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "wait_s": {"type": "int", "default": 5},
    "mine": {"type": "list", "elements": "str", "default": []},
}


def present(module: AnsibleModule, units: job_units.JobUnits) -> None:
    """Start what is missing, wait a little, and report; fails when a job of this task ended without a result."""
    mine = set(module.params["mine"])
    states = [units.describe(wanted) for wanted in module.params["jobs"]]
    missing = [state for state in states if not state.complete]
    diff = {
        "before": "".join(f"{state.job['path']}: {'; '.join(state.problems[:3])}\n" for state in missing),
        "after": "".join(f"{state.job['path']}: complete\n" for state in missing),
    }
    if module.check_mode or not missing:
        done = [state.identifier for state in states if state.complete]
        module.exit_json(changed=bool(missing) or bool(mine), done=done, running=[], diff=diff)
    for state in missing:
        if not state.running and state.identifier not in mine:
            units.start(state.job)
            state.running = True
        mine.add(state.identifier)
    states = units.wait(states, module.params["wait_s"])
    failed = [units.failure(state.job) for state in states if not state.complete and not state.running]
    if failed:
        module.fail_json(msg=explain(failed), failed_jobs=failed, changed=True)
    module.exit_json(
        changed=True,
        done=[state.identifier for state in states if state.complete],
        running=[
            {"id": state.identifier, "progress": progress.describe(state.report)} for state in states if state.running
        ],
        diff=diff,
    )


def explain(failed: List[Dict[str, Any]]) -> str:
    """Return one message about all failed jobs: cause, state left, next step, log."""
    return "\n".join(
        f"{entry['id']}: {entry['cause']}. Left: {entry['left']}. Next: {entry['next']}. Log: {entry['log']}"
        for entry in failed
    )


def absent(module: AnsibleModule, units: job_units.JobUnits) -> None:
    """Remove results and records."""
    traces = {wanted["id"]: units.traces(wanted) for wanted in module.params["jobs"]}
    before = "".join(f"{path}\n" for paths in traces.values() for path in paths)
    if before and not module.check_mode:
        for wanted in module.params["jobs"]:
            units.remove(wanted)
    module.exit_json(changed=bool(before), done=[], running=[], diff={"before": before, "after": ""})


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    units = job_units.JobUnits(module.run_command)
    try:
        job_units.check(module.params["jobs"])
        {"present": present, "absent": absent}[module.params["state"]](module, units)
    except (OSError, ValueError, RuntimeError) as error:
        module.fail_json(msg=f"{error}. Jobs that were started go on; run again to attach to them")


if __name__ == "__main__":
    main()
