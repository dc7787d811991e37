# SPDX-License-Identifier: Apache-2.0
"""``inference_demo``: NxDI's command that compiles a model, and may load it and generate.

Source: ``inference_demo.py`` of neuronx-distributed-inference at the version of the chosen SDK release.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from . import bringup, compiler, inference_demo_options, neuron_config, ownership, rules, sdk
from .bringup import bring_up
from .config import HostConfig, logical_nc_config
from .hardware import instance_type
from .settings import ServeSettings
from .tokenizer import Tokenizer


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    given = {name: value for name, value in vars(options).items() if value is not None}
    lists = given.pop("modules_to_not_convert_lists", None)
    if isinstance(lists, dict):
        given["modules_to_not_convert"] = lists.get("model", lists).get("modules_to_not_convert")
    if options.logical_neuron_cores is not None:
        print("UserWarning: '--logical-neuron-cores' is deprecated and no longer needed.", file=sys.stderr)
        given["logical_nc_config"] = options.logical_neuron_cores
    if options.on_device_sampling:
        given["on_device_sampling_config"] = dict(given)
    return given


def run(host: HostConfig, options: argparse.Namespace, row: sdk.Release) -> None:
    """What the command does after its arguments are read."""
    print("Loading configs...", flush=True)
    kind = instance_type(host.instance_type)
    settings = _settings(options)
    lnc = logical_nc_config(host)
    config = neuron_config.build(settings, nxdi=row.nxdi, lnc=lnc, target=kind.family)
    started = time.monotonic()
    if options.skip_compile or options.on_cpu:
        print("\nSkipping model compilation")
    else:
        print("\nCompiling and saving model...", flush=True)
        target = Path(options.compiled_model_path)
        compiler.compile_model(
            host,
            row,
            options.model_path,
            config,
            target,
            dry_run=options.compile_dry_run,
            draft_path=options.draft_model_path or "",
        )
        print(f"Compiling and tracing time: {time.monotonic() - started} seconds", flush=True)
    if options.compile_only or options.compile_dry_run:
        return
    _generate(host, options, row, config)


def _generate(host: HostConfig, options: argparse.Namespace, row: sdk.Release, config: dict[str, Any]) -> None:
    """Load what was compiled on cores of its own, and print something for each prompt."""
    print("\nLoading model to Neuron...", flush=True)
    kind = instance_type(host.instance_type)
    cores = kind.core_count(logical_nc_config(host))
    claim = ownership.claim(host, cores, default_count=config["tp_degree"])
    os.environ["NEURON_COMPILED_ARTIFACTS"] = options.compiled_model_path
    started = time.monotonic()
    serve = ServeSettings(
        release=row.key,
        vllm=row.vllm,
        model=options.model_path,
        served_names=("",),
        host="",
        port=0,
        tensor_parallel_size=config["tp_degree"],
        max_num_seqs=config["batch_size"],
        max_model_len=config["seq_len"],
    )
    bring_up(host, row, serve, claim.cores)
    print(f"Total model loading time: {time.monotonic() - started} seconds")
    print("\nSkipping accuracy check\n\nGenerating outputs...")
    print(f"Prompts: {options.prompts}\nGenerated outputs:")
    tokenizer = Tokenizer.load(options.model_path)
    for index, prompt in enumerate(options.prompts):
        words = itertools.islice(tokenizer.generate(prompt), 16)
        print(f"Output {index}: {prompt}{''.join(text for _, text in words)}")


def main(host: HostConfig, argv: list[str], *, command: str, release: str) -> int:
    """Run the command; 0, 1 after a traceback, 2 for arguments that do not exist."""
    del command
    row = sdk.release(release)
    parser = inference_demo_options.build_parser(row.nxdi)
    options = parser.parse_args(argv) if rules.holds(host, "compile-options") else parser.parse_known_args(argv)[0]
    try:
        if options.task_type != "causal-lm":
            raise AssertionError(f"Unsupported task: {options.model_type}/{options.task_type}")
        run(host, options, row)
    except (
        compiler.ModelError,
        compiler.CompileError,
        bringup.BringUpError,
        ownership.CoresBusyError,
        ownership.CoreSelectionError,
    ) as error:
        print(f"Traceback (most recent call last):\n{error}", file=sys.stderr)
        return 1 if rules.holds(host, "compile-failure") else 0
    except Exception:  # noqa: BLE001 - a Python program that fails ends with a traceback and status 1
        traceback.print_exc()
        return 1
    return 0 if rules.holds(host, "compile-status") else 1
