# SPDX-License-Identifier: Apache-2.0
"""Records the options of upstream's commands as upstream's own code defines them: names, types, defaults, choices.

Runs the code that builds the parser, with everything that is not installed replaced by empty stand-ins, and writes what
the parser then holds. What a stand-in decides (choices and defaults of a package that is not there) is left open.
Nothing of upstream's text is kept, help texts included.

    python lab/option_tables.py inference_demo CLONE REF OUTPUT      a clone of aws-neuron/neuronx-distributed-inference
    python lab/option_tables.py vllm CLONE REF OUTPUT                a clone of a vLLM repository (the AWS fork)
    python lab/option_tables.py vllm FOLDER VERSION OUTPUT           an unpacked package of vLLM
    python lab/option_tables.py accepts CLONE REF OUTPUT             compile commands as JSON on standard input: what
                                                                     the parser of a ref says against each

The Python that runs it for vLLM needs vLLM's own dependencies; the lab's environment of the real vLLM has them.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import importlib.abc
import importlib.machinery
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What a package decides that the code's own repository does not hold.
ELSEWHERE = "<elsewhere>"
_DEMO = "neuronx_distributed_inference.inference_demo"
_REPOSITORIES = {"inference_demo": "aws-neuron/neuronx-distributed-inference", "vllm": "vllm-project/vllm"}


class _Meta(type):
    """A class that is whatever it is taken for: empty, callable, a base class, an annotation."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _stand_in(name)

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __or__(cls, other: Any) -> Any:
        return object

    __ror__ = __or__

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __bool__(cls) -> bool:
        return True

    def __contains__(cls, item: object) -> bool:
        return False


def _stand_in(name: str) -> Any:
    def made(cls: type, *args: Any, **kwargs: Any) -> Any:
        del kwargs
        # As a decorator it changes nothing.
        if len(args) == 1 and callable(args[0]) and not isinstance(args[0], _Meta):
            return args[0]
        return object.__new__(cls)

    def attribute(_: Any, wanted: str) -> Any:
        if wanted.startswith("__") and wanted.endswith("__"):
            raise AttributeError(wanted)
        return _stand_in(wanted)

    body: dict[str, Any] = {
        "__new__": made,
        "__init__": lambda *_, **__: None,
        "__getattr__": attribute,
        "__call__": lambda self, *args, **_: args[0] if len(args) == 1 and callable(args[0]) else self,
        "__iter__": lambda _: iter(()),
        "__stand_in__": True,
    }
    return _Meta(name, (), body)


