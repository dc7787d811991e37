# SPDX-License-Identifier: Apache-2.0
"""The collection as it is published: with the tree's roles and playbooks, under the names that it gives them."""

from __future__ import annotations

import gzip
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from release.tree import REPOSITORY, copy, links_followed, tracked
from release.version import Version

NAME = "trainyard.neuron"
HOME = "collections/ansible_collections/trainyard/neuron"
#: What ansible-core and ansible-rulebook bring themselves.
BUILTIN = ("ansible.builtin", "eda.builtin")
#: What of the tree beside the collection is part of it when it is published, under the same names.
BESIDE = ("roles", "playbooks", "templates", "extensions", "changelogs", "meta")
#: Versions of ansible-core that the locks of the controller's Pythons have, and the Pythons that each runs under.
CORES = {"2.19": ("3.11", "3.12", "3.13"), "2.20": ("3.12", "3.13", "3.14"), "2.21": ("3.12", "3.13", "3.14")}
#: Texts in which a playbook or a link may be named.
_TEXTS = (".md", ".py", ".yml", ".yaml", ".j2")
_FULL = re.compile(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_.]*")
_ROLE_LINE = re.compile(r"^(?P<before>\s*-\s+role:\s*)(?P<name>\w+)(?=\s*(?:#.*)?$)", re.MULTILINE)
_ROLE_LIST = re.compile(r"^\s*(?:roles|dependencies):\s*\n(?:\s*-\s+\w+\s*(?:#.*)?\n)+", re.MULTILINE)
_ROLE_BARE = re.compile(r"^(?P<before>\s*-\s+)(?P<name>\w+)(?=\s*(?:#.*)?$)", re.MULTILINE)
_ROLE_BLOCK = re.compile(
    r"(?P<before>(?:include|import)_role:\s*(?:\{[^}\n]*?|\n(?:[ ]+(?!name:)\S.*\n)*?[ ]+)name:\s*)(?P<name>\w+)"
)
_IMPORT = re.compile(r"(?P<before>import_playbook:\s*)(?P<way>[\w./-]+\.yml)")
_SENTENCE = re.compile(r"(?<=\.)\s")
#: The root of a checkout, as its playbooks find it; in an installed collection it is where the user stands, for their
#: settings and results: nothing is written into a collection.
_ROOT = "playbook_dir | dirname"
_ROOT_INSTALLED = "lookup('ansible.builtin.env', 'PWD')"


class CollectionError(Exception):
    """What of the tree cannot be published as it is; a line for each place."""


@dataclass(frozen=True)
class Carried:
    """The files of the tree that are published, by their way from its root, and where the collection has each."""

    places: Mapping[str, str]

    @property
    def roles(self) -> list[str]:
        """Names of roles."""
        return sorted({way.split("/")[1] for way in self.places.values() if way.startswith("roles/")})

    @property
    def playbooks(self) -> dict[str, str]:
        """What can be called: the name of each playbook, and its file in the collection."""
        ways = (way for way in self.places.values() if re.fullmatch(r"playbooks/\w+\.yml", way))
        return {Path(way).stem: way for way in sorted(ways)}

    def place(self, way: str) -> str | None:
        """Return where the collection has a file or a directory of the tree, None where it has none."""
        if way in self.places:
            return self.places[way]
        inside = [(source, target) for source, target in self.places.items() if source.startswith(f"{way}/")]
        for source, target in inside[:1]:
            return target.removesuffix(source.removeprefix(way)) or "."
        return None


def carried(root: Path) -> Carried:
    """Return what is published of a tree.

    Raises:
        CollectionError: a playbook of the tree has the name of one of the collection, and does something else.
    """
    places = {
        name: name.removeprefix(f"{HOME}/")
        for name in tracked(root, HOME)
        if not name.startswith(f"{HOME}/tests/unit/")
    }
    own = set(places.values())
    wrong = []
    for name in [*tracked(root, *BESIDE), "site.yml", "LICENSE"]:
        target = "playbooks/site.yml" if name == "site.yml" else name
        if name.startswith("changelogs/fragments/"):
            continue
        if target not in own:
            places[name] = target
        elif not _only_imports(root / name, f"{NAME}.{Path(name).stem}"):
            wrong.append(f"{name}: the collection has a file of that name, and this one does something else")
    if wrong:
        raise CollectionError("\n".join(wrong))
    return Carried(places)


def _only_imports(file: Path, playbook: str) -> bool:
    """Whether a playbook does nothing but call another."""
    try:
        book = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        return False
    return (
        isinstance(book, list) and len(book) == 1 and book[0].get("ansible.builtin.import_playbook") == playbook
    )  # fmt: skip


