# SPDX-License-Identifier: Apache-2.0
"""A set of files, directories and links, brought to a wanted state in one transaction.

The core of the module ``trainyard.neuron.file_tree``: observe what is there, compare it with what is wanted, and
apply the difference. Nothing lands before every file has been staged beside its place and validated, and a failure
half-way puts back what had already changed. Standard library only: it runs on the hosts' Python (3.9 and newer).
"""

from __future__ import annotations

import fnmatch
import grp
import hashlib
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.entries import Entry

VALIDATION_TIMEOUT_S = 60
DIFF_LIMIT_BYTES = 256 * 1024
SENSITIVE_TEXT = "(sensitive: not shown)\n"


class TreeError(Exception):
    """What could not be brought to the wanted state: says the cause and what was left behind."""


@dataclass(frozen=True)
class Seen:
    """What a path is now; ``kind`` is ``missing``, ``file``, ``directory``, ``link`` or ``other``."""

    kind: str
    uid: int = -1
    gid: int = -1
    mode: int = 0
    content: bytes = b""
    target: str = ""


@dataclass(frozen=True)
class Change:
    """One difference between wanted and found, with its texts for ``--diff``."""

    entry: Entry
    seen: Seen
    what: Tuple[str, ...]
    before: str = ""
    after: str = ""

    def as_diff(self) -> Dict[str, str]:
        """The difference in the form that Ansible's callbacks print."""
        return {
            "before": self.before,
            "after": self.after,
            "before_header": self.entry.path,
            "after_header": self.entry.path + " (" + ", ".join(self.what) + ")",
        }


