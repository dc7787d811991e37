#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Watching replicas for a while."""

from __future__ import annotations

DOCUMENTATION = r"""
module: roll_watch
short_description: Count what replicas and routers do during a stretch of time
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Reads the engines' metrics and the router's counters of this host twice, O(seconds) apart, and reports the
    difference, with greedy completions of golden prompts that it asks for meanwhile. Changes nothing.
options:
  replicas:
    description: Replicas of this host to watch.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: Id of the replica in the fleet.
        type: str
        required: true
      url:
        description: Where its server listens.
        type: str
        required: true
      served_name:
        description: Name that it serves its model under.
        type: str
        required: true
  seconds:
    description: How long to watch.
    type: float
    default: 10
  golden:
    description: Prompts that each replica completes greedily.
    type: list
    elements: str
    default: []
  golden_tokens:
    description: Tokens of each golden completion.
    type: int
    default: 16
  router_socket:
    description: HAProxy's stats socket; where it exists, requests and failures of its servers are counted.
    type: path
    default: /run/haproxy/admin.sock
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Watch the canary and its peers
  trainyard.neuron.roll_watch:
    replicas: "{{ watched_replicas }}"
    seconds: 120
    golden: ["The capital of France is"]
  register: roll_watched
"""

RETURN = r"""
replicas:
  description: By id, what each engine counted while it was watched, its golden completions, and what went wrong.
  returned: success
  type: dict
routed:
  description: By server name, requests and failed requests at the router of this host.
  returned: success
  type: dict
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import metrics
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.host import fetch_metrics
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import SOCKET, Router, RouterError
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import probe, watch
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.layout import RUNTIME

GOLDEN_TIMEOUT_S = 120.0
ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "replicas": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "id": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "served_name": {"type": "str", "required": True},
        },
    },
    "seconds": {"type": "float", "default": 10},
    "golden": {"type": "list", "elements": "str", "default": []},
    "golden_tokens": {"type": "int", "default": 16, "no_log": False},
    "router_socket": {"type": "path", "default": SOCKET},
}


def reading(url: str) -> Optional[metrics.Reading]:
    """An engine's counters; None if it does not answer."""
    text = fetch_metrics(url)
    return None if text is None else metrics.read(text)


def completions(replica: Dict[str, Any], prompts: List[str], tokens: int) -> Dict[str, str]:
    """Greedy completion of every golden prompt; a failed one is empty, which no peer's is."""
    client = probe.Client(replica["url"], watch.key_of(server_of(replica["id"])), GOLDEN_TIMEOUT_S)
    found = {}
    for prompt in prompts:
        try:
            found[prompt] = client.complete(replica["served_name"], prompt, tokens, GOLDEN_TIMEOUT_S).text
        except probe.ProbeError:
            found[prompt] = ""
    return found


def server_of(name: str) -> int:
    """Process id of the server of a replica, by its id in the fleet; 0 if none was started."""
    try:
        return int((RUNTIME / name.partition(":")[2] / "pid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def look(wanted: Dict[str, Any], seconds: float) -> Dict[str, Dict[str, str]]:
    """Let the time pass, and ask all replicas for their golden completions meanwhile."""

    def ask(item: Dict[str, Any]) -> Dict[str, str]:
        return completions(item, wanted["golden"], wanted["golden_tokens"])

    began = time.monotonic()
    with ThreadPoolExecutor(max_workers=max(1, len(wanted["replicas"]))) as pool:
        answers = list(pool.map(ask, wanted["replicas"]))
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    return {item["id"]: answers[index] for index, item in enumerate(wanted["replicas"])}


def router_counts(path: str) -> Dict[str, Dict[str, int]]:
    """Counters of this host's router; empty if it has none."""
    try:
        return Router(path).counts()
    except RouterError:
        return {}


def main() -> None:
    """Look, wait, look again."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    wanted = module.params
    engines = {item["id"]: reading(item["url"]) for item in wanted["replicas"]}
    routed = router_counts(wanted["router_socket"])
    golden = look(wanted, 0.0 if module.check_mode else wanted["seconds"])
    later = router_counts(wanted["router_socket"])
    rows: Dict[str, Dict[str, Any]] = {}
    for item in wanted["replicas"]:
        before, after = engines[item["id"]], reading(item["url"])
        row: Dict[str, Any] = {"answers": after is not None}
        if after is not None:
            row["reading"] = after.since(before or metrics.Reading()).to_dict()
        row["golden"] = golden[item["id"]]
        rows[item["id"]] = row
    zero = {"requests": 0, "errors": 0}
    module.exit_json(
        changed=False,
        replicas=rows,
        routed={
            name: {key: count[key] - routed.get(name, zero)[key] for key in zero}
            for name, count in later.items()
            # A router that was restarted in between counts from zero.
            if count["requests"] >= routed.get(name, zero)["requests"]
        },
    )


if __name__ == "__main__":
    main()