def named(text: str, playbooks: Mapping[str, str]) -> str:
    """Return a file's text in which a playbook is called by the collection's name for it, wherever it is spoken of."""

    def full(found: re.Match[str]) -> str:
        name = found["name"] or "site"
        return f"{NAME}.{name}" if name in playbooks else found[0]

    return re.sub(r"(?<![\w./(-])(?:playbooks/(?P<name>\w+)|site)\.yml\b", full, text)


def with_full_names(text: str, way: str, roles: list[str], playbooks: Mapping[str, str]) -> str:
    """Return a playbook's or a role's YAML with the full names of roles and playbooks, its comments kept.

    Raises:
        CollectionError: a role or a playbook in it is named in a way that is not understood, or a path of a checkout.
    """

    def role(found: re.Match[str]) -> str:
        return f"{found['before']}{NAME}.{found['name']}" if found["name"] in roles else found[0]

    def book(found: re.Match[str]) -> str:
        stem = Path(found["way"]).stem
        return f"{found['before']}{NAME}.{stem}" if stem in playbooks else found[0]

    text = _ROLE_LIST.sub(lambda found: _ROLE_BARE.sub(role, found[0]), text)
    for pattern, put in ((_ROLE_LINE, role), (_ROLE_BLOCK, role), (_IMPORT, book)):
        text = pattern.sub(put, text)
    text = text.replace(_ROOT, _ROOT_INSTALLED)
    wrong = [f"{way}: {name!r} is no full name" for name in _names(yaml.safe_load(text)) if not _FULL.fullmatch(name)]
    if "playbook_dir" in re.sub(r"#.*", "", text):
        wrong.append(f"{way}: playbook_dir is a place in a checkout; in a collection nothing may be written there")
    if wrong:
        raise CollectionError("\n".join(wrong))
    return text


def _names(document: Any) -> Iterator[str]:
    """Every role and playbook that a document of Ansible names."""
    if isinstance(document, list):
        for one in document:
            yield from _names(one)
    elif isinstance(document, dict):
        for key, value in document.items():
            last = str(key).rpartition(".")[2]
            if last in ("include_role", "import_role"):
                yield str(value["name"] if isinstance(value, dict) else value)
            elif last == "import_playbook":
                yield str(value)
            elif key in ("roles", "dependencies") and isinstance(value, list):
                yield from (
                    str(one.get("role") or one.get("name")) if isinstance(one, dict) else str(one) for one in value
                )
            yield from _names(value)


def needed(staged: Path, lock: Path) -> dict[str, str]:
    """Return the collections that what is published uses, each with the versions that the tree is tested with.

    Args:
        staged: the files that are published.
        lock: the tree's requirements.yml.

    Raises:
        CollectionError: one is used that the lock does not name.
    """
    versions = {one["name"]: one["version"] for one in yaml.safe_load(lock.read_text(encoding="utf-8"))["collections"]}
    used: dict[str, str] = {}
    for path in sorted(staged.rglob("*")):
        way = path.relative_to(staged)
        if path.suffix == ".py":
            names = re.findall(
                r"^\s*(?:from|import) ansible_collections\.(\w+\.\w+)", path.read_text("utf-8"), re.MULTILINE
            )
        elif path.suffix in (".yml", ".yaml") and way.parts[0] in ("roles", "playbooks", "extensions"):
            text = path.read_text(encoding="utf-8")
            names = re.findall(r"^\s*(?:- )?(\w+\.\w+)\.\w+:", text, re.MULTILINE)
            names += re.findall(r"(?:lookup|query|q)\(\s*['\"](\w+\.\w+)\.\w+", text)
        else:
            continue
        used.update(dict.fromkeys(names, str(way)))
    others = {name: way for name, way in used.items() if name not in (NAME, *BUILTIN)}
    wrong = [f"{way}: {name} is used and not in {lock.name}" for name, way in others.items() if name not in versions]
    if wrong:
        raise CollectionError("\n".join(wrong))
    return {name: versions[name] for name in sorted(others)}


