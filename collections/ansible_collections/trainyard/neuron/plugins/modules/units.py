#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Bring a set of systemd units to its wanted state in one module run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: units
short_description: Bring a set of systemd units to their wanted state in one module run
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Compares every unit with what systemd reports, reloads systemd when unit files changed, enables, starts, restarts,
    reloads and stops what differs, and waits until all of it has arrived.
  - A unit is restarted for a reason that can be named, and only then. Either its running process carries another
    environment than O(units[].expected_environment), or a file in O(units[].restart_on) changed in this run.
  - When a unit fails, the error has its cause, its last journal lines and the command that shows more.
options:
  units:
    description: The units.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Full name with its suffix.
        type: str
        required: true
      each:
        description:
          - Repeats the row for each element of a list of dictionaries; C({key}) in the other options of the row stands
            for that key of the element.
        type: list
        elements: dict
      state:
        description: What the unit is to be.
        type: str
        choices: [started, stopped]
        default: started
      enabled:
        description: Start at boot. Left alone when not given.
        type: bool
      expected_environment:
        description:
          - Variables that the main process of the running unit must carry. Another value, or none, means that it runs
            an older configuration and is restarted. This is true to what runs, even when an earlier run was cut off
            between writing the files and restarting.
        type: dict
        default: {}
      restart_on:
        description: Globs; a path of O(changed_paths) that matches one restarts the unit.
        type: list
        elements: str
        default: []
      reload_on:
        description: Globs; a path of O(changed_paths) that matches one reloads the unit, unless it is restarted anyway.
        type: list
        elements: str
        default: []
      timeout_s:
        description: How long this unit may take, in seconds. Defaults to O(timeout_s).
        type: int
  changed_paths:
    description: Files that changed before in this run, usually C(changed_paths) of M(trainyard.neuron.file_tree).
    type: list
    elements: str
    default: []
  prune:
    description:
      - Globs of unit names. A unit that matches and is not listed, but runs or starts at boot, is stopped and disabled.
    type: list
    elements: str
    default: []
  timeout_s:
    description: How long the units may take to become active or inactive, in seconds, all of them together.
    type: int
    default: 300
  allowed_restarts:
    description: How often systemd may restart a unit on its own before this module gives up waiting for it.
    type: int
    default: 0
  journal_lines:
    description: Journal lines that an error shows for each unit.
    type: int
    default: 20
  daemon_reload:
    description: Reload systemd even when nothing says that it is needed.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would be done and does nothing.
    support: full
  diff_mode:
    description: One difference for each unit that is not as wanted.
    support: full
"""

EXAMPLES = r"""
- name: Bring the services up
  trainyard.neuron.units:
    changed_paths: "{{ example_files.changed_paths }}"
    timeout_s: 1800
    prune: ["example@*.service"]
    units:
      - name: example@a.service
        enabled: true
        expected_environment:
          EXAMPLE_RELEASE: 3f2a
      - name: haproxy.service
        enabled: true
        reload_on: ["/etc/haproxy/*"]
        restart_on: ["/etc/systemd/system/haproxy.service.d/*"]
"""

RETURN = r"""
units:
  description: Every unit with its state and with what was done; RV(units[].did) is empty where nothing was.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The unit.
      type: str
    did:
      description: What was done, or would be in check mode.
      type: list
      elements: str
    reasons:
      description: Why.
      type: list
      elements: str
    active:
      description: Its active state.
      type: str
    since:
      description: When it became active, in systemd's own form.
      type: str
    main_pid:
      description: Its main process, 0 if none.
      type: int
daemon_reload:
  description: Whether systemd was made to read its unit files again.
  returned: success
  type: bool
"""

from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import units


def wanted_of(params: Dict[str, Any], systemd: units.Systemd) -> List[units.Wanted]:
    """The wanted units: those that are listed, then those that `prune` finds beside them."""
    wanted = [
        units.Wanted(
            name=row["name"],
            state=row["state"],
            enabled=row["enabled"],
            expected_environment={key: str(value) for key, value in row["expected_environment"].items()},
            restart_on=tuple(row["restart_on"]),
            reload_on=tuple(row["reload_on"]),
            timeout_s=row["timeout_s"] or params["timeout_s"],
        )
        for row in params["units"]
    ]
    listed = {want.name for want in wanted}
    strangers = [name for name in systemd.loaded(params["prune"]) if name not in listed]
    return wanted + [units.Wanted(name, "stopped", False, timeout_s=params["timeout_s"]) for name in strangers]


def report(step: units.Step, status: units.Status) -> Dict[str, Any]:
    """One unit for the result."""
    return {
        "name": step.wanted.name,
        "did": step.did(),
        "reasons": list(step.reasons) if step.changes else [],
        "active": status.active,
        "since": status.since,
        "main_pid": status.main_pid,
    }


def summary(steps: List[units.Step], check_mode: bool) -> str:
    """One line that a person can read."""
    changed = [step for step in steps if step.changes]
    if not changed:
        return "all {0} units are as wanted".format(len(steps))
    parts = []
    for step in changed:
        why = " because " + ", ".join(step.reasons) if step.verb in ("restart", "reload") else ""
        parts.append("{0} {1}{2}".format(step.wanted.name, " and ".join(step.did()), why))
    return "{0}{1}".format("would be: " if check_mode else "", "; ".join(parts))


def converge(module: AnsibleModule, systemd: units.Systemd) -> Dict[str, Any]:
    """Compare, carry out unless in check mode, and return the module's result."""
    params = module.params
    wanted = wanted_of(params, systemd)
    before = systemd.show([want.name for want in wanted])
    steps = units.plan(wanted, before, params["changed_paths"])
    stale = units.needs_daemon_reload(before, params["changed_paths"])
    after = before
    if not module.check_mode:
        settings = units.Settings(params["allowed_restarts"], params["journal_lines"])
        after = units.carry_out(systemd, steps, stale or params["daemon_reload"], settings)
    result: Dict[str, Any] = {
        "changed": stale or any(step.changes for step in steps),
        "msg": summary(steps, module.check_mode),
        "daemon_reload": stale or params["daemon_reload"],
        "units": [report(step, after[index]) for index, step in enumerate(steps)],
    }
    if module._diff:
        result["diff"] = [
            {
                "before_header": step.wanted.name,
                "after_header": step.wanted.name,
                "before": units.as_text(step.status, step.wanted),
                "after": units.as_wanted_text(step),
            }
            for step in steps
            if step.changes
        ]
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=units.ARGUMENT_SPEC, supports_check_mode=True)
    try:
        result = converge(module, units.Systemd())
    except units.UnitError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
