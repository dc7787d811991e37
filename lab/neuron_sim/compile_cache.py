# SPDX-License-Identifier: Apache-2.0
"""The compiler's cache of graphs, by hash of what was compiled, flags and compiler version. Failures are kept as well.

Source: "Neuron Persistent Cache" of the Neuron documentation. Locations in S3 are not modelled: nothing is kept there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import HostConfig

_DEFAULT = "/var/tmp/neuron-compile-cache"  # noqa: S108 - the compiler's own default
_RETRY = "--retry_failed_compilation"


@dataclass(frozen=True)
class Entry:
    """One graph's place in the cache; ``path`` is None where nothing is kept."""

    path: Path | None

    @property
    def compiled(self) -> bool:
        """Whether the graph is there."""
        return self.path is not None and (self.path / "model.done").exists()

    @property
    def failed(self) -> bool:
        """Whether compiling it failed before."""
        return self.path is not None and (self.path / "model.log").exists() and not self.compiled

    def succeed(self) -> None:
        """Keep the graph."""
        self._write("model.neff", "stand-in\n")
        self._write("model.done", "")

    def fail(self, text: str) -> None:
        """Keep the failure."""
        self._write("model.log", text)

    def _write(self, name: str, text: str) -> None:
        if self.path is not None:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text, encoding="utf-8")


def location(host: HostConfig) -> Path | None:
    """Where the cache is: the compiler's flag wins over the variable; None for a place in S3."""
    chosen = os.environ.get("NEURON_COMPILE_CACHE_URL", "")
    for flag in shlex.split(os.environ.get("NEURON_CC_FLAGS", "")):
        if flag.startswith("--cache_dir="):
            chosen = flag.removeprefix("--cache_dir=")
    if chosen.startswith("s3://"):
        return None
    return Path(chosen) if chosen else host.path(_DEFAULT)


def retries_failures() -> bool:
    """Whether the compiler's flags ask to try again what failed."""
    return _RETRY in os.environ.get("NEURON_CC_FLAGS", "")


def entry(host: HostConfig, compiler: str, graph: dict[str, Any]) -> Entry:
    """The place of what this compiler makes of this."""
    directory = location(host)
    if directory is None:
        return Entry(None)
    text = json.dumps([graph, os.environ.get("NEURON_CC_FLAGS", "").replace(_RETRY, "").strip()], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Entry(directory / f"neuronxcc-{compiler}" / f"MODULE_{digest[:20]}+{digest[20:28]}")
