#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""The lock of one host, and the journal of a roll there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: roll_lock
short_description: Take or give back a host for a run that changes it, and keep the journal of a roll
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - One run at a time changes a host. The lock names its owner and ends by itself some time after the last step of a
    run, so that a dead controller blocks nobody for ever. It counts in a clock of the host that nobody sets; where the
    host was booted meanwhile, it holds for its whole length from the boot.
  - With each lock the host gives out the next number. What changes the host afterwards proves by it that the lock is
    still the run's own.
  - A holder whose process is gone is found out on the controller, if it was a run of the same user there, and its lock
    is taken over. C(trainyard_take_over) names another run that is known to be dead.
  - With O(moves) the journal of a roll is opened - the replicas that the run is going to move and whether they belong
    into rotation. What is still in it when the next run begins was left out of rotation by an interrupted one.
  - Outside of C(playbooks) it is called as a task like any other; who runs it is found out by its action plugin.
options:
  state:
    description:
      - V(taken) takes or renews the lock; V(freed) gives it back and closes the journal of O(finished).
      - V(agreed) reaches no host. It fails everywhere if one host that was asked did not give its lock; the first of
        O(hosts) says who has it. A host that could not be asked is not changed by this run.
      - V(unused) gives a lock back under which nothing was done.
      - V(kept) renews a lock, and fails where it is not the run's own any more.
    type: str
    choices: [taken, agreed, freed, unused, kept]
    default: taken
  verb:
    description: What the run does, for the message that others get.
    type: str
    default: redeploy
  lease_s:
    description: How long the lock stays held after the last step, in seconds.
    type: float
    default: 7200
  hosts:
    description: With V(agreed), the names of the hosts that were asked.
    type: list
    elements: str
    default: []
  moves:
    description: The moves of the roll's plan that concern this host.
    type: list
    elements: dict
  finished:
    description: Names of replicas that are where they belong.
    type: list
    elements: str
    default: []
  tidy:
    description: With V(freed), remove staged releases that no replica points at as current or previous.
    type: bool
    default: false
  claim:
    description: Who asks; the action plugin gives it.
    type: dict
    suboptions:
      run:
        description: Id of the run.
        type: str
        required: true
      owner:
        description: Who runs it, C(user@controller).
        type: str
        required: true
      pid:
        description: Process of the run on its controller.
        type: int
        required: true
      verb:
        description: What it does.
        type: str
        required: true
      process:
        description: What tells that process from others with its id.
        type: str
        required: true
      lease_s:
        description: How long the lock is to hold, in seconds.
        type: float
        required: true
      take_over:
        description: Runs that are known to be dead.
        type: list
        elements: str
        default: []
  keep:
    description: With V(freed), close the journal only; the action plugin says so for parts of a longer run.
    type: bool
    default: false
extends_documentation_fragment: [trainyard.neuron.fence]
attributes:
  check_mode:
    description: It takes and gives back nothing.
    support: full
  diff_mode:
    description: Not supported.
    support: none
"""

EXAMPLES = r"""
- name: Take the lock, and open the journal
  trainyard.neuron.roll_lock:
    verb: redeploy
    moves: "{{ host_moves }}"
  register: host_locked

- name: Give the lock back
  trainyard.neuron.roll_lock:
    state: freed
    finished: [llama-0, llama-1]
"""

RETURN = r"""
lock:
  description: Who holds the lock now (C(holder)), and why it was not given (C(refused)), empty if it was.
  returned: with V(taken)
  type: dict
removed:
  description: Release directories that were removed.
  returned: with tidy
  type: list
  elements: str
"""

from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.claim import CLAIM_OPTION, taken
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Book, Fence, StateError
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.releases import Releases

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "state": {"type": "str", "choices": ["taken", "agreed", "freed", "unused", "kept"], "default": "taken"},
    "verb": {"type": "str", "default": "redeploy"},
    "lease_s": {"type": "float", "default": 7200},
    "hosts": {"type": "list", "elements": "str", "default": []},
    "moves": {"type": "list", "elements": "dict"},
    "finished": {"type": "list", "elements": "str", "default": []},
    "tidy": {"type": "bool", "default": False},
    "claim": CLAIM_OPTION,
    "keep": {"type": "bool", "default": False},
    "fence": fence.FENCE_OPTION,
}


def freed(book: Book, parameters: Dict[str, Any], proof: Fence, releases: Releases) -> Dict[str, Any]:
    """Give the lock back; a run that has lost it leaves all as it is.

    Raises:
        StateError: the host's file cannot be read.
    """
    unused = parameters["state"] == "unused"
    result: Dict[str, Any] = {"changed": False}
    holder = book.holder()
    if parameters["tidy"] and holder and holder.run == proof.run:
        result["aligned"] = releases.align()
        result["removed"] = releases.prune()
        result["changed"] = bool(result["aligned"] or result["removed"])
    gone = book.free(proof, parameters["finished"], parameters["keep"], unused)
    # A lock that comes and goes with a run is no change of the host.
    result["changed"] = result["changed"] or bool(gone and parameters["finished"])
    return result


def main() -> None:
    """Take or free."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    book, wanted = Book(), module.params
    if wanted["state"] in ("taken", "kept"):
        fence.prove(module)
    if wanted["state"] == "taken" and wanted["claim"]:
        told = taken(book, wanted["claim"], module.check_mode, wanted["moves"])
        if told["refused"]:
            module.fail_json(msg=told["refused"], lock=told)
        module.exit_json(changed=bool(wanted["moves"]), lock=told)
    proof = fence.fence_of(wanted)
    result: Dict[str, Any] = {"changed": False}
    if proof is None or wanted["state"] not in ("freed", "unused", "kept"):
        module.fail_json(msg="roll_lock finds out on the controller who runs it: call it as a task, not as a module")
    try:
        if proof and wanted["state"] != "kept" and not module.check_mode:
            result = freed(book, wanted, proof, Releases())
    except (StateError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
