# SPDX-License-Identifier: Apache-2.0
"""Says where the sources are that are no part of this repository, as shell lines: `eval "$(python tests/sources.py)"`.

A source is at hand where its variable names it, where an earlier run has left it in the cache, or where GitHub answers.
Where it is not, a line on standard error says what is not tested for want of it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: GitHub, or a mirror of it.
BASE = os.environ.get("TRAINYARD_SOURCE_BASE", "https://github.com")
#: How long a machine without GitHub may take to say so, seconds.
ANSWER_S = 10


@dataclass(frozen=True)
class Source:
    """Something that is fetched and never committed.

    Attributes:
        variable: names it to the tests.
        repositories: what it is made of, `owner/name`; one is the source itself, several lie below one directory.
        without: what is not tested where it is missing.
    """

    variable: str
    repositories: tuple[str, ...]
    without: str


SOURCES = (
    Source("TRAINYARD_LLMPERF_SOURCE", ("ray-project/llmperf",), "the patches of LLMPerf"),
    Source(
        "TRAINYARD_SOURCES",
        ("aws-neuron/upstreaming-to-vllm", "vllm-project/vllm-neuron"),
        "what the SDK table says of vLLM's sources",
    ),
    Source(
        "TRAINYARD_NXDI_SOURCE",
        ("aws-neuron/neuronx-distributed-inference",),
        "compile commands by inference_demo's own parser",
    ),
)


def cache() -> Path:
    """Where fetched sources are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trainyard" / "sources"


def fetched(repository: str, base: str) -> Path | None:
    """A clone of a repository in the cache, made where there is none; None where it cannot be had."""
    target = cache() / repository
    if target.is_dir():
        return target
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    address = f"{base}/{repository}"
    try:
        subprocess.run(
            ["git", "ls-remote", address, "HEAD"], env=environment, capture_output=True, check=True, timeout=ANSWER_S
        )
        half = target.with_name(f".{target.name}.{os.getpid()}")
        half.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["git", "clone", "--quiet", address, str(half)], env=environment, capture_output=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        half.rename(target)
    except OSError:
        shutil.rmtree(half, ignore_errors=True)  # another run was faster
    return target


def at_hand(source: Source, base: str = BASE) -> Path | None:
    """Where a source is; None where it cannot be had."""
    given = os.environ.get(source.variable)
    if given:
        return Path(given)
    found = [fetched(repository, base) for repository in source.repositories]
    if None in found or not found:
        return None
    return found[0] if len(found) == 1 else cache()


def main() -> int:
    """Print the variables of the sources that are at hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variable", nargs="*", help="only these; all of them by default")
    wanted = parser.parse_args().variable
    for source in SOURCES:
        if wanted and source.variable not in wanted:
            continue
        path = at_hand(source)
        if path is None:
            sys.stderr.write(
                f"not tested here: {source.without} ({source.variable} names no source, {BASE} has none)\n"
            )
        else:
            sys.stdout.write(f"export {source.variable}={shlex.quote(str(path))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
