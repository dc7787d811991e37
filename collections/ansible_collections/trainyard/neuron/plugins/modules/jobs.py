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
  - Beginning and waiting are two tasks, so that other work can go on between them.
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
        description:
          - What else the program needs to know. Must hold no secret, it is a file on the host.
          - With a C(sender) (host, address, path, turn) that host of the fleet is asked for the result.
        type: dict
        default: {}
  state:
    description:
      - V(looked) tells what is there. V(started) starts the units of what is missing. V(finished) waits for units that
        run, and fails where a result is missing. V(present) starts and waits. V(absent) stops the units and removes
        results and records.
    type: str
    choices: [present, looked, started, finished, absent]
    default: present
  address:
    description: Where other hosts of the fleet reach this one; comes back with V(looked).
    type: str
    default: ""
  wait_s:
    description: How many seconds one module run waits on the host before it reports progress.
    type: int
    default: 5
extends_documentation_fragment: [trainyard.neuron.fence, trainyard.neuron.files]
attributes:
  check_mode:
    description: Says what would be started and starts nothing; does not wait for what was not started.
    support: full
  diff_mode:
    description: One line for each job.
    support: full
"""

EXAMPLES = r"""
- name: The checkpoint is on its way
  trainyard.neuron.jobs:
    state: started
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
files:
  description: What was done to the paths of O(files), C(changed_paths) and C(msg).
  returned: with O(files)
  type: dict
done:
  description: Ids of the results that are complete.
  returned: success
  type: list
  elements: str
missing:
  description: Ids of the results that are not.
  returned: with O(state=looked)
  type: list
  elements: str
paths:
  description: Directories of the results that are complete, by id.
  returned: with O(state=looked)
  type: dict
address:
  description: The option of that name.
  returned: with O(state=looked)
  type: str
introductions:
  description: For jobs that ask another host, what that host must know of this one.
  returned: with O(state=started)
  type: list
  elements: dict
running:
  description: Jobs whose unit still works, with one line about each.
  returned: with O(state=finished)
  type: list
  elements: dict
  sample: [{"id": "example-model-0123456789ab", "progress": "fetching, 1.2 GB of 4.8 GB (25 %), 310.0 MB/s, 12 s left"}]
spans:
  description: When each job that is done worked last, in seconds of the host's clock, and what it needed.
  returned: with O(state=finished)
  type: list
  elements: dict
now:
  description: The host's clock, in seconds.
  returned: with O(state=finished)
  type: float
failed_jobs:
  description: Jobs that ended without a result, with cause, state left, next step and the end of their log.
  returned: failure
  type: list
  elements: dict
"""

import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import job_units, with_files
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import progress
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence

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
    "state": {"type": "str", "choices": ["present", "looked", "started", "finished", "absent"], "default": "present"},
    "address": {"type": "str", "default": ""},
    "wait_s": {"type": "int", "default": 5},
    "files": with_files.FILES_OPTION,
    "fence": fence.FENCE_OPTION,
}


class Module(with_files.WithFiles, AnsibleModule):  # type: ignore[misc]  # ansible-core ships no types
    """The module, which lays out its files first."""


def looked(module: AnsibleModule, units: job_units.JobUnits) -> None:
    """Tell what is there."""
    states = [units.describe(wanted) for wanted in module.params["jobs"]]
    module.exit_json(
        changed=False,
        done=[state.identifier for state in states if state.complete],
        missing=[state.identifier for state in states if not state.complete],
        paths={state.identifier: state.job["path"] for state in states if state.complete},
        address=module.params["address"],
    )


def started(module: AnsibleModule, units: job_units.JobUnits) -> None:
    """Start what is missing and does not run."""
    states = [units.describe(wanted) for wanted in module.params["jobs"]]
    missing = [state for state in states if not state.complete]
    idle = [state for state in missing if not state.running]
    for state in idle:
        if not module.check_mode:
            units.start(state.job)
    module.exit_json(
        changed=bool(idle),
        done=[state.identifier for state in states if state.complete],
        introductions=[found for found in (units.introduction(state) for state in missing) if found],
        diff={
            "before": "".join(f"{state.job['path']}: {'; '.join(state.problems[:3])}\n" for state in idle),
            "after": "".join(f"{state.job['path']}: complete\n" for state in idle),
        },
    )


def finished(module: AnsibleModule, units: job_units.JobUnits) -> None:
    """Wait a little and report; fails when a result is missing and nothing makes it."""
    states = [units.describe(wanted) for wanted in module.params["jobs"]]
    if not module.check_mode:
        states = units.wait(states, module.params["wait_s"])
        failed = [units.failure(state.job) for state in states if not state.complete and not state.running]
        if failed:
            module.fail_json(msg=explain(failed), failed_jobs=failed)
    module.exit_json(
        changed=False,
        done=[state.identifier for state in states if state.complete],
        running=[
            {"id": state.identifier, "progress": progress.describe(state.report)}
            for state in states
            if state.running and not module.check_mode
        ],
        spans=[span for span in (units.span(state.job) for state in states if state.complete) if span],
        now=time.time(),
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
    module.exit_json(changed=bool(before), done=[], diff={"before": before, "after": ""})


def main() -> None:
    """Entry point of the module."""
    module = Module(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    fence.prove(module)
    module.lay_out()
    units = job_units.JobUnits(module.run_command)
    try:
        job_units.check(module.params["jobs"])
        # The action plugin asks for both parts of `present` one after the other.
        states = {"present": started, "looked": looked, "started": started, "finished": finished, "absent": absent}
        states[module.params["state"]](module, units)
    except (OSError, ValueError, RuntimeError) as error:
        module.fail_json(msg=f"{error}. Jobs that were started go on; run again to attach to them")


if __name__ == "__main__":
    main()
