#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.instance_store``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_store
short_description: A data volume over the instance-store disks of an EC2 host
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Finds the instance-store disks by model and serial number, never by kernel name, which changes from boot to boot.
  - Makes RAID 0 over them (or takes the one disk as it is), a filesystem with a label, a line in C(/etc/fstab) and
    the mount.
  - Refuses, with all that it found and before anything is written, when a disk holds a signature, a partition table,
    a mount or anything else, unless O(wipe) names that very disk. An array of other disks is neither grown nor shrunk.
  - The action plugin of the same name installs C(mdadm) and the filesystem's tools where they are missing.
options:
  mount:
    description: Where the volume is mounted.
    type: path
    required: true
  when_no_disks:
    description:
      - On a host without instance store, V(directory) makes a directory of the root volume, V(fail) stops.
      - Storage of another kind that is mounted there already is taken in either case.
    type: str
    choices: [fail, directory]
    default: fail
  name:
    description: Name of the array and label of the filesystem, up to 12 characters.
    type: str
    default: data
  filesystem:
    description: Kind of the filesystem.
    type: str
    choices: [xfs, ext4]
    default: xfs
  options:
    description: Mount options. Without C(nofail) a host whose disks come back blank does not boot.
    type: str
    default: noatime,nofail,x-systemd.device-timeout=30s
  chunk_kib:
    description: Chunk of the array, KiB.
    type: int
    default: 512
  model:
    description: Regular expression that the whole model of a disk must match.
    type: str
    default: Amazon EC2 NVMe Instance Storage
  serial:
    description: Regular expression that the whole serial number must match; empty matches all.
    type: str
    default: ""
  disks:
    description: Serial numbers of the disks; where any are given, no other disk counts.
    type: list
    elements: str
    default: []
  wipe:
    description: Serial numbers of disks whose content may be lost. Mounted ones are refused all the same.
    type: list
    elements: str
    default: []
  initramfs:
    description:
      - Whether C(mdadm.conf) and the initial ramdisk are to know the array. The volume needs neither, it is found by
        its label, and C(update-initramfs) takes its time.
    type: bool
    default: false
  owner:
    description: Owner of the volume's root directory.
    type: str
    default: root
  group:
    description: Group of the volume's root directory.
    type: str
    default: root
  mode:
    description: Permission bits of the volume's root directory.
    type: str
    default: "0755"
  state:
    description:
      - V(absent) unmounts, stops the array and removes the line of C(/etc/fstab). What is on the disks stays there.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [trainyard.neuron.fence]
attributes:
  check_mode:
    description: Says what would be done, refusals included.
    support: full
  diff_mode:
    description: One line for each step.
    support: full
"""

EXAMPLES = r"""
- name: The data volume is here
  trainyard.neuron.instance_store:
    mount: /data

- name: The data volume is here, and the old content of one disk may go
  trainyard.neuron.instance_store:
    mount: /data
    wipe: [AWS1234567890ABCDE0]
"""

RETURN = r"""
steps:
  description: What was done, or would be.
  returned: success
  type: list
  elements: str
volume:
  description: Mount point, device, filesystem and disks as they were found. Empty where a directory stands in.
  returned: success
  type: dict
needs_packages:
  description: System packages that are missing here; the action plugin reacts to it.
  returned: when some are missing
  type: list
  elements: str
"""

import grp
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import disks, volume

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "mount": {"type": "path", "required": True},
    "when_no_disks": {"type": "str", "choices": ["fail", "directory"], "default": "fail"},
    "name": {"type": "str", "default": "data"},
    "filesystem": {"type": "str", "choices": ["xfs", "ext4"], "default": "xfs"},
    "options": {"type": "str", "default": "noatime,nofail,x-systemd.device-timeout=30s"},
    "chunk_kib": {"type": "int", "default": 512},
    "model": {"type": "str", "default": disks.INSTANCE_STORE_MODEL},
    "serial": {"type": "str", "default": ""},
    "disks": {"type": "list", "elements": "str", "default": []},
    "wipe": {"type": "list", "elements": "str", "default": []},
    "initramfs": {"type": "bool", "default": False},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str", "default": "0755"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "fence": fence.FENCE_OPTION,
}


def root_of(path: Path, params: Dict[str, Any]) -> List[Tuple[str, str, str]]:
    """Return how the root directory differs: `(what, is, wanted)`."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [("directory", "absent", "present")]
    found = {"owner": status.st_uid, "group": status.st_gid, "mode": f"{stat.S_IMODE(status.st_mode):04o}"}
    wanted = {
        "owner": pwd.getpwnam(params["owner"]).pw_uid,
        "group": grp.getgrnam(params["group"]).gr_gid,
        "mode": f"{int(params['mode'], 8):04o}",
    }
    return [(key, str(found[key]), str(wanted[key])) for key in wanted if found[key] != wanted[key]]


def set_root(path: Path, params: Dict[str, Any]) -> None:
    """Give the root directory its owner, group and mode."""
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, params["owner"], params["group"])
    path.chmod(int(params["mode"], 8))