@dataclass
class Outcome:
    """What was compared and what changed."""

    changes: List[Change] = field(default_factory=list)
    unchanged: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line that a person can read: which path changed and how."""
        total = len(self.changes) + len(self.unchanged)
        if not self.changes:
            return "all {0} paths are as wanted".format(total)
        parts = ["{0} ({1})".format(change.entry.path, ", ".join(change.what)) for change in self.changes]
        return "{0} of {1} paths changed: {2}".format(len(self.changes), total, "; ".join(parts))


def observe(path: str) -> Seen:
    """What is at ``path`` now; a link to a directory counts as a link."""
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Seen("missing")
    kind, content, target = "other", b"", ""
    if stat.S_ISLNK(info.st_mode):
        kind, target = "link", str(Path(path).readlink())
    elif stat.S_ISDIR(info.st_mode):
        kind = "directory"
    elif stat.S_ISREG(info.st_mode):
        kind = "file"
        content = Path(path).read_bytes()
    return Seen(kind, info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), content, target)


def compare(entries: Sequence[Entry]) -> Outcome:
    """Every difference between the wanted entries and the file system, in the order in which they are applied.

    Removals come last, so that nothing is lost when an earlier step fails.

    Raises:
        TreeError: entries that contradict each other or the file system; all of them in one message.
    """
    problems = _contradictions(entries)
    outcome = Outcome()
    removals: List[Change] = []
    for entry in entries:
        try:
            changes = _differences(entry)
        except TreeError as error:
            problems.append(str(error))
            continue
        if not changes:
            outcome.unchanged.append(entry.path)
        for change in changes:
            (removals if change.entry.state == "absent" else outcome.changes).append(change)
    if problems:
        raise TreeError("nothing was changed: " + "; ".join(problems))
    removals.extend(_prunable(entries))
    outcome.changes.extend(removals)
    return outcome


def _contradictions(entries: Sequence[Entry]) -> List[str]:
    problems = []
    paths: Set[str] = set()
    for entry in entries:
        if not Path(entry.path).is_absolute() or os.path.normpath(entry.path) != entry.path:
            problems.append("{0!r} is not a plain absolute path".format(entry.path))
        if entry.path in paths:
            problems.append("{0} is listed twice".format(entry.path))
        paths.add(entry.path)
    made = {entry.path for entry in entries if entry.state == "directory"}
    for entry in entries:
        parent = Path(entry.path).parent
        if entry.state != "absent" and str(parent) not in made and not parent.is_dir():
            problems.append("{0}: its directory {1} does not exist and is not listed".format(entry.path, parent))
    return problems


def _differences(entry: Entry) -> List[Change]:
    seen = observe(entry.path)
    if entry.state == "absent":
        return [] if seen.kind == "missing" else [_removal(entry, seen)]
    if entry.state == "link":
        return _link_differences(entry, seen)
    if entry.state == "directory" and seen.kind == "link" and Path(entry.path).is_dir():
        seen = observe(os.path.realpath(entry.path))
    if seen.kind not in ("missing", entry.state) and not (entry.state == "file" and seen.kind == "link"):
        raise TreeError("{0} is a {1}, wanted a {2}: move it away".format(entry.path, seen.kind, entry.state))
    changes = []
    if entry.state == "file" and (seen.kind != "file" or seen.content != entry.content):
        changes.append(_content_change(entry, seen))
    attributes = _attribute_change(entry, seen)
    if attributes and seen.kind == entry.state:
        changes.append(attributes)
    elif entry.state == "directory" and seen.kind == "missing":
        changes.append(Change(entry, seen, ("created",), "", "directory, mode {0:04o}\n".format(entry.wanted_mode())))
    return changes


def _content_change(entry: Entry, seen: Seen) -> Change:
    what = {"missing": "created", "link": "was a link to " + seen.target}.get(seen.kind, "content")
    if entry.sensitive:
        # Two different texts, so that the diff shows that something changed and not what.
        before = "" if seen.kind == "missing" else SENSITIVE_TEXT
        return Change(entry, seen, (what,), before, "(sensitive: new content, not shown)\n")
    return Change(entry, seen, (what,), _text(seen.content), _text(entry.content or b""))


def _attribute_change(entry: Entry, seen: Seen) -> Optional[Change]:
    moves: List[Tuple[str, str, str]] = []
    pairs = [
        ("owner", entry.owner, _user_name(seen.uid), seen.uid, _uid),
        ("group", entry.group, _group_name(seen.gid), seen.gid, _gid),
    ]
    for label, wanted, found_name, found, resolve in pairs:
        if wanted is not None and resolve(wanted) != found:
            moves.append((label, found_name, wanted))
    if entry.wanted_mode() != seen.mode:
        moves.append(("mode", "{0:04o}".format(seen.mode), "{0:04o}".format(entry.wanted_mode())))
    if not moves:
        return None
    what = tuple("{0} {1} -> {2}".format(*move) for move in moves)
    before = "".join("{0} {1}\n".format(label, old) for label, old, _new in moves)
    after = "".join("{0} {1}\n".format(label, new) for label, _old, new in moves)
    return Change(entry, seen, what, before, after)


def _link_differences(entry: Entry, seen: Seen) -> List[Change]:
    if seen.kind not in ("missing", "link"):
        raise TreeError("{0} is a {1}, wanted a link: move it away".format(entry.path, seen.kind))
    if seen.target == entry.target:
        return []
    what = "created" if seen.kind == "missing" else "moved"
    before = "" if seen.kind == "missing" else "link to {0}\n".format(seen.target)
    changes = [Change(entry, seen, (what,), before, "link to {0}\n".format(entry.target))]
    if entry.previous and seen.target:
        trail = Entry(path=entry.previous, state="link", target=seen.target)
        changes.extend(_link_differences(trail, observe(entry.previous)))
    return changes


def _removal(entry: Entry, seen: Seen, what: str = "removed") -> Change:
    if seen.kind == "file":
        # Who removes a path need not know that it is a secret; that not everybody may read it says so.
        hidden = entry.sensitive or not seen.mode & stat.S_IROTH
        before = SENSITIVE_TEXT if hidden else _text(seen.content)
    elif seen.kind == "link":
        before = "link to {0}\n".format(seen.target)
    else:
        before = seen.kind + "\n"
    return Change(entry, seen, (what,), before, "")


def _prunable(entries: Sequence[Entry]) -> List[Change]:
    """Children of pruned directories that match a glob and that no entry names, is under, or links to."""
    wanted: Set[str] = set()
    for entry in entries:
        if entry.state == "absent":
            continue
        wanted.add(entry.path)
        wanted.update(_linked(entry))
    changes = []
    for entry in entries:
        if not entry.prune or not Path(entry.path).is_dir():
            continue
        for child in sorted(Path(entry.path).iterdir()):
            path, name = str(child), child.name
            kept = any(keep == path or keep.startswith(path + "/") for keep in wanted)
            gone = any(other.path == path and other.state == "absent" for other in entries)
            if not kept and not gone and any(fnmatch.fnmatchcase(name, glob) for glob in entry.prune):
                stray = Entry(path=path, state="absent", sensitive=True)
                changes.append(_removal(stray, observe(path), "removed: not in the wanted set"))
    return changes


def _linked(entry: Entry) -> List[str]:
    """Where a link and its ``previous`` will point once applied, as absolute paths."""
    if entry.state != "link" or entry.target is None:
        return []
    targets = [(entry.path, entry.target)]
    now = observe(entry.path).target
    if entry.previous:
        moved = bool(now) and now != entry.target
        targets.append((entry.previous, now if moved else observe(entry.previous).target))
    return [os.path.normpath(Path(link).parent / target) for link, target in targets if target]


def apply(outcome: Outcome) -> None:
    """Bring every change of ``outcome`` to the file system, or none.

    Raises:
        TreeError: a validation or a write failed; what had changed was put back.
    """
    undo: List[Callable[[], None]] = []
    finish: List[Callable[[], None]] = []
    current = ""
    try:
        for change in outcome.changes:
            current = change.entry.path
            _apply_one(change, undo, finish)
    except (OSError, TreeError) as error:
        left = _roll_back(undo)
        raise TreeError("{0}: {1}. {2}".format(current, _reason(error), left)) from error
    finally:
        for step in finish:
            step()


def _roll_back(undo: List[Callable[[], None]]) -> str:
    failed = []
    for step in reversed(undo):
        try:
            step()
        except OSError as error:
            failed.append(str(error))
    if failed:
        return "Putting back what had changed failed as well: " + "; ".join(failed)
    return "Nothing was changed" if not undo else "What had changed before it was put back"


def _apply_one(change: Change, undo: List[Callable[[], None]], finish: List[Callable[[], None]]) -> None:
    entry, seen = change.entry, change.seen
    if entry.state == "absent":
        _remove(Path(entry.path), undo, finish)
    elif entry.state == "link":
        _point_link(entry, seen, undo)
    elif entry.state == "directory" and seen.kind == "missing":
        Path(entry.path).mkdir(mode=0o700)
        undo.append(lambda: Path(entry.path).rmdir())
        _set_attributes(Path(entry.path), entry)
    elif entry.state == "file" and (seen.kind != "file" or seen.content != entry.content):
        _land_file(entry, seen, undo, finish)
    else:
        path = Path(entry.path).resolve()
        undo.append(lambda: _restore_attributes(path, seen))
        _set_attributes(path, entry)


def _land_file(entry: Entry, seen: Seen, undo: List[Callable[[], None]], finish: List[Callable[[], None]]) -> None:
    path = Path(entry.path)
    # A directory of its own beside the file: the same file system, and a staged file that keeps its name, which
    # validators such as `systemd-analyze verify` read.
    stage = _scratch(path.parent, finish)
    staged = stage / path.name
    _write(staged, entry, seen)
    if entry.validate:
        validate(entry, str(staged))
    if seen.kind == "missing":
        undo.append(path.unlink)
    else:
        backup = stage / "backup"
        os.link(path, backup, follow_symlinks=False)
        undo.append(lambda: _move(backup, path))
    staged.replace(path)


def _scratch(parent: Path, finish: List[Callable[[], None]]) -> Path:
    stage = Path(tempfile.mkdtemp(prefix=".trainyard-", dir=parent))
    finish.append(lambda: shutil.rmtree(stage, ignore_errors=True))
    return stage


def _move(source: Path, target: Path) -> None:
    source.replace(target)


def _write(path: Path, entry: Entry, seen: Seen) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(entry.content or b"")
        stream.flush()
        os.fsync(stream.fileno())
    if seen.kind == "file":
        # What the entry does not manage stays as it was, as it would if the file were edited in place.
        _chown(path, seen.uid, seen.gid)
    _set_attributes(path, entry)


def _point_link(entry: Entry, seen: Seen, undo: List[Callable[[], None]]) -> None:
    path = Path(entry.path)
    _replace_link(path, entry.target or "")
    if seen.kind == "missing":
        undo.append(path.unlink)
    else:
        undo.append(lambda: _replace_link(path, seen.target))


def _replace_link(path: Path, target: str) -> None:
    finish: List[Callable[[], None]] = []
    try:
        staged = _scratch(path.parent, finish) / "link"
        staged.symlink_to(target)
        staged.replace(path)
    finally:
        for step in finish:
            step()


def _remove(path: Path, undo: List[Callable[[], None]], finish: List[Callable[[], None]]) -> None:
    # Renamed first and deleted at the very end, so that a later failure can bring it back.
    moved = _scratch(path.parent, finish) / "removed"
    path.rename(moved)
    undo.append(lambda: _move(moved, path))


def _set_attributes(path: Path, entry: Entry) -> None:
    _chown(path, -1 if entry.owner is None else _uid(entry.owner), -1 if entry.group is None else _gid(entry.group))
    path.chmod(entry.wanted_mode())


def _restore_attributes(path: Path, seen: Seen) -> None:
    _chown(path, seen.uid, seen.gid)
    path.chmod(seen.mode)


def _chown(path: Path, uid: int, gid: int) -> None:
    if UNKNOWN in (uid, gid):
        raise TreeError("its owner or group does not exist on this host: create it before")
    info = path.stat()
    if uid not in (-1, info.st_uid) or gid not in (-1, info.st_gid):
        os.chown(path, uid, gid)


def validate(entry: Entry, staged: str) -> None:
    """Run the entry's validation command on its staged file.

    Raises:
        TreeError: the command is missing, too slow, or exits with anything but 0; its output is in the message.
    """
    command = [part.replace("%s", staged) for part in shlex.split(entry.validate or "")]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VALIDATION_TIMEOUT_S,
            check=False,
            env=dict(os.environ, LC_ALL="C"),
        )
    except FileNotFoundError:
        raise TreeError("its validation command {0!r} is not installed".format(command[0])) from None
    except subprocess.TimeoutExpired:
        raise TreeError("its validation took more than {0} s".format(VALIDATION_TIMEOUT_S)) from None
    if done.returncode != 0:
        said = "(sensitive)" if entry.sensitive else done.stdout.decode("utf-8", "replace").strip()
        said = said.replace(staged, entry.path)
        raise TreeError("rejected by `{0}` (exit {1}): {2}".format(entry.validate, done.returncode, said))


def rehearse(outcome: Outcome) -> None:
    """Check mode's part of validation: run the commands on copies in a scratch directory.

    A command that is not installed yet, or that may read a file that this very run would write first, is left out
    and noted: its verdict would say nothing about the real run.

    Raises:
        TreeError: a validation command rejected its file.
    """
    earlier = False
    for change in outcome.changes:
        entry = change.entry
        if entry.state == "file" and entry.validate and seen_content_differs(change):
            program = shlex.split(entry.validate)[0]
            if shutil.which(program) is None:
                outcome.notes.append("{0}: not validated, {1} is not installed yet".format(entry.path, program))
            elif earlier:
                outcome.notes.append("{0}: not validated, it may read files that change as well".format(entry.path))
            else:
                _rehearse_one(entry)
        earlier = True


def seen_content_differs(change: Change) -> bool:
    """True if the change is about the content of a file, not only its attributes."""
    return change.seen.kind != "file" or change.seen.content != change.entry.content


def _rehearse_one(entry: Entry) -> None:
    stage = tempfile.mkdtemp(prefix=".trainyard-")
    try:
        staged = Path(stage) / Path(entry.path).name
        staged.write_bytes(entry.content or b"")
        validate(entry, str(staged))
    except TreeError as error:
        raise TreeError("{0}: {1}. Nothing was changed (check mode)".format(entry.path, error)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


UNKNOWN = -2


def _uid(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return UNKNOWN


def _gid(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return UNKNOWN


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def _text(content: bytes) -> str:
    if len(content) <= DIFF_LIMIT_BYTES:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return "({0} bytes, sha256 {1})\n".format(len(content), hashlib.sha256(content).hexdigest())


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
