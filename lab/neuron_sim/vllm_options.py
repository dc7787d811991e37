# SPDX-License-Identifier: Apache-2.0
"""The options of vLLM's server, by vLLM version, as upstream's own parsers hold them.

``options/vllm-<version>.json`` has names, types, defaults and choices; ``lab/option_tables.py`` writes these files from
upstream's code (the AWS fork's branches neuron-2.23-vllm-v0.7.2, kept as 0.7.2, and releases/v2.23.0-v0, kept as 0.8.5;
vLLM's own releases for the others).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

TABLES = Path(__file__).resolve().parent / "options"


class ModelOptionError(ValueError):
    """``vllm serve --model M``: refused by vLLM itself, after its arguments were parsed."""


class _Parser(argparse.ArgumentParser):
    """argparse with vLLM's one habit: underscores in an option's name count as dashes."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, after ``--max_model_len`` has become ``--max-model-len``."""
        given = []
        for item in args or []:
            name, equals, value = item.partition("=")
            given.append(name.replace("_", "-") + equals + value if item.startswith("--") else item)
        return super().parse_known_args(given, namespace)


# argparse names a converter when it refuses a value, so these have upstream's names.


def loads(text: str) -> Any:
    """JSON."""
    return json.loads(text)


def nullable_str(text: str) -> str | None:
    """Text; nothing and ``None`` are None."""
    return text if text and text != "None" else None


def nullable_kvs(text: str) -> dict[str, int]:
    """``image=4,audio=2``."""
    found: dict[str, int] = {}
    for item in filter(None, text.split(",")):
        parts = [part.lower().strip() for part in item.split("=")]
        if len(parts) != 2:
            raise argparse.ArgumentTypeError("Each item should be in the form KEY=VALUE")
        if not parts[1].lstrip("-").isdigit():
            raise argparse.ArgumentTypeError(f"Failed to parse value of item {parts[0]}={parts[1]}")
        found[parts[0]] = int(parts[1])
    return found


def parse_dataclass(text: str) -> Any:
    """Settings of a configuration class, as JSON; a bare number is a level."""
    return json.loads(text)


def from_cli(text: str) -> Any:
    """The same, in older versions."""
    return parse_dataclass(text)


def from_json(text: str) -> Any:
    """The same."""
    return parse_dataclass(text)


def union_dict_and_str(text: str) -> Any:
    """JSON where there are braces, else text."""
    return json.loads(text) if re.match(r"(?s)^\s*{.*}\s*$", text) else text


def human_readable_int(text: str) -> int:
    """A number, or vLLM's short form of one: ``8k`` is 8000 and ``8K`` is 8192."""
    factors = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
    return int(float(text[:-1]) * factors[text[-1]]) if text[-1:] in factors else int(text)


def human_readable_int_or_auto(text: str) -> int:
    """The same; ``auto`` and -1 leave it to vLLM."""
    return -1 if text.strip().lower() in ("auto", "-1") else human_readable_int(text)


_CONVERTERS: dict[str, Callable[[str], Any]] = {
    kind.__name__: kind
    for kind in (
        *(str, int, float, bool, loads, nullable_str, nullable_kvs, parse_dataclass, from_cli, from_json),
        *(union_dict_and_str, human_readable_int, human_readable_int_or_auto),
    )
}


def _optional(inner: Callable[[str], Any]) -> Callable[[str], Any]:
    def _optional_type(text: str) -> Any:
        return None if text in ("", "None") else _parsed(inner)(text)

    return _optional_type


def _parsed(inner: Callable[[str], Any]) -> Callable[[str], Any]:
    def _parse_type(text: str) -> Any:
        try:
            return inner(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"Value {text} cannot be converted to {inner}.") from None

    return _parse_type


class StoreBoolean(argparse.Action):
    """``--flag true``; without a value it is true."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Take the value.

        Raises:
            ValueError: neither true nor false.
        """
        del parser, option_string
        if str(values).lower() not in ("true", "false"):
            raise ValueError(f"Invalid boolean value: {values}. Expected 'true' or 'false'.")
        setattr(namespace, self.dest, str(values).lower() == "true")