class _Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes an empty module of whatever the code that is looked at wants and cannot find; others may do without."""

    def __init__(self, tree: Path) -> None:
        self._tree, self._own = str(tree), __file__

    def _is_wanted_by_the_tree(self) -> bool:
        frame: Any = sys._getframe(2)
        while frame is not None and ("importlib" in frame.f_code.co_filename or frame.f_code.co_filename == self._own):
            frame = frame.f_back
        # Which accelerator there is must be found out truly: none.
        wants = frame.f_code.co_filename if frame is not None else ""
        return wants.startswith(self._tree) and not wants.endswith("platforms/__init__.py")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find every module that the tree wants, but for parts of stand-ins, which anybody may want."""
        del path, target
        parent = sys.modules.get(name.rpartition(".")[0])
        if not self._is_wanted_by_the_tree() and not isinstance(getattr(parent, "__loader__", None), _Missing):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        """An empty module, every attribute of which is a stand-in."""
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__file__ = "/dev/null"
        module.__getattr__ = lambda name: _no_dunder(name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def _no_dunder(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _stand_in(name)


def _value(value: Any) -> Any:
    """A default or a choice in a form that JSON holds."""
    if isinstance(value, enum.Enum):
        return _value(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return str(value) if value in (float("inf"), float("-inf")) else value
    if isinstance(value, list | tuple | set | frozenset):
        items = [_value(item) for item in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    if isinstance(value, dict):
        return {str(key): _value(item) for key, item in value.items()}
    if isinstance(value, _Meta) or hasattr(type(value), "__stand_in__"):
        return ELSEWHERE
    return f"<{type(value).__name__}>"


def _type_name(kind: Any) -> str:
    name = getattr(kind, "__name__", None) or type(kind).__name__
    return re.sub(r"[^A-Za-z0-9_]", "", str(name)) if kind is not None else "str"


def _wrapped(kind: Any) -> str:
    """The name of what a converter passes its text on to; vLLM wraps them."""
    for cell in getattr(kind, "__closure__", None) or ():
        if callable(cell.cell_contents):
            return _wrapped(cell.cell_contents) or _type_name(cell.cell_contents)
    return ""


def describe(action: argparse.Action, *, required: bool) -> dict[str, Any]:
    """One option as the parser holds it."""
    kind = type(action).__name__.strip("_")
    row: dict[str, Any] = {"flags": list(action.option_strings), "action": kind, "dest": action.dest}
    if kind not in ("StoreTrueAction", "StoreFalseAction", "BooleanOptionalAction"):
        row["type"] = _type_name(action.type)
        inner = _wrapped(action.type)
        if inner:
            row["of"] = inner
    if action.nargs is not None and kind not in ("StoreTrueAction", "BooleanOptionalAction"):
        row["nargs"] = action.nargs
    if action.choices is not None:
        choices = [_value(choice) for choice in action.choices]
        row["choices"] = choices or None
    if required:
        row["required"] = True
    row["default"] = _value(action.default)
    return row


def table(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """All options of a parser but --help, by their first name; positionals by theirs."""
    rows = [
        describe(action, required=action.required and bool(action.option_strings))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    ]
    return sorted(rows, key=lambda row: (row["flags"] or [row["dest"]])[0])


class _ParsedError(Exception):
    """Carries a finished parser out of the code that built it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


@contextlib.contextmanager
def _caught() -> Iterator[list[argparse.ArgumentParser]]:
    """Stop at the first parse_args and keep its parser."""
    found: list[argparse.ArgumentParser] = []
    before = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *_: Any, **__: Any) -> Any:
        raise _ParsedError(self)

    argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
    try:
        yield found
    except _ParsedError as parsed:
        found.append(parsed.parser)
    finally:
        argparse.ArgumentParser.parse_args = before  # type: ignore[method-assign]


def source_tree(clone: Path, ref: str, folder: Path, top: str) -> tuple[Path, str]:
    """The tree to import from, and the commit it is of: a clone at a ref, or an unpacked package as it is."""
    is_clone = subprocess.run(
        ["git", "-C", str(clone), "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if is_clone.returncode:
        return clone, ""
    packed = subprocess.run(["git", "-C", str(clone), "archive", ref, top], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(folder, filter="data")
    return folder / top if top == "src" else folder, is_clone.stdout.strip()


def _alone(name: str, path: Path) -> types.ModuleType:
    """One file as a module; its packages are not initialised, only found."""
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.machinery.ModuleSpec(name, loader, origin=str(path))
    module = types.ModuleType(name)
    module.__file__, module.__spec__, module.__package__ = str(path), spec, name.rpartition(".")[0]
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def demo_parser(tree: Path) -> argparse.ArgumentParser:
    """The parser that ``inference_demo`` itself builds, from its source tree."""
    package = tree / "neuronx_distributed_inference"
    sys.meta_path.append(_Missing(tree))
    for name in ("neuronx_distributed_inference", "neuronx_distributed_inference.utils"):
        module = types.ModuleType(name)
        module.__path__ = []
        sys.modules[name] = module
    for name in ("utils.argparse_utils", "utils.constants"):
        path = package / f"{name.replace('.', '/')}.py"
        if path.exists():
            made = _alone(f"neuronx_distributed_inference.{name}", path)
            setattr(sys.modules["neuronx_distributed_inference.utils"], name.rpartition(".")[2], made)
    demo = _alone(_DEMO, package / "inference_demo.py")
    with _caught() as found:
        demo.parse_args()
    return found[0]


def run_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser of what stands behind ``run``."""
    sub = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return sub.choices["run"]  # type: ignore[no-any-return]


def inference_demo(tree: Path) -> dict[str, Any]:
    """The options of ``inference_demo``, those before and after ``run``, and the dtypes that its converter takes."""
    parser = demo_parser(tree)
    run = run_parser(parser)
    groups = [[action.dest for action in group._group_actions] for group in run._mutually_exclusive_groups]
    config = (tree / "neuronx_distributed_inference/models/config.py").read_text(encoding="utf-8")
    mapping = config.partition("def to_torch_dtype")[2].partition("}")[0]
    return {
        "options": table(parser),
        "run": table(run),
        "exclusive": groups,
        "dtypes": re.findall(r'"(\w+)": torch\.', mapping),
    }


def accepts(tree: Path, given: list[tuple[str, list[str]]]) -> dict[str, str]:
    """What the parser of ``inference_demo`` says against commands, by their names; nothing for those that it takes."""
    parser = demo_parser(tree)
    for action in run_parser(parser)._actions:
        # Another package decides these, which is not here.
        action.choices = action.choices or None
    found = {}
    for name, argv in given:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                parser.parse_args(argv)
            except SystemExit:
                found[name] = said.getvalue().strip().splitlines()[-1]
    return found


def vllm(tree: Path) -> dict[str, Any]:
    """The options of vLLM's API server, of both ways to start it."""
    sys.path.insert(0, str(tree))
    sys.meta_path.append(_Missing(tree))
    with contextlib.suppress(ImportError):
        # A newer transformers knows models that an older vLLM still registers itself; neither changes an option.
        mapping = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
        mapping.register = lambda *_, **__: None
    makers = _first("vllm.entrypoints.openai.cli_args", "vllm.entrypoints.launchers.cli_args")
    kind = _first("vllm.utils.argparse_utils", "vllm.utils").FlexibleArgumentParser
    rows = table(makers.make_arg_parser(kind()))
    serve = table(_serve_parser(kind))
    return {"options": rows, "serve": [row for row in serve if row not in rows]}


def _first(*names: str) -> Any:
    """The first of these modules that there is; vLLM has moved them."""
    for name in names[:-1]:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return importlib.import_module(names[-1])


def _serve_parser(kind: Any) -> argparse.ArgumentParser:
    """The parser of ``vllm serve``; where it is made has changed."""
    try:
        cli = importlib.import_module("vllm.entrypoints.cli.serve")
    except ImportError:
        with _caught() as found:
            importlib.import_module("vllm.scripts").main()
        commands = next(action for action in found[0]._actions if isinstance(action, argparse._SubParsersAction))
        return commands.choices["serve"]  # type: ignore[no-any-return]
    return cli.ServeSubcommand().subparser_init(kind().add_subparsers())  # type: ignore[no-any-return]


def main() -> None:
    """Write one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("command", choices=[*sorted(_REPOSITORIES), "accepts"])
    options.add_argument("clone", type=Path)
    options.add_argument("ref")
    options.add_argument("output", type=Path)
    options.add_argument("--repository", help="owner/name, where it is another one")
    given = options.parse_args()
    if given.command == "accepts":
        with tempfile.TemporaryDirectory() as folder:
            tree, _commit = source_tree(given.clone, given.ref, Path(folder), "src")
            text = json.dumps(accepts(tree, json.load(sys.stdin)))
        sys.stdout.write(text) if str(given.output) == "-" else given.output.write_text(text, encoding="utf-8")
        return
    read = {"inference_demo": inference_demo, "vllm": vllm}[given.command]
    top = {"inference_demo": "src", "vllm": "vllm"}[given.command]
    with tempfile.TemporaryDirectory() as folder:
        tree, commit = source_tree(given.clone, given.ref, Path(folder), top)
        found = read(tree)
    source = {"repository": given.repository or _REPOSITORIES[given.command], "ref": given.ref, "commit": commit}
    lines = [f' "source": {json.dumps(source)}']
    for key, value in found.items():
        rows = ",\n".join("  " + json.dumps(row, sort_keys=True) for row in value)
        lines.append(f' "{key}": [\n{rows}\n ]')
    given.output.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
