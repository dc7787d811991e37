#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.file_tree``: applies what the action plugin rendered."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_tree
short_description: Bring all files of a role to their wanted state in one module run
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Renders templates on the controller and applies every file, directory, link and removal of the list in one module
    run on the host, because each module run costs a host about 0.3 s of CPU time whether it changes anything or not.
  - All or nothing. Each file is staged beside its place, validated, and moved there atomically. When one fails, those
    that had landed are put back. Removals come last.
  - In check mode the same comparison runs and nothing is written. With C(--diff) each changed path shows its own diff.
options:
  items:
    description: The wanted paths. They are applied in this order; removals after everything else.
    type: list
    elements: dict
    suboptions:
      path:
        description:
          - Absolute path on the host.
          - With O(items[].each), C({name}) in it stands for that key of the element.
        type: str
        required: true
      state:
        description:
          - What the path is to be. V(absent) removes a directory with all that is in it, and the other
            options of the item do not matter then.
        type: str
        choices: [file, directory, link, absent]
        default: file
      template:
        description:
          - Jinja template for the content of a file, looked up in the C(templates) directory of the role, then of the
            playbook, then in the C(templates) directory beside C(roles), which holds what several roles share.
          - It has O(names), O(lists) and the variables of the task, and the filters and tests of Jinja and of
            ansible-core, but no lookups.
            What it names has to be defined.
          - Blank space and line end around a block tag are removed (C(lstrip_blocks) and C(trim_blocks)).
        type: str
      file:
        description: File of the role's C(files) directory to be copied as it is.
        type: str
      module_util:
        description:
          - File of this collection's C(plugins/module_utils) to be copied as it is, relative to that directory, so that
            a program on the host and the modules share one piece of code.
        type: str
      package:
        description:
          - Directory of this collection's C(plugins/module_utils) whose Python files are all to be in this directory,
            as O(items[].module_util) copies one.
        type: str
      content:
        description: The content itself. A dictionary or a list becomes indented JSON with sorted keys.
        type: raw
      target:
        description: What a link points to. C({name}) stands for a key of the element, as in O(items[].path).
        type: str
      previous:
        description:
          - Path of a second link, which gets the old target when this link moves.
          - C({name}) stands for a key of the element, as in O(items[].path).
        type: str
      each:
        description:
          - Repeats the item for each element of a list of dictionaries, or of the one of O(lists) that is named.
          - A template sees the element as C(item).
        type: raw
      owner:
        description: User that owns the path. Defaults to O(owner).
        type: str
      group:
        description: Group of the path. Defaults to O(group).
        type: str
      mode:
        description: Permission bits as an octal string. V(0644) for files and V(0755) for directories by default.
        type: str
      validate:
        description:
          - Command that must exit 0 on the new content before it lands, with C(%s) for the staged file, which keeps
            its name. It runs without a shell.
        type: str
      sensitive:
        description: Keep the content out of diffs, messages and logs. The task needs no C(no_log) for it.
        type: bool
        default: false
      prune:
        description:
          - Globs of names in this directory. What matches and is neither named by another item nor the target of one
            of its links is removed.
        type: list
        elements: str
  owner:
    description: Owner of every path that names none. Without either, the owner is left as it is.
    type: str
  group:
    description: Group of every path that names none. Without either, the group is left as it is.
    type: str
  packages:
    description:
      - Distribution packages that have to be there before, each with a version if there has to be one (C(name=3.0.*)).
      - The module sees what is missing, and the action plugin then does what M(trainyard.neuron.packages)
        does. A run that has nothing to do is one module run.
    type: list
    elements: str
    default: []
  users:
    description: System users that have to be there before, without a home of their own making.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The user's name, and its group's.
        type: str
        required: true
      home:
        description: Its home directory.
        type: str
        required: true
      shell:
        description: Its shell.
        type: str
        default: /usr/sbin/nologin
  names:
    description:
      - What C({name}) stands for in the paths and targets of every item, beside the keys of an element. A value that
        many paths share is worked out once so, instead of once in each.
    type: dict
    default: {}
  lists:
    description:
      - Lists of dictionaries by name, for O(items[].each) and for C(each) of the units. A list that many share is
        worked out once so, instead of once in each.
    type: dict
    default: {}
  services:
    description:
      - Units that are brought to their wanted state once the paths are in place, in the same module run. Takes the
        options of M(trainyard.neuron.units); what changed here counts among its changed paths.
    type: dict
  changed_paths:
    description: Paths that changed before in this run and count among those that units of O(services) are told of.
    type: list
    elements: str
    default: []
  note:
    description:
      - Name under which the host keeps which paths changed until units were told of them. It is written before a path
        changes, and taken away when a task of the same name with O(services) has told the units.
      - So a task that only lays paths out, and a run that is cut off before the units are told, leave none of them with
        an older configuration.
    type: str
  payload:
    description: Filled by the action plugin with the rendered items. Not for users.
    type: str
attributes:
  check_mode:
    description: Compares and changes nothing.
    support: full
  diff_mode:
    description: One difference for each changed path.
    support: full
