# SPDX-License-Identifier: Apache-2.0
"""One look at a host before a run: answers to all that the plan asks of it, nothing changed, in a few seconds.

The questions come from the controller, which knows the plan; what the answers mean is judged there.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils import (
    host_packages,
    making_way,
    patched_source,
    sdk,
    sdk_build,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.preflight import sources, system
from ansible_collections.trainyard.neuron.plugins.module_utils.storage import disks, volume

#: Questions to others at the same time, and what one command may take, seconds.
AT_ONCE, COMMAND_S = 16, 15

#: Files whose sizes are added up where something was fetched before: of more it is not known.
MOST_FILES = 20000

#: Kinds of sources whose content goes to the volumes of the system itself, and where those may be.
_INSTALLED = frozenset({"archive", "client", "index", "packages", "page", "rpms"})
_ROOMS = ("/", "/usr", "/opt", "/opt/trainyard", "/var", "/var/lib/trainyard", "/var/cache/apt")

_LISTENS = "0A"


def run(argv: List[str]) -> Tuple[int, str, str]:
    """Run a command that only reads; its absence and its silence are statuses."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(argv, capture_output=True, timeout=COMMAND_S, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, "", str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def look(questions: Mapping[str, Any], root: Path = Path("/")) -> Dict[str, Any]:
    """Return what this host answers.

    Args:
        questions: as `plugin_utils.preflight.questions` writes them.
        root: what plays the host's `/` for the files of the kernel.
    """
    there = installed(questions.get("packages") or {})
    asked = [_of_system(one, there) for one in questions.get("sources") or () if not _is_here(one, there)]
    volume_of = store(questions["disks"]) if questions.get("disks") else {}
    missing = [*volume_of.pop("packages", []), *_for_builds(questions, there, root)]
    brought = system.look(questions, asked, missing, run)
    asked += brought.pop("sources")
    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        answers = [threads.submit(sources.ask, question) for question in asked]
        found: Dict[str, Any] = {
            "root": os.geteuid() == 0,
            "python": platform.python_version(),
            "headers": headers(root),
            "driver": driver(root) if questions.get("packages") else {},
            "packages": there,
            "candidates": {name: system.candidate(name, run) for name in questions.get("candidates") or ()},
            "ports": taken(questions.get("ports") or (), root),
            "space": space(questions["data_dir"]) if questions.get("data_dir") else {},
            "disks": volume_of,
            "rooms": rooms() if brought["lacking"] or any(one["kind"] in _INSTALLED for one in asked) else {},
            "system": brought,
            "environments": environments(questions.get("environments") or (), str(questions.get("pip_index") or "")),
            "files": [{**one, "there": Path(one["path"]).exists()} for one in questions.get("files") or ()],
            "images": {name: has_image(name) for name in questions.get("images") or ()},
        }
        found["sources"] = [answer.result() for answer in answers]
    # Last, so that the controller's own times are around it.
    found["time_s"] = time.time()
    return found


def _of_system(question: Mapping[str, Any], there: Mapping[str, str]) -> Dict[str, Any]:
    """Return a question as this host's system has to ask it: where its lists of packages are, and of those it lacks."""
    if question["kind"] != "packages":
        return dict(question)
    manager = host_packages.manager_of(shutil.which)
    release = "\n".join(_lines(Path("/etc/os-release")))
    source = host_packages.Source(question["url"], "", question["suite"]).of_host(manager.public, release)
    if manager.name != "apt":
        return {**question, "kind": "rpms", "url": source.address.rstrip("/"), "packages": _lacking(question, there)}
    url = "%s/dists/%s/main/binary-amd64" % (source.address.rstrip("/"), source.suite)
    return {**question, "url": url, "packages": _lacking(question, there)}


def _lacking(question: Mapping[str, Any], there: Mapping[str, str]) -> Dict[str, str]:
    wanted: Mapping[str, str] = question["packages"]
    return {name: wanted[name] for name in wanted if not host_packages.same_version(there.get(name), wanted[name])}


