# SPDX-License-Identifier: Apache-2.0
"""The releases of a host on disk: which are complete, which one each replica starts from, and switching between them.

Every replica has its own links, ``/etc/vllm/current/<replica>.json`` and the files beside it. A link for the whole
host would move all replicas at once, and one that crashed in mid-roll would come back on a release that was never
gated here and whose turn it was not. Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.serving import trusted
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.layout import (
    CURRENT,
    DROP_IN,
    ENTRY,
    FILES,
    LINKS,
    PREVIOUS,
    RELEASES,
    ROOT,
    RUNTIME,
    entry_of,
    linked,
    linked_entry,
    staged_entries,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import STARTED


class ReleaseError(Exception):
    """A release that is not there or not complete."""


def lacks(entry: Mapping[str, Any]) -> List[str]:
    """Paths that a release needs and that are not on this host: program, weights, artifact."""
    needed = [entry.get("weights_path"), entry.get("artifact_path")]
    needed += [more.get("path") for more in entry.get("more_weights") or ()]
    needed += entry.get("files") or []
    if entry.get("runtime") == "venv" and entry.get("argv"):
        needed.append(entry["argv"][0])
    return [str(path) for path in needed if path and not Path(str(path)).exists()]


class Releases:
    """Releases below ``/etc/vllm``.

    Args:
        root: that directory.
        runtime: where a started replica keeps the configuration that it was started with.
    """

    def __init__(self, root: Path = ROOT, runtime: Path = RUNTIME) -> None:
        self.root = root
        self.runtime = runtime

    def names(self) -> List[str]:
        """Every replica that has a file in ``current`` or in a staged release."""
        found = {path.stem for path in linked(self.root, CURRENT)}
        return sorted(found | {path.stem for path in staged_entries(self.root)})

    def current(self, name: str) -> Dict[str, Any]:
        """The plan's entry that a start of this replica would use."""
        return entry_of(linked_entry(self.root, CURRENT, name))

    def problems(self, name: str) -> List[str]:
        """Files of a replica that are there and cannot be used: which, what is lost, and the way out."""
        said = "{0} is broken: {1}; run the serve playbook for this host"
        sides = ((CURRENT, "the replica serves on and cannot start again"), (PREVIOUS, "no roll can go back to it"))
        paths = [(linked_entry(self.root, side, name), lost) for side, lost in sides]
        return [said.format(path, lost) for path, lost in paths if path.exists() and not entry_of(path)]

    def previous(self, name: str) -> Dict[str, Any]:
        """The plan's entry of the last good release before; a spare's is that of the replicas that it stands in for."""
        return entry_of(linked_entry(self.root, PREVIOUS, name)) or self._entry_of_spare(name)

    def _entry_of_spare(self, name: str) -> Dict[str, Any]:
        """A spare's entry in the release directory that the others of its deployment had before."""
        own = [entry_of(path / (name + ENTRY)) for path in self.staged(name).values()]
        deployments = {entry.get("deployment") for entry in own if entry.get("spare")}
        for link in sorted(linked(self.root, PREVIOUS)):
            if entry_of(link).get("deployment") in deployments:
                found = entry_of(link.resolve().parent / (name + ENTRY))
                if found:
                    return found
        return {}

    def started(self, name: str) -> Dict[str, Any]:
        """The plan's entry that the running process was started with.

        Its record is the server's to write. It says which release that was; the entry is root's, of that release.
        """
        try:
            record = json.loads(trusted.read_text(self.runtime / name / STARTED, trusted.CONFIGURATION_LIMIT))
            wanted = str(record["release"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        found = [self.current(name)] + [entry_of(path) for path in staged_entries(self.root, name)]
        return next((entry for entry in found if entry.get("release") == wanted), {})

    def staged(self, name: str) -> Dict[str, Path]:
        """Complete releases of a replica and their directories; the one that was written last wins."""
        found: Dict[str, Path] = {}
        for path in sorted(staged_entries(self.root, name), key=lambda item: item.stat().st_mtime):
            entry = entry_of(path)
            complete = all(path.with_suffix(suffix).exists() for suffix in FILES if suffix != DROP_IN)
            if entry.get("release") and complete and not lacks(entry):
                found[str(entry["release"])] = path.parent
        return found

    def find(self, name: str, release: str) -> Path:
        """Directory of a complete release.

        Raises:
            ReleaseError: it is not on this host, or something that it needs is not.
        """
        staged = self.staged(name)
        if release in staged:
            return staged[release]
        for path in staged_entries(self.root, name):
            entry = entry_of(path)
            if entry.get("release") == release:
                raise ReleaseError(
                    "release {0} of {1} is incomplete: {2} is missing. Run the redeploy from its start; it stages "
                    "first.".format(release, name, ", ".join(lacks(entry)) or "its environment file")
                )
        raise ReleaseError(
            "release {0} of {1} is not on this host (there: {2}). Run the redeploy from its start; it stages "
            "first.".format(release, name, ", ".join(sorted(staged)) or "none")
        )

    def switch(self, name: str, release: str, keep_previous: bool = False) -> bool:
        """Point a replica at a release; returns whether anything changed. The replica is not touched.

        Args:
            name: the replica.
            release: where to.
            keep_previous: leave ``previous`` as it is, because what ``current`` pointed at never proved good.

        Raises:
            ReleaseError: see `find`.
        """
        directory = self.find(name, release)
        old = {suffix: self._target(CURRENT, name, suffix) for suffix in FILES}
        new = {
            suffix: os.path.relpath(directory / (name + suffix), self.root / CURRENT)
            for suffix in FILES
            if (directory / (name + suffix)).exists()
        }
        if {suffix: target for suffix, target in old.items() if target} == new:
            return False
        moved = self.current(name).get("release") not in (None, release)
        for suffix in FILES:
            if moved and not keep_previous:
                self._link(PREVIOUS, name, suffix, old[suffix])
            self._link(CURRENT, name, suffix, new.get(suffix))
        return True

    def forget(self, name: str) -> bool:
        """Take a replica's links away, as if it had never run; its releases stay. Returns whether there were any."""
        links = [self.root / side / (name + suffix) for side in LINKS for suffix in FILES]
        there = [path for path in links if path.is_symlink()]
        for path in there:
            path.unlink()
        return bool(there)

    def _target(self, side: str, name: str, suffix: str) -> Optional[str]:
        path = self.root / side / (name + suffix)
        return str(path.readlink()) if path.is_symlink() else None

    def _link(self, side: str, name: str, suffix: str, target: Optional[str]) -> None:
        """Set or remove one link; a reader sees the old one or the new one."""
        path = self.root / side / (name + suffix)
        path.parent.mkdir(mode=0o755, exist_ok=True)
        if target is None:
            if path.is_symlink():
                path.unlink()
            return
        beside = path.with_name(path.name + ".new")
        if beside.is_symlink():
            beside.unlink()
        beside.symlink_to(target)
        beside.replace(path)

    def align(self) -> List[str]:
        """Point replicas whose release did not change at the newest directory that holds it; returns their names.

        A release directory is made for a whole host. Replicas that a roll had no need to touch would go on pointing
        into the directory before it.
        """
        moved = []
        for path in sorted(linked(self.root, CURRENT)):
            release = str(self.current(path.stem).get("release", ""))
            directory = self.staged(path.stem).get(release)
            if directory and self.switch(path.stem, release):
                moved.append(path.stem)
        return moved

    def prune(self) -> List[str]:
        """Remove release directories that no link points into; returns their names."""
        kept = set()
        for side in LINKS:
            for link in self.root.glob(side + "/*"):
                if link.is_symlink():
                    kept.add(Path(os.path.normpath(str(link.parent / link.readlink()))).parent.name)
        stray = sorted(path.name for path in self.root.glob(RELEASES + "/*") if path.name not in kept)
        for name in stray:
            shutil.rmtree(str(self.root / RELEASES / name))
        return stray


def core_range(entry: Mapping[str, Any]) -> Optional[Tuple[int, int]]:
    """First and last core of a plan's entry; None if it names none."""
    first, _, last = str(entry.get("cores") or "").partition("-")
    if not first.isdigit():
        return None
    return int(first), int(last) if last.isdigit() else int(first)