def sanity_ignored(staged: Path, given: str, pythons: Sequence[str] = (), core: str = "") -> str:
    """Return the lines of an ignore file of ansible-test, a line a file where the given ones name a pattern of files.

    Args:
        staged: the files that are published.
        given: the text of release/sanity_ignore.txt.
        pythons: versions of the controller's Python, for each of which the test `import` is another.
        core: the version of ansible-core; a test with `@VERSION` behind it finds that from this version on.

    Raises:
        CollectionError: a line says no reason, or is about no file.
    """
    lines, wrong = [], []
    for line in given.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, _, rest = line.partition(" ")
        found = sorted(str(path.relative_to(staged)) for path in staged.glob(pattern))
        if not found or " # " not in rest:
            wrong.append(
                f"release/sanity_ignore.txt: {line}: {'no reason is given' if found else 'there is no such file'}"
            )
        name, _, why = rest.partition(" ")
        name, _, since = name.partition("@")
        if since and core and _parts(core) < _parts(since):
            continue
        tests = [f"import-{version}" for version in pythons] if name == "import" else [name]
        lines += [f"{path} {test} {why}" for path in found for test in tests]
    if wrong:
        raise CollectionError("\n".join(wrong))
    return "".join(f"{line}\n" for line in sorted(lines))


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _about(staged: Path, here: Carried) -> str:
    """What the README says of each role and each playbook, from their own files."""
    lines = ["", "## Playbooks", "", "| `ansible-playbook` | what |", "| --- | --- |"]
    for name, way in here.playbooks.items():
        text = (staged / way).read_text(encoding="utf-8")
        first = " ".join(re.findall(r"^# ?(.*)$", text.removeprefix("---\n").split("\n\n")[0], re.MULTILINE))
        if not name.endswith("_planned"):
            lines.append(f"| `{NAME}.{name}` | {_SENTENCE.split(first)[0]} |")
    lines += ["", "## Roles", "", "| role | what |", "| --- | --- |"]
    for role in here.roles:
        specs = yaml.safe_load((staged / f"roles/{role}/meta/argument_specs.yml").read_text(encoding="utf-8"))
        said = specs["argument_specs"]["main"]["short_description"].rstrip(".")
        lines.append(f"| [`{NAME}.{role}`](roles/{role}/README.md) | {said} |")
    return "\n".join([*lines, ""])


def stage(root: Path, target: Path, version: Version, ref: str) -> Carried:
    """Put the files that are published into a directory, as they are published.

    Args:
        root: the checkout.
        target: an empty directory, or one that is made.
        version: that of the collection.
        ref: the tag or commit whose files links into the repository mean.

    Raises:
        CollectionError: something of the tree cannot be published as it is.
    """
    here = carried(root)
    copy(root, here.places, target, here.places.__getitem__)
    roles, playbooks = here.roles, here.playbooks
    wrong = []
    for source, way in here.places.items():
        path = target / way
        if path.suffix not in _TEXTS:
            continue
        old = text = path.read_text(encoding="utf-8")
        if path.suffix == ".yml" and way.split("/")[0] in ("roles", "playbooks"):
            try:
                text = with_full_names(text, source, roles, playbooks)
            except CollectionError as error:
                wrong.append(str(error))
        text = named(text, playbooks)
        if path.suffix == ".md":
            text = links_followed(text, source, way, here.place, ref)
        if text != old:
            path.write_text(text, encoding="utf-8")
    if wrong:
        raise CollectionError("\n".join(wrong))
    settings = yaml.safe_load((target / "galaxy.yml").read_text(encoding="utf-8"))
    settings |= {"version": version.semantic, "dependencies": needed(target, root / "requirements.yml")}
    settings |= {"issues": f"{REPOSITORY}/issues", "documentation": f"{REPOSITORY}/tree/{ref}/docs"}
    (target / "galaxy.yml").write_text(f"---\n{yaml.safe_dump(settings, sort_keys=False)}", encoding="utf-8")
    ignored = (root / "release/sanity_ignore.txt").read_text(encoding="utf-8")
    (target / "tests/sanity").mkdir(parents=True)
    for core, pythons in CORES.items():
        lines = sanity_ignored(target, ignored, pythons, core)
        (target / f"tests/sanity/ignore-{core}.txt").write_text(lines, encoding="utf-8")
    with (target / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(_about(target, here))
    return here


def build(staged: Path, output: Path, version: Version) -> Path:
    """Return the archive of a staged collection; the same files always make the same bytes.

    Raises:
        CollectionError: ansible-galaxy refused.
    """
    scratch = staged.parent / "built"
    scratch.mkdir(exist_ok=True)
    words = [
        sys.executable,
        "-m",
        "ansible",
        "galaxy",
        "collection",
        "build",
        str(staged),
        "--output-path",
        str(scratch),
    ]
    run = subprocess.run([*words, "--force"], capture_output=True, text=True, check=False)
    if run.returncode:
        raise CollectionError(f"ansible-galaxy collection build: {run.stderr.strip() or run.stdout.strip()}")
    name = f"{NAME.replace('.', '-')}-{version.semantic}.tar.gz"
    (output / name).write_bytes(normal((scratch / name).read_bytes(), version.made_at))
    return output / name


def normal(archive: bytes, made_at: int) -> bytes:
    """Return a compressed archive with its members in order, of one date and nobody's."""
    plain = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as read,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as written,
    ):
        for member in sorted(read.getmembers(), key=lambda one: one.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = made_at, 0, 0, "", ""
            member.pax_headers = {}
            written.addfile(member, read.extractfile(member) if member.isfile() else None)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=made_at, filename="") as file:
        file.write(plain.getvalue())
    return packed.getvalue()