def _is_here(question: Mapping[str, Any], there: Mapping[str, str]) -> bool:
    """Return whether what would be fetched is on the host already; `there`: its packages with their versions."""
    if question["kind"] == "packages":
        return not _lacking(question, there)
    path, reference = question.get("unless_file"), question.get("unless_image")
    if (path and Path(path).exists()) or (reference and has_image(reference)):
        return True
    tree = question.get("unless_tree")
    if tree:
        return _is_tree(Path(tree["path"]), tree["digest"])
    return bool(question.get("unless_built")) and _is_built(question["unless_built"])


def _is_tree(path: Path, digest: str) -> bool:
    try:
        return patched_source.digest(path) == digest
    except (OSError, patched_source.SourceError):
        return False


def _is_built(row: Mapping[str, Any]) -> bool:
    """Return whether the environment of a release has the vLLM that would be built into it."""
    try:
        return not sdk_build.needed(dict(row), Path(sdk.find_venv(dict(row), sdk.Root())))
    except (sdk.SdkError, OSError):
        return False


def _for_builds(questions: Mapping[str, Any], there: Mapping[str, str], root: Path) -> List[str]:
    """Return the packages that are missing to build a driver that is due, and to make environments that are."""
    found = []
    source, wanted = questions.get("package_source"), questions.get("packages") or {}
    due = sdk.DRIVER in wanted and not host_packages.same_version(there.get(sdk.DRIVER), wanted[sdk.DRIVER])
    if source and due and headers(root) is False:
        found.append(host_packages.manager_of(shutil.which).headers % platform.release())
    for row in questions.get("environments") or ():
        python = _maker_of(row, str(questions.get("pip_index") or ""))
        if python and run([python, "-c", "import ensurepip"])[0] != 0:
            found.append(python + "-venv")
    return found


def _maker_of(row: Mapping[str, Any], pip_index: str) -> str:
    """Return the Python with which a release's environment will be made, empty where it will not or cannot be."""
    here = not row["venv"] or sdk.is_venv(Path(row["venv"]))
    if here or not sdk.can_be_made(dict(row), pip_index):
        return ""
    try:
        return sdk.python_for(dict(row), shutil.which)
    except sdk.SdkError:
        return ""


def driver(root: Path) -> Dict[str, Any]:
    """Return whether the kernel has the driver, whether it is built for it, and who uses it: `holders`, `replicas`."""
    return {
        "loaded": sdk.driver_is_loaded(sdk.Root(root)),
        "built": run(["modinfo", "neuron"])[0] == 0,
        "holders": sdk.driver_holders(sdk.Root(root), apart_from=making_way.MONITOR),
        "replicas": sdk.running_replicas(run),
    }


def environments(rows: Iterable[Mapping[str, Any]], pip_index: str = "") -> Dict[str, str]:
    """Return why the environment of a release cannot be told or made, by the release; nothing of those that can.

    Args:
        rows: of the SDK table.
        pip_index: address of Neuron's index, from which one can be made.
    """
    found = {}
    for row in rows:
        try:
            here = not row["venv"] or sdk.is_venv(Path(row["venv"]))
            if not here and sdk.can_be_made(dict(row), pip_index):
                sdk.python_for(dict(row), shutil.which)
            else:
                sdk.find_venv(dict(row), sdk.Root())
        except sdk.SdkError as error:
            found[str(row["release"])] = str(error)
    return found


def headers(root: Path) -> Optional[bool]:
    """Return whether the running kernel's headers are here; None in a container, which has no kernel of its own."""
    modules = root / "lib/modules" / platform.release()
    if not modules.is_dir():
        return None
    return (modules / "build/Makefile").exists() or (modules / "build/include").is_dir()


def installed(names: Iterable[str]) -> Dict[str, str]:
    """Return the versions of those packages that are installed."""
    manager = host_packages.manager_of(shutil.which)
    return {name: package.version for name, package in manager.read(run, sorted(names)).items()}


def taken(ports: Sequence[int], root: Path) -> Dict[str, str]:
    """Return who listens on those of the ports that somebody listens on: a unit, else a process, by the port."""
    wanted = set(ports)
    inodes: Dict[str, int] = {}
    for name in ("tcp", "tcp6"):
        for line in _lines(root / "proc/net" / name)[1:]:
            words = line.split()
            number = int(words[1].rpartition(":")[2], 16) if len(words) > 9 else 0
            if number in wanted and words[3] == _LISTENS:
                inodes[words[9]] = number
    return {str(inodes[inode]): who for inode, who in _holders(inodes, root)} if inodes else {}