def directory(module: AnsibleModule) -> None:
    """Stand a directory in for the volume."""
    path = Path(module.params["mount"])
    differs = root_of(path, module.params)
    if differs and not module.check_mode:
        set_root(path, module.params)
    module.exit_json(changed=bool(differs), steps=says_root(path, differs), volume={}, diff=root_diff(path, differs))


def says_root(path: Path, differs: List[Tuple[str, str, str]]) -> List[str]:
    """Return one line for each property of the root directory that is set."""
    return [f"{path}: {what} {wanted} (was {found})" for what, found, wanted in differs]


def root_diff(path: Path, differs: List[Tuple[str, str, str]]) -> Dict[str, str]:
    """Return the difference of the root directory."""
    return {
        "before": "".join(f"{path} {what}: {found}\n" for what, found, _wanted in differs),
        "after": "".join(f"{path} {what}: {wanted}\n" for what, _found, wanted in differs),
    }


def present(module: AnsibleModule, run: disks.Run, wanted: volume.Wanted) -> None:
    """Make the volume, or a directory where there is no disk to make it of."""
    params = module.params

    def find() -> List[disks.Disk]:
        return disks.candidates(run, params["model"], params["serial"], tuple(params["disks"]))

    found = find()
    if not found and (params["when_no_disks"] == "directory" or os.path.ismount(wanted.mount)):
        directory(module)
    if not found:
        raise volume.RefusedError(
            f"this host has no disk of model {params['model']!r}, and nothing is mounted at {wanted.mount}. Mount "
            "storage of another kind there, or with a root volume that is large enough set "
            "nvme_raid_when_no_disks=directory"
        )
    missing = volume.lacking(len(found), params["filesystem"], shutil.which)
    if missing and not module.check_mode:
        module.fail_json(
            msg=f"commands of the packages {', '.join(missing)} are missing; nothing was changed",
            needs_packages=missing,
        )
    before = volume.look(run, wanted, found)
    steps = volume.plan(before, wanted)
    if steps and not module.check_mode:
        steps = volume.settle(run, wanted, find)
    # A directory that the volume is not mounted over yet tells nothing about the volume's root.
    unseen = module.check_mode and any(step.kind == "mount" for step in steps)
    differs = [] if unseen else root_of(Path(wanted.mount), params)
    if differs and not module.check_mode:
        set_root(Path(wanted.mount), params)
    diff = root_diff(Path(wanted.mount), differs)
    diff["after"] = "".join(f"{step.says}\n" for step in steps) + diff["after"]
    module.exit_json(
        changed=bool(steps or differs),
        steps=[step.says for step in steps] + says_root(Path(wanted.mount), differs),
        volume=volume.describe(before, wanted),
        diff=diff,
    )


def absent(module: AnsibleModule, run: disks.Run, wanted: volume.Wanted) -> None:
    """Unmount, stop and forget the volume; what its disks hold stays."""
    params = module.params
    found = disks.candidates(run, params["model"], params["serial"], tuple(params["disks"]))
    state = volume.look(run, wanted, found)
    steps = []
    if found and state.mounted:
        steps.append(["umount", wanted.mount])
    if state.array:
        steps.append(["mdadm", "--stop", state.array])
    files = volume.Files()
    says = [" ".join(argv) for argv in steps] + [f"/etc/fstab without: {line}" for line in state.fstab if found]
    says += [f"{files.mdadm_conf} without: {line}" for line in state.mdadm_conf if found]
    if not module.check_mode:
        for argv in steps:
            disks.must(run, argv)
        if found and state.fstab:
            volume.write_fstab(files.fstab, wanted.mount, None)
        if found and state.mdadm_conf:
            volume.write_array_line(files.mdadm_conf, wanted, None)
    path = Path(wanted.mount)
    if not found and path.is_dir() and not os.path.ismount(path) and not any(path.iterdir()):
        says.append(f"remove the empty directory {path}")
        if not module.check_mode:
            path.rmdir()
    module.exit_json(
        changed=bool(says), steps=says, volume={}, diff={"before": "", "after": "".join(f"{line}\n" for line in says)}
    )


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    fence.prove(module)
    params = module.params

    def run(argv: List[str]) -> Tuple[int, str, str]:
        if shutil.which(argv[0]) is None:
            return 127, "", f"{argv[0]}: not found"
        status, output, errors = module.run_command(argv)
        return int(status), str(output), str(errors)

    wanted = volume.Wanted(
        mount=params["mount"],
        name=params["name"],
        fstype=params["filesystem"],
        options=params["options"],
        chunk_kib=params["chunk_kib"],
        wipe=tuple(params["wipe"]),
        initramfs=params["initramfs"],
    )
    try:
        {"present": present, "absent": absent}[params["state"]](module, run, wanted)
    except volume.RefusedError as error:
        module.fail_json(msg=f"{error}. Nothing was changed")
    except (OSError, KeyError, ValueError, disks.StorageError) as error:
        module.fail_json(
            msg=f"{error}. Steps before this one are done and are not repeated; run again when it is corrected"
        )


if __name__ == "__main__":
    main()
