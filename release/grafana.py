# SPDX-License-Identifier: Apache-2.0
"""Reads dashboards by Grafana's own foundation SDK: `python release/grafana.py FOLDER`, with the tools' Python."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Words of annotations that are the data source's own, of which the SDK's schema knows nothing.
OF_PROMETHEUS = (".titleFormat", ".textFormat", ".step")


def lost(said: Any, read: Any, where: str = "") -> Iterator[str]:
    """Yield what a dashboard says and the SDK did not understand."""
    if isinstance(said, dict):
        for word, value in said.items():
            if not isinstance(read, dict) or word not in read:
                yield f"{where}.{word}"
            else:
                yield from lost(value, read[word], f"{where}.{word}")
    elif isinstance(said, list):
        if not isinstance(read, list) or len(said) != len(read):
            yield where
        else:
            for index, (one, other) in enumerate(zip(said, read, strict=True)):
                yield from lost(one, other, f"{where}[{index}]")
    elif said != read:
        yield where


def main() -> int:
    """Entry point; 1 where the SDK does not understand all of a dashboard, or there is none."""
    # The tools' environment has it, and no other.
    encoder = importlib.import_module("grafana_foundation_sdk.cog.encoder").JSONEncoder()
    dashboard = importlib.import_module("grafana_foundation_sdk.models.dashboard").Dashboard
    files = sorted(Path(sys.argv[1]).glob("*.json"))
    wrong = 0
    for path in files:
        said = json.loads(path.read_text(encoding="utf-8"))
        read = json.loads(encoder.encode(dashboard.from_json(said)))
        found = [word for word in lost(said, read) if not word.endswith(OF_PROMETHEUS)]
        wrong += bool(found)
        sys.stdout.write(f"{path.name}: {', '.join(found) or 'understood'}\n")
    return int(bool(wrong) or not files)


if __name__ == "__main__":
    sys.exit(main())
