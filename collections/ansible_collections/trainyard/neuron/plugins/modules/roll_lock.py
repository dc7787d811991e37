#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""The lock and the journal of a roll on one host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: roll_lock
short_description: Take or give back a host for a roll, and keep its journal
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - One roll at a time moves the replicas of a host. The lock names its owner and ends by itself some time after the
    last step of a run, so that a dead controller blocks nobody for ever.
  - With the lock the journal is opened - the replicas that the run is going to move and whether they belong into
    rotation. What is still in it when the next run begins was left out of rotation by an interrupted one.
options:
  state:
    description: V(taken) takes or renews the lock; V(freed) gives it back and closes the journal of O(finished).
    type: str
    choices: [taken, freed]
    default: taken
  run:
    description: Id of the run.
    type: str
    required: true
  owner:
    description: Who runs it, C(user@controller).
    type: str
    default: ""
  pid:
    description: Process of the run on its controller.
    type: int
    default: 0
  verb:
    description: What it does, for the message that others get.
    type: str
    default: redeploy
  ttl_seconds:
    description: How long the lock stays held after the last step.
    type: float
    default: 7200
  take_over:
    description: Runs that are known to be dead.
    type: list
    elements: str
    default: []
  moves:
    description: The moves of the roll's plan that concern this host.
    type: list
    elements: dict
    default: []
  finished:
    description: Names of replicas that are where they belong.
    type: list
    elements: str
    default: []
  tidy:
    description: With V(freed), remove staged releases that no replica points at as current or previous.
    type: bool
    default: false
attributes:
  check_mode:
    description: Refuses what it would refuse, and changes nothing.
    support: full
  diff_mode:
    description: Not supported.
    support: none
"""

EXAMPLES = r"""
- name: Take the lock
  trainyard.neuron.roll_lock:
    run: "{{ trainyard_roll.run }}"
    owner: "{{ trainyard_roll.owner }}"
    moves: "{{ host_moves }}"

- name: Give the lock back
  trainyard.neuron.roll_lock:
    state: freed
    run: "{{ trainyard_roll.run }}"
    finished: [llama-0, llama-1]
"""

RETURN = r"""
holder:
  description: Who holds the lock afterwards; null if nobody does.
  returned: always
  type: dict
removed:
  description: Release directories that were removed.
  returned: with tidy
  type: list
  elements: str
"""

import time
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import (
    Book,
    Holder,
    LockHeldError,
    decide,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.releases import Releases

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "state": {"type": "str", "choices": ["taken", "freed"], "default": "taken"},
    "run": {"type": "str", "required": True},
    "owner": {"type": "str", "default": ""},
    "pid": {"type": "int", "default": 0},
    "verb": {"type": "str", "default": "redeploy"},
    "ttl_seconds": {"type": "float", "default": 7200},
    "take_over": {"type": "list", "elements": "str", "default": []},
    "moves": {"type": "list", "elements": "dict", "default": []},
    "finished": {"type": "list", "elements": "str", "default": []},
    "tidy": {"type": "bool", "default": False},
}


def take(book: Book, parameters: Dict[str, Any], check_mode: bool) -> bool:
    """Take the lock; returns whether it was changed.

    Raises:
        LockHeldError: somebody else holds it.
    """
    now = time.time()
    wanted = Holder(
        run=parameters["run"],
        owner=parameters["owner"],
        pid=parameters["pid"],
        verb=parameters["verb"],
        since=now,
        expires=now + parameters["ttl_seconds"],
    )
    if check_mode:
        decide(book.holder(), wanted, now, parameters["take_over"])
        return True
    return book.take(wanted, parameters["moves"], now, parameters["take_over"])


def main() -> None:
    """Take or free."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    book = Book()
    result: Dict[str, Any] = {"changed": False}
    try:
        if module.params["state"] == "taken":
            result["changed"] = take(book, module.params, module.check_mode)
        elif not module.check_mode:
            result["changed"] = book.free(module.params["run"], module.params["finished"])
            if module.params["tidy"]:
                releases = Releases()
                result["aligned"] = releases.align()
                result["removed"] = releases.prune()
                result["changed"] = bool(result["changed"] or result["aligned"] or result["removed"])
    except LockHeldError as error:
        module.fail_json(msg=str(error), holder=vars(error.holder), **result)
    module.exit_json(holder=book.read()["holder"], **result)


if __name__ == "__main__":
    main()