extends_documentation_fragment: [trainyard.neuron.fence]
"""

EXAMPLES = r"""
- name: Lay out the service
  trainyard.neuron.file_tree:
    owner: root
    group: root
    items:
      - path: /etc/example
        state: directory
        prune: ["*.json"]
      - path: "/etc/example/{name}.json"
        each: "{{ example_instances }}"
        template: instance.json.j2
      - path: /etc/example/token
        content: "{{ example_token }}\n"
        mode: "0600"
        sensitive: true
      - path: /etc/haproxy/haproxy.cfg
        template: haproxy.cfg.j2
        validate: haproxy -c -f %s
      - path: /etc/example/current
        state: link
        target: "releases/{{ example_release }}"
        previous: /etc/example/previous
  register: example_files
"""

RETURN = r"""
paths:
  description: Every path with what was done to it; C(did) is empty where nothing was.
  returned: success
  type: list
  elements: dict
  sample: [{"path": "/etc/haproxy/haproxy.cfg", "changed": true, "did": ["content"]}]
changed_paths:
  description: The paths that changed, for decisions of later tasks.
  returned: success
  type: list
  elements: str
  sample: ["/etc/haproxy/haproxy.cfg"]
installed:
  description: What packages and users had to be made first.
  returned: when there were any
  type: list
  elements: str
  sample: ["package haproxy"]
units:
  description: Every unit as M(trainyard.neuron.units) tells it.
  returned: with O(services)
  type: list
  elements: dict
daemon_reload:
  description: Whether systemd was made to read its unit files again.
  returned: with O(services)
  type: bool
notes:
  description: What check mode could not find out.
  returned: success
  type: list
  elements: str
  sample: []
"""

from typing import Any, Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import file_tree, options, prerequisites, units, untold
from ansible_collections.trainyard.neuron.plugins.module_utils.entries import unpack
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence


def paths_of(outcome: file_tree.Outcome) -> List[Dict[str, Any]]:
    """Every path once, with what was done to it, sorted by path."""
    did: Dict[str, List[str]] = {path: [] for path in outcome.unchanged}
    for change in outcome.changes:
        did.setdefault(change.entry.path, []).extend(change.what)
    return [{"path": path, "changed": bool(done), "did": done} for path, done in sorted(did.items())]


def result_of(outcome: file_tree.Outcome, diff: bool) -> Dict[str, Any]:
    """What was found and done to the paths."""
    paths = paths_of(outcome)
    result: Dict[str, Any] = {
        "changed": bool(outcome.changes),
        "msg": outcome.summary(),
        "paths": paths,
        "changed_paths": [row["path"] for row in paths if row["changed"]],
        "notes": outcome.notes,
    }
    if diff:
        result["diff"] = [change.as_diff() for change in outcome.changes]
    return result


def apply(
    outcome: file_tree.Outcome, keeps: Optional[untold.Note], before: List[str], changed_paths: List[str]
) -> None:
    """Apply what differs; a note of it is there first, and as it was before where all of it was put back.

    Raises:
        file_tree.TreeError: something could not be applied.
        untold.NoteError: the note could not be written, and nothing was applied.
    """
    if keeps and changed_paths != before:
        keeps.write(changed_paths)
    try:
        file_tree.apply(outcome)
    except file_tree.TreeError:
        if keeps and changed_paths != before:
            keeps.write(before)
        raise


def bring_up(module: AnsibleModule, result: Dict[str, Any], changed_paths: List[str]) -> None:
    """Bring up the units that the paths are for, and add what was done to them to the result."""
    wanted = dict(module.params["services"])
    wanted["changed_paths"] = changed_paths + wanted["changed_paths"]
    try:
        done = units.converge(units.Systemd(), wanted, module.check_mode, module._diff)
    except units.UnitError as error:
        # The paths stay as they are now: the next run finds them so, and the units that are not up.
        module.fail_json(**{**result, "msg": "{0}\n({1})".format(error, result["msg"])})
    # Taken out in any case: what is left of it goes over the result.
    units_changed = done.pop("changed")
    result["changed"] = result["changed"] or units_changed
    if "pending" in done:
        # Where they fail later, the paths are told of as here.
        result["laid_out"] = result["msg"]
    said = done.pop("msg")
    result["msg"] = "{0}; {1}".format(result["msg"], said) if result["paths"] else said
    if module._diff:
        result["diff"].extend(done.pop("diff"))
    result.update(done)


def main() -> None:
    """Compare, and apply unless in check mode."""
    module = AnsibleModule(
        argument_spec={**options.FILE_TREE_SPEC, "fence": fence.FENCE_OPTION}, supports_check_mode=True
    )
    fence.prove(module)
    if not module.params["payload"]:
        module.fail_json(msg="file_tree renders on the controller: call it as a task, not as a bare module")
    lacking = {
        "packages": prerequisites.missing_packages(module.params["packages"]),
        "users": prerequisites.wrong_users(module.params["users"]),
    }
    if any(lacking.values()):
        module.exit_json(changed=True, lacking=lacking)
    try:
        keeps = untold.Note(module.params["note"]) if module.params["note"] else None
        before = keeps.read() if keeps else []
        outcome = file_tree.compare(unpack(module.params["payload"]))
        changed_paths = [change.entry.path for change in outcome.changes] + module.params["changed_paths"]
        changed_paths = list(dict.fromkeys(before + changed_paths))
        if module.check_mode:
            file_tree.rehearse(outcome)
        else:
            apply(outcome, keeps, before, changed_paths)
    except (file_tree.TreeError, untold.NoteError) as error:
        module.fail_json(msg=str(error))
    result = result_of(outcome, module._diff)
    if module.params["services"]:
        bring_up(module, result, changed_paths)
        if keeps and changed_paths and not module.check_mode:
            keeps.write([])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
