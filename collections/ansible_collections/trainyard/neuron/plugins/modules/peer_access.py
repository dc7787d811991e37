#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.peer_access``: one line in the sender's ``authorized_keys``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: peer_access
short_description: Let another host of the fleet read one result, and nothing else
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Runs on the host that has a result (a checkpoint, an artifact), as the user that its receiver will log in as. It
    adds one line to that user's C(authorized_keys). The line runs one program that sends the files of that result
    whatever its client asks for, forwards nothing, and expires after a day. The receiver has it removed when it is
    done.
  - Returns what the receiver needs to know of this host, among it the host keys, so that it trusts no stranger.
options:
  job:
    description: Name of the job, C(<kind>-<id>).
    type: str
    required: true
  path:
    description: Directory of the result on this host.
    type: path
    required: true
  receiver:
    description: Name of the receiving host.
    type: str
    required: true
  turn:
    description: How many other receivers of the same result are served first.
    type: int
    default: 0
  public_key:
    description: Public key that the receiver made for this job. May be empty in check mode, where none is made.
    type: str
    required: true
attributes:
  check_mode:
    description: Changes nothing.
    support: full
  diff_mode:
    description: Not supported, the line is gone when the job is done.
    support: none
"""

EXAMPLES = r"""
- name: Let the receiver in
  trainyard.neuron.peer_access:
    job: weights-example-model-0123456789ab
    path: /data/weights/example/model/0123456789abcdef0123456789abcdef01234567
    receiver: "{{ inventory_hostname }}"
    public_key: "{{ made.public_key }}"
  delegate_to: the-sender
"""

RETURN = r"""
login:
  description:
    - User, port and host keys with which the receiver reaches this host.
    - Empty in check mode, and where no SSH service answers.
  returned: success
  type: dict
"""

import os
import pwd
import time
from typing import Any, Callable, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import trust

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "job": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "receiver": {"type": "str", "required": True},
    "turn": {"type": "int", "default": 0},
    "public_key": {"type": "str", "required": True, "no_log": False},
}


def login(run: Callable[[List[str]], Tuple[int, str, str]]) -> Dict[str, Any]:
    """Return user, port and host keys of this host's SSH service.

    The service itself is asked for its keys, from this host and so over no network: its configuration may keep them
    anywhere.

    A host that is not managed over SSH has no such service: the answer is empty.
    """
    # client address, client port, server address, server port: how the controller came in, others do as well.
    connection = os.environ.get("SSH_CONNECTION", "").split()
    address, port = connection[2:] if len(connection) == 4 else ("127.0.0.1", "22")
    _status, output, _errors = run(["ssh-keyscan", "-T", "10", "-p", port, address])
    keys = [line.split(" ", 1)[1] for line in output.splitlines() if line and not line.startswith("#")]
    if not keys:
        return {}
    return {"user": pwd.getpwuid(os.getuid()).pw_name, "port": int(port), "host_keys": sorted(keys)}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    names = ("job", "path", "receiver", "turn", "public_key")
    try:
        if module.check_mode:
            module.exit_json(changed=True, login={})
        reached = login(module.run_command)
        if not reached:
            module.warn("no SSH service answers here: receivers get nothing from this host")
            module.exit_json(changed=False, login={})
        grant = trust.Grant(**{name: module.params[name] for name in names})
        trust.of_this_user().grant(grant, time.time())
        module.exit_json(changed=True, login=reached)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"{error}. The receiver goes on waiting for a while; run again to introduce it anew")


if __name__ == "__main__":
    main()
