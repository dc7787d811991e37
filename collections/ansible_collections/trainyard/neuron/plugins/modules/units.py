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
  - While units start, the run says how far each is, first after 5 seconds and then every 10 to 30. They start on the
    host by themselves, so an interrupted controller loses nothing, and the next run waits for those that still start.
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
        type: raw
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
      reload_unless:
        description:
          - Command (a list of words, no shell) that ends with 0 while what the unit set up still holds, such as rules
            of a firewall, which systemd does not know of. Where it fails, a running unit is reloaded, and the last line
            that it prints is the reason. It runs in check mode too, so it must change nothing.
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
  daemon_reload_on:
    description:
      - Globs; a path of O(changed_paths) that matches one reloads systemd even if systemd does not ask for it, which
        compares times of files, so that the older file that a link returns to escapes it.
    type: list
    elements: str
    default: []
  stop_before_start:
    description:
      - Globs of units that may take over what another of them holds, such as cores. None of those that match starts
        before all of them that stop or restart have stopped; one that restarts alone simply restarts.
      - Stopping may take O(timeout_s) then, and starting as long again.
    type: list
    elements: str
    default: []
  wait_s:
    description:
      - How long one run of the module waits for units, in seconds, before it says how far they are and ends. Given by
        the action plugin, which runs it again until all have arrived or failed. Not for users.
    type: float
  pending:
    description: What an earlier run of the module left on its way, as it gave it. Not for users.
    type: dict
    suboptions:
      waits:
        description: The units that are waited for.
        type: list
        elements: dict
        required: true
        suboptions:
          name:
            description: The unit.
            type: str
            required: true
          verb:
            description: What it was told.
            type: str
            choices: [start, restart, reload, stop]
            required: true
          timeout_s:
            description: How long it may take since then, in seconds.
            type: float
            required: true
      began_s:
        description: When they were told, in seconds of the host's clock.
        type: float
        required: true
      problems:
        description: What has gone wrong with others.
        type: list
        elements: str
        required: true
extends_documentation_fragment: [trainyard.neuron.fence]
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import options, units
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence


def main() -> None:
    """Entry point."""
    pending = {"type": "dict", "options": options.PENDING_SPEC}
    spec = {**options.UNITS_SPEC, "pending": pending, "fence": fence.FENCE_OPTION}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    fence.prove(module)
    try:
        if module.params["pending"]:
            result = units.go_on(units.Systemd(), module.params)
        else:
            result = units.converge(units.Systemd(), module.params, module.check_mode, module._diff)
    except units.UnitError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