def _holders(inodes: Mapping[str, int], root: Path) -> Iterable[Tuple[str, str]]:
    unknown = set(inodes)
    for process in (root / "proc").glob("[0-9]*"):
        links = _links(process / "fd")
        for inode in {link[8:-1] for link in links if link.startswith("socket:[")} & unknown:
            unknown.discard(inode)
            yield inode, _name_of(process)
    for inode in sorted(unknown):
        yield inode, "somebody"


def _links(folder: Path) -> List[str]:
    found = []
    try:
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                found.append(str(entry.readlink()))
    except OSError:
        pass  # it ended, or it is the kernel's
    return found


def _name_of(process: Path) -> str:
    unit = re.search(r"/([^/\n]+\.service)", "\n".join(_lines(process / "cgroup")))
    if unit:
        return unit[1]
    return "%s (%s)" % ("".join(_lines(process / "comm")[:1]) or "process", process.name)


def _lines(path: Path) -> List[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def space(data_dir: str) -> Dict[str, Any]:
    """Return the room below a directory, of the filesystem where it is or will be, and what is there of ours.

    Returns:
        `path` (the nearest directory that exists), `free_bytes`, `have_bytes` (weights and artifacts that are there),
        `device`.
    """
    path = Path(data_dir)
    while not path.is_dir() and path != path.parent:
        path = path.parent
    state = os.statvfs(str(path))
    have = sum(_size(Path(data_dir, name)) for name in ("weights", "artifacts"))
    free = state.f_bavail * state.f_frsize
    return {"path": str(path), "free_bytes": free, "have_bytes": have, "device": path.stat().st_dev}


def rooms(places: Iterable[str] = _ROOMS) -> Dict[str, Dict[str, int]]:
    """Return `free_bytes` and `device` of each volume of the system, by the first of the places that is on it."""
    found: Dict[int, Tuple[str, int]] = {}
    for place in places:
        with contextlib.suppress(OSError):
            state = os.statvfs(place)
            found.setdefault(Path(place).stat().st_dev, (place, state.f_bavail * state.f_frsize))
    return {place: {"free_bytes": free, "device": device} for device, (place, free) in found.items()}


def _size(directory: Path) -> int:
    total = seen = 0
    for folder, _folders, files in os.walk(directory):
        for name in files:
            seen += 1
            if seen > MOST_FILES:
                return total
            try:
                total += Path(folder, name).lstat().st_blocks * 512
            except OSError:
                continue
    return total


def store(asked: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what the instance store's disks would become: `count`, `bytes`, and `refused` where they would not.

    Beside them `packages`, those that bring what makes the volume and that are not here; without a disk `taken`,
    whether storage of another kind is mounted there.

    Args:
        asked: parameters of the module `instance_store`: mount, name, filesystem, model, serial, disks, wipe.
    """
    wanted = volume.Wanted(
        mount=asked["mount"], name=asked["name"], fstype=asked["filesystem"], wipe=tuple(asked.get("wipe") or ())
    )
    try:
        found = disks.candidates(run, asked["model"], asked.get("serial") or "", tuple(asked.get("disks") or ()))
        told = {"count": len(found), "bytes": sum(disk.size_bytes for disk in found), "refused": "", "mounted": ""}
        if not found:
            told["taken"] = os.path.ismount(wanted.mount)
        else:
            told["packages"] = volume.lacking(len(found), wanted.fstype, shutil.which)
            state = volume.look(run, wanted, found)
            told["mounted"] = state.mounted or ""
            volume.plan(state, wanted)
        return told
    except (disks.StorageError, volume.RefusedError) as error:
        return {"count": -1, "bytes": 0, "refused": str(error), "mounted": ""}


def has_image(reference: str) -> bool:
    """Return whether a container image is on the host."""
    for engine in ("podman", "docker"):
        if shutil.which(engine):
            status, output, _errors = run([engine, "image", "inspect", "--format", "{{json .Id}}", reference])
            if status == 0 and isinstance(_json(output), str):
                return True
    return False


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
