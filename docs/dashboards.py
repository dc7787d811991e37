# SPDX-License-Identifier: Apache-2.0
"""Writes Grafana's dashboards of a fleet, as the collection carries them, from the panels that are declared in it.

python docs/dashboards.py            writes
python docs/dashboards.py --check    fails where a file is not current
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "collections")]

from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import dashboards  # noqa: E402

FOLDER = ROOT / "collections/ansible_collections/trainyard/neuron/extensions/grafana/dashboards"


def wanted() -> dict[Path, str]:
    """What each file is to be."""
    return {
        FOLDER / f"trainyard-{name}.json": json.dumps(dashboards.grafana(name), indent=1) + "\n"
        for name in dashboards.DASHBOARDS
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 if `--check` found that a file is not current."""
    parser = argparse.ArgumentParser(description="Write Grafana's dashboards of a fleet.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where something would change")
    check = parser.parse_args(argv).check
    late = [path for path, text in wanted().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in late:
        if check:
            sys.stdout.write(f"{path.relative_to(ROOT)} is not current: python docs/dashboards.py\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted()[path], encoding="utf-8")
    return int(check and bool(late))


if __name__ == "__main__":
    sys.exit(main())
