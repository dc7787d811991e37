#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ask servers for tokens: the gate of a replica, as a module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: generation_probe
short_description: Prove that servers generate, and how fast
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Asks each server for its model and for greedy completions, streamed. The completions must agree, and the last one
    must keep to the limits. An open port or a C(/health) that answers 200 proves neither.
  - It changes nothing, so it does the same in check mode.
options:
  targets:
    description: The servers, all of which are asked.
    type: list
    elements: dict
    required: true
    suboptions:
      url:
        description: C(http://address:port), of a replica or of a router.
        type: str
        required: true
      model:
        description: The model that it has to offer.
        type: str
        required: true
      name:
        description: What to call it in messages. Defaults to its address.
        type: str
  prompt:
    description: Text to complete.
    type: str
    default: The capital of France is
  max_tokens:
    description: Tokens to ask for.
    type: int
    default: 8
  completions:
    description: How often.
    type: int
    default: 2
  ttft_s:
    description: Limit of the last completion's time to first token, in seconds.
    type: float
    default: 60.0
  per_token_s:
    description: Limit of its mean time per further token, in seconds.
    type: float
    default: 5.0
  wait_s:
    description: How long a server may still be on its way up, in seconds.
    type: float
    default: 0.0
  api_key:
    description: Key that the servers ask for.
    type: str
attributes:
  check_mode:
    description: Asks as usual; nothing changes by it.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference.
    support: none
"""

EXAMPLES = r"""
- name: Every replica of this host generates
  trainyard.neuron.generation_probe:
    targets:
      - url: http://10.0.0.5:8000
        model: meta-llama/Llama-3.3-70B-Instruct
    ttft_s: 2
    per_token_s: 0.1
"""

RETURN = r"""
targets:
  description: What each server showed.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    text:
      description: What it generated.
      type: str
    tokens:
      description: How many tokens that is.
      type: int
    ttft_ms:
      description: Time to first token, in milliseconds.
      type: float
    per_token_ms:
      description: Mean time per further token, in milliseconds.
      type: float
"""

import time
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import probe

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "targets": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "url": {"type": "str", "required": True},
            "model": {"type": "str", "required": True},
            "name": {"type": "str"},
        },
    },
    "prompt": {"type": "str", "default": "The capital of France is"},
    "max_tokens": {"type": "int", "default": 8, "no_log": False},
    "completions": {"type": "int", "default": 2},
    "ttft_s": {"type": "float", "default": 60.0},
    "per_token_s": {"type": "float", "default": 5.0, "no_log": False},
    "wait_s": {"type": "float", "default": 0.0},
    "api_key": {"type": "str", "no_log": True},
}
POLL_S = 0.5


def ask(target: Dict[str, Any], params: Dict[str, Any], deadline: float) -> probe.Completion:
    """Probe one server, again and again while it is on its way up and there is time.

    Raises:
        ProbeError: it does not serve, or not fast enough.
    """
    limit_s = params["ttft_s"] + params["max_tokens"] * params["per_token_s"]
    client = probe.Client(target["url"], params["api_key"], max(limit_s, 1.0))
    while True:
        try:
            completion = probe.check(
                client, target["model"], params["prompt"], params["max_tokens"], params["completions"], limit_s
            )
            break
        except probe.ProbeError as error:
            if error.answered or time.monotonic() >= deadline:
                raise
            time.sleep(POLL_S)
    slow = probe.over_budget(completion, params["ttft_s"], params["per_token_s"])
    if slow:
        raise probe.ProbeError(slow, True)
    return completion


def main() -> None:
    """Ask every target, then report all failures at once."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    deadline = time.monotonic() + params["wait_s"]
    rows: List[Dict[str, Any]] = []
    failures = []
    for target in params["targets"]:
        name = target["name"] or target["url"]
        try:
            seen = ask(target, params, deadline)
        except probe.ProbeError as error:
            failures.append("{0}: {1}".format(name, error))
            continue
        rows.append(
            {
                "name": name,
                "text": seen.text,
                "tokens": seen.tokens,
                "ttft_ms": round(seen.ttft_s * 1000, 3),
                "per_token_ms": round(seen.per_token_s * 1000, 3),
            }
        )
    if failures:
        module.fail_json(msg="; ".join(failures), targets=rows)
    module.exit_json(changed=False, targets=rows, msg="{0} servers generate".format(len(rows)))


if __name__ == "__main__":
    main()
