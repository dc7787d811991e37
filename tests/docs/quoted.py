# SPDX-License-Identifier: Apache-2.0
"""The commands that the pages quote: where each stands, how it is read, and what its program's parser has against it.

A command is quoted in a block ``console``, after ``$ ``; what stands below it there is its output. Between back quotes
in the text, a command of ours counts too.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("commands.yml")
COLLECTION = "collections/ansible_collections/trainyard/neuron"

#: Pages that a person reads; the changelog tells of commands that are gone.
PLACES = ("*.md", "docs/**/*.md", "roles/*/README.md", "inventory/**/*.md", f"{COLLECTION}/README.md")
LEFT_OUT = {"CHANGELOG.md"}

#: What typer raises for a command line that is wrong; it has a click of its own.
BAD_USAGE = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

#: Programs that this repository brings or is run by: what follows one of these words is a command.
OURS = ("trainyard", "ansible-playbook", "make", "pytest", "molecule", "python bench/", "python docs/", "python lab/")

#: A line of a block that is a command, by its first word.
COMMAND = re.compile(
    r"^\s*(\$ |[A-Z_]+=\S+ \w"
    r"|(trainyard|ansible-playbook|ansible|make|pytest|molecule|python3?|sudo|systemctl|journalctl|git|cd|curl) )"
)
FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+|~~~+)(?P<info>[^`]*)$")
#: A comment before a block of a story: the lab runs it, and what it printed stands below the command.
RUN = re.compile(r"^<!-- run(?:: (?P<how>[^>]*))? -->$")
#: What a reader makes by one command (`trainyard init`) and gives to the next.
MADE = "inventory/mine"
#: A word that stands for the reader's own: what the lab has in its place is in the list.
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]{2,}\b")


@dataclass(frozen=True)
class Quoted:
    """A command as a page has it.

    Attributes:
        page: path from the root of the tree.
        line: its number there, from 1.
        command: without the prompt and the comment behind it.
        story: the lab runs it where it stands, and its output is below it.
    """

    page: str
    line: int
    command: str
    story: bool = False

    @property
    def at(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Block:
    """A block of code: its first line's number and its lines, without the fence or the indentation."""

    info: str
    line: int
    lines: tuple[str, ...]
    before: str = ""


def pages() -> list[Path]:
    """Every page, sorted."""
    found = {path for place in PLACES for path in ROOT.glob(place)}
    return sorted(path for path in found if str(path.relative_to(ROOT)) not in LEFT_OUT)


def blocks(text: str) -> Iterator[Block]:
    """The blocks of code of a page, fenced and indented."""
    lines = text.splitlines()
    number, before = 0, ""
    while number < len(lines):
        line = lines[number]
        opened = FENCE.match(line)
        if opened:
            first = number + 1
            number = first
            while number < len(lines) and lines[number].strip() != opened["ticks"]:
                number += 1
            cut = len(opened["indent"])
            body = tuple(row[cut:] if row[:cut].isspace() else row for row in lines[first:number])
            yield Block(opened["info"].strip(), first + 1, body, before)
        elif line.startswith("    ") and not before.lstrip().startswith(("-", "*", "1")) and not before:
            first = number
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            yield Block("", first + 1, tuple(row[4:] for row in lines[first:number]))
            number -= 1
        before = lines[number].strip() if number < len(lines) else ""
        number += 1


def bare(line: str) -> str:
    """A command without the comment behind it."""
    lexer = shlex.shlex(line, posix=False)
    lexer.commenters, lexer.whitespace_split = "", True
    words: list[str] = []
    for word in lexer:
        if word.startswith("#"):
            break
        words.append(word)
    return " ".join(words)


def quoted(page: Path) -> Iterator[Quoted]:
    """The commands in the blocks of a page; a line that ends with a backslash goes on in the next."""
    name = str(page.relative_to(ROOT))
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.info != "console":
            continue
        held, begun = "", 0
        for number, line in enumerate(block.lines, block.line):
            if held or line.startswith("$ "):
                begun = begun if held else number
                held += line.removeprefix("$ ") if not held else line.removeprefix("> ").strip()
                if held.endswith("\\"):
                    held = held[:-1]
                    continue
                yield Quoted(name, begun, bare(held), bool(RUN.match(block.before)))
                held = ""


def strays(page: Path) -> Iterator[Quoted]:
    """Commands of ours in blocks that are no ``console``: nothing looks whether those are true."""
    name = str(page.relative_to(ROOT))
    for block in blocks(page.read_text(encoding="utf-8")):
        for number, line in enumerate(block.lines, block.line):
            if block.info != "console" and COMMAND.match(line):
                yield Quoted(name, number, line.strip())


def inline(page: Path) -> Iterator[Quoted]:
    """Commands of ours between back quotes in the text."""
    name, text = str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
    for block in blocks(text):
        for line in block.lines:
            text = text.replace(line, " " * len(line), 1) if line.strip() else text
    for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        said = " ".join(found[1].split())
        if said.startswith(tuple(word if word.endswith("/") else f"{word} " for word in OURS)):
            yield Quoted(name, text.count("\n", 0, found.start()) + 1, said)