class LoRAParserAction(argparse.Action):
    """``name=path``, or JSON."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keep the values."""
        for item in values if isinstance(values, list) else [values]:
            if "=" not in item and not item.startswith("{"):
                parser.error(f"Invalid format for {option_string}: {item}")
        setattr(namespace, self.dest, values)


class PromptAdapterParserAction(LoRAParserAction):
    """``name=path``."""


# Converters that have no name upstream, by what they fill.
_UNNAMED: dict[str, Callable[[str], Any]] = {
    "moe_backend": lambda text: text.lower().replace("-", "_"),
    "linear_backend": lambda text: text.lower().replace("-", "_"),
    "device_ids": lambda text: [int(part) if part.strip().isdigit() else part.strip() for part in text.split(",")],
}

_ACTIONS: dict[str, Any] = {
    "StoreAction": "store",
    "StoreTrueAction": "store_true",
    "AppendAction": "append",
    "BooleanOptionalAction": argparse.BooleanOptionalAction,
    **{kind.__name__: kind for kind in (StoreBoolean, LoRAParserAction, PromptAdapterParserAction)},
}


def _default(value: Any) -> Any:
    """A default; that of a configuration class is an object which is nothing but of that name."""
    if isinstance(value, str) and value.startswith("<"):
        return type(value.strip("<>"), (), {})()
    return value


def _keywords(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"default": _default(row["default"])}
    for name in ("nargs", "required"):
        if name in row:
            found[name] = row[name]
    if row.get("choices"):
        found["choices"] = row["choices"]
    kind = row.get("type")
    if kind in ("_optional_type", "_parse_type"):
        wrap = _optional if kind == "_optional_type" else _parsed
        found["type"] = wrap(_CONVERTERS[row["of"]])
    elif kind == "lambda":
        found["type"] = _UNNAMED[row["dest"]]
    elif kind in _CONVERTERS and kind != "str":
        found["type"] = _CONVERTERS[kind]
    return found


def _add(parser: argparse.ArgumentParser, row: dict[str, Any]) -> None:
    if not row["flags"]:
        parser.add_argument(row["dest"], **_keywords(row))
        return
    keywords = _keywords(row)
    flags = row["flags"]
    if row["action"] == "BooleanOptionalAction":
        flags = [flag for flag in flags if not flag.startswith("--no-") or flag.replace("--no-", "--", 1) not in flags]
    parser.add_argument(*flags, action=_ACTIONS[row["action"]], dest=row["dest"], **keywords)


def versions() -> list[tuple[int, ...]]:
    """The versions of vLLM that there are tables of, oldest first."""
    names = (path.stem.partition("-")[2] for path in TABLES.glob("vllm-*.json"))
    return sorted(tuple(int(part) for part in name.split(".")) for name in names)


def _table(vllm: tuple[int, ...]) -> dict[str, Any]:
    """The table of the newest known version that is not newer than this one."""
    known = versions()
    chosen = max((found for found in known if found <= (*vllm, 99)), default=known[0])
    name = ".".join(map(str, chosen))
    table: dict[str, Any] = json.loads((TABLES / f"vllm-{name}.json").read_text(encoding="utf-8"))
    return table


def api_server_parser(vllm: tuple[int, ...]) -> argparse.ArgumentParser:
    """``python -m vllm.entrypoints.openai.api_server``; from 0.11 on it takes (and ignores) a positional model."""
    parser = _Parser(prog="api_server.py", description="vLLM OpenAI-Compatible RESTful API server.")
    for row in _table(vllm)["options"]:
        _add(parser, row)
    return parser


def serve_parser(vllm: tuple[int, ...]) -> argparse.ArgumentParser:
    """``vllm serve``; the positional model is required in 0.7 and optional later."""
    parser = _Parser(prog="vllm serve")
    table = _table(vllm)
    own = {row["dest"] for row in table["serve"]}
    for row in table["options"]:
        if row["dest"] not in own:
            _add(parser, row)
    for row in table["serve"]:
        _add(parser, row)
    return parser
