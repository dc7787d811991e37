# SPDX-License-Identifier: Apache-2.0
"""The options of the stand-in's commands, all of them, against the tables that upstream's own code wrote.

The tables are beside the stand-in (``lab/neuron_sim/options``, each with repository, ref and commit); the parsers are
built from them or from the stand-in's own list, and are read back here in the way in which upstream's were.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from lab import option_tables
from lab.neuron_sim import inference_demo_options, sdk, vllm_options

TABLES = vllm_options.TABLES
DEMOS = sorted(TABLES.glob("inference_demo-*.json"))
SERVERS = sorted(TABLES.glob("vllm-*.json"))
#: Choices and defaults of packages that upstream's own repository does not hold: the table leaves them open.
OPEN = ("--activation-quantization-type", "--quantization-type", "--k-quant-method", "--v-quant-method")


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {(row["flags"] or [row["dest"]])[0]: row for row in rows}


def differences(upstream: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[str]:
    """Every option that one side lacks, and every field in which the two differ."""
    theirs, mine = by_name(upstream), by_name(ours)
    found = [f"{name}: only upstream" for name in theirs.keys() - mine.keys()]
    found += [f"{name}: only here" for name in mine.keys() - theirs.keys()]
    for name in theirs.keys() & mine.keys():
        one, other = theirs[name], mine[name]
        for field in sorted({*one, *other}):
            if one.get(field) == other.get(field) or is_open(one, field):
                continue
            found.append(f"{name}: {field} is {one.get(field)!r} upstream, {other.get(field)!r} here")
    return sorted(found)


def is_open(row: dict[str, Any], field: str) -> bool:
    """Whether another package decides this."""
    return (field == "choices" and row.get(field, 1) is None) or row.get(field) == option_tables.ELSEWHERE


def version_of(path: Path) -> str:
    return path.stem.partition("-")[2]


@pytest.mark.parametrize("path", DEMOS, ids=version_of)
def test_every_option_of_inference_demo_is_upstreams(path: Path) -> None:
    """aws-neuron/neuronx-distributed-inference, inference_demo.py at the table's commit."""
    table = json.loads(path.read_text())
    parser = inference_demo_options.build_parser(f"{version_of(path)}.0")
    run = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices["run"]
    assert differences(table["options"], option_tables.table(parser)) == []
    assert differences(table["run"], option_tables.table(run)) == []
    assert [[action.dest for action in g._group_actions] for g in run._mutually_exclusive_groups] == table["exclusive"]
    for name in ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64"):
        words = ["--model-type", "llama", "--task-type", "causal-lm", "run", "--model-path", "m", "--prompt", "p"]
        words += ["--compiled-model-path", "c", "--torch-dtype", name]
        if name in table["dtypes"]:
            parser.parse_args(words)
        else:
            with pytest.raises(AssertionError, match=f"Unsupported dtype: {name}"):
                parser.parse_args(words)


@pytest.mark.parametrize("path", DEMOS, ids=version_of)
def test_what_a_table_leaves_open_is_of_other_packages(path: Path) -> None:
    rows = json.loads(path.read_text())["run"]
    assert {row["flags"][0] for row in rows if any(is_open(row, field) for field in row)} <= set(OPEN)


@pytest.mark.parametrize("path", SERVERS, ids=version_of)
def test_every_option_of_the_api_server_is_upstreams(path: Path) -> None:
    """vLLM's make_arg_parser at the table's version; 0.7.2 and 0.8.5 are the AWS fork's two branches of SDK 2.23."""
    version = tuple(int(part) for part in version_of(path).split("."))
    table = json.loads(path.read_text())
    assert len(table["options"]) > 100
    parser = vllm_options.api_server_parser(version)
    assert differences(table["options"], option_tables.table(parser)) == []


@pytest.mark.parametrize("path", SERVERS, ids=version_of)
def test_every_option_of_vllm_serve_is_upstreams(path: Path) -> None:
    """vLLM's serve command at the table's version."""
    version = tuple(int(part) for part in version_of(path).split("."))
    table = json.loads(path.read_text())
    own = by_name(table["serve"])
    rows = [row for name, row in by_name(table["options"]).items() if name not in own] + list(own.values())
    assert differences(rows, option_tables.table(vllm_options.serve_parser(version))) == []


@pytest.mark.parametrize("row", sdk.releases().values(), ids=lambda row: row.key)
def test_every_release_has_tables_of_its_own_lines(row: sdk.Release) -> None:
    """A release is parsed by the table of its vLLM's minor version, and of its NxDI's, not by a neighbour's."""
    minors = {version[:2] for version in vllm_options.versions()}
    assert row.vllm_version[:2] in minors
    if row.nxdi:
        demos = {int(version_of(path).split(".")[1]) for path in DEMOS}
        # 0.8 and 0.9 have no tag upstream: their lists are 0.7's with what 0.10 added, as far as known.
        assert row.nxdi_minor in demos | {8, 9}


@pytest.mark.parametrize(
    ("version", "words", "message"),
    [
        ((0, 8, 5), ["--shutdown-timeout", "5"], "unrecognized arguments: --shutdown-timeout"),
        ((0, 11, 0), ["--device", "neuron"], "unrecognized arguments: --device"),
        ((0, 11, 0), ["--use-v2-block-manager"], "unrecognized arguments: --use-v2-block-manager"),
        ((0, 8, 5), ["--block-size", "33"], "argument --block-size: invalid choice: 33"),
        ((0, 8, 5), ["--max-num-seqs", "four"], "argument --max-num-seqs: "),
        ((0, 7, 2), ["--override-neuron-config", "{"], "argument --override-neuron-config: invalid loads value: '{'"),
    ],
)
def test_refusals_are_argparses_own(
    version: tuple[int, ...], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """V0's options in V1 and the other way round end with status 2 and argparse's text."""
    with pytest.raises(SystemExit) as ended:
        vllm_options.api_server_parser(version).parse_args(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