def listed() -> dict[str, dict[str, object]]:
    """The list of what runs each command."""
    return dict(yaml.safe_load(LIST.read_text(encoding="utf-8")))


def wrong(command: str, whole: bool = True) -> str:
    """What a command's own parser has against it, empty for nothing; for programs that are not ours, nothing.

    Args:
        command: without a prompt or a comment.
        whole: it is the whole command; in a text, what must be given may be left out.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        return str(error)
    if "&&" in words:
        return next((why for part in command.split("&&") if (why := wrong(part, whole))), "")
    while words and re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    judge = {
        "trainyard": _trainyard,
        "ansible-playbook": _ansible_playbook,
        "make": _make,
        "molecule": _molecule,
        "pytest": _files,
        "python": _files,
    }.get(words[0] if words else "")
    return judge(words[1:], whole) if judge else ""


def _trainyard(words: list[str], whole: bool) -> str:
    """By the command line's own parser, nothing run."""
    from trainyard.cli import app

    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name="trainyard")
    while hasattr(command, "get_command"):
        if not words or words[0] in {"--help", "--version", "--show-completion", "--install-completion"}:
            return "no sub-command" if whole and not words else ""
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no {context.command_path} {words[0]}"
        command, words = found, words[1:]
        context = command.context_class(command, info_name=command.name, parent=context)
    if "--help" in words:
        return ""
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    ours = words[: words.index("--")] if "--" in words else words
    lost = [word for word in ours if word.startswith("-") and word.split("=")[0] not in known]
    if lost:
        return f"{context.command_path} has no {lost[0]}"
    if whole:
        try:
            command.make_context(command.name, list(words))
        except BAD_USAGE as error:
            return str(error.format_message())
    return ""


def _ansible_playbook(words: list[str], whole: bool) -> str:
    """By ansible-playbook's own parser, and by which playbooks and tags there are."""
    from ansible.cli.playbook import PlaybookCLI

    program = PlaybookCLI(["ansible-playbook", *words])
    program.init_parser()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = program.parser.parse_args(words)
    except SystemExit:
        return said.getvalue().strip().splitlines()[-1]
    for playbook in map(_of_the_tree, given.args):
        if not (ROOT / playbook).is_file() and not PLACEHOLDER.search(playbook):
            return f"there is no playbook {playbook}"
    for source in given.inventory or []:
        if not PLACEHOLDER.search(source) and source != MADE and not (ROOT / source).exists():
            return f"there is no inventory {source}"
    known = tags()
    for given_tags in (given.tags, given.skip_tags):
        for tag in ",".join(given_tags or []).split(","):
            if tag and tag not in known and not PLACEHOLDER.search(tag):
                return f"no playbook or role has the tag {tag}"
    return "" if given.inventory or not whole else "no inventory is named, and there is no default"


def _of_the_tree(playbook: str) -> str:
    """A playbook's file in this tree, also where it is called by the name that the published collection gives it."""
    name = re.sub(r"^trainyard\.neuron\.(\w+)$", r"playbooks/\1.yml", playbook)
    return "site.yml" if name == "playbooks/site.yml" else name


def tags() -> set[str]:
    """Every tag of a playbook or a role."""
    found: set[str] = {"all", "untagged", "tagged", "always", "never"}
    for path in (ROOT / "site.yml", *ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")):
        for one in re.findall(r"^\s*tags: \[?([\w, ]+)\]?", path.read_text(encoding="utf-8"), re.MULTILINE):
            found |= {tag.strip() for tag in one.split(",")}
    return found


def _make(words: list[str], whole: bool) -> str:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable:
            if not re.search(rf"^{name} *\?=|\$\(or \$\({name}\)", text, re.MULTILINE):
                return f"the Makefile reads no {name}"
        elif not word.startswith("-") and not re.search(rf"^{re.escape(name)}:.*## ", text, re.MULTILINE):
            return f"there is no target {name}"
    return ""


def _molecule(words: list[str], whole: bool) -> str:
    for flag in ("-s", "--scenario-name"):
        if flag in words:
            name = words[words.index(flag) + 1]
            if not (ROOT / "molecule" / name / "molecule.yml").is_file():
                return f"there is no scenario {name}"
    return ""


def _files(words: list[str], whole: bool) -> str:
    """Of a program that runs files of ours: that they are there, and its options where it is a script of ours."""
    files = [word.split("::")[0] for word in words if "/" in word and not word.startswith(("-", "/"))]
    lost = [file for file in files if not (ROOT / file).exists() and not PLACEHOLDER.search(file)]
    if lost:
        return f"there is no {lost[0]}"
    if words and words[0].endswith(".py"):
        text = (ROOT / words[0]).read_text(encoding="utf-8")
        lost = [word for word in words[1:] if word.startswith("--") and word.split("=")[0] not in text]
        if lost:
            return f"{words[0]} has no {lost[0]}"
    return ""
