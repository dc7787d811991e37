# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of a report from runs: `python docs/report_pictures.py sweep RUN...`, at desktop and phone width.

Writes docs/images/report-NAME-{desktop,phone}-{light,dark}.png. It needs Chromium: `apt-get install chromium`, or
another build of it named in $CHROMIUM. The pages are `trainyard report`'s own, nothing is put on them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from trainyard.paths import ROOT
from trainyard.report import analysis, render

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective  # isort: skip

IMAGES = ROOT / "docs" / "images"
#: Width and height of the page in CSS pixels, and how far down it the frames of a picture begin, side by side.
SIZES = {"desktop": (1120, 1240, (0,)), "phone": (390, 844, (0, 820))}
#: Chromium's numbers for what a page asks by prefers-color-scheme.
SCHEMES = {"light": 1, "dark": 0}
#: No window, no network, no profile of anybody's.
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def browser() -> str:
    """The browser's command; exits with how to get one where there is none."""
    names = filter(None, (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"))
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        sys.exit("Chromium is not installed: `apt-get install chromium`, or name a build of it in $CHROMIUM")
    return found


def picture(command: str, page: Path, target: Path, size: tuple[int, int, tuple[int, ...]], scheme: int) -> None:
    """Draw parts of a page. A window cannot be as narrow as a phone, so the page stands in frames that are."""
    width, height, offsets = size
    gap = 20
    total = width * len(offsets) + gap * (len(offsets) - 1)
    with tempfile.TemporaryDirectory() as scratch:
        frame = Path(scratch) / "frame.html"
        frames = "".join(
            f'<div style="overflow:hidden;width:{width}px;height:{height}px"><iframe src="{page.as_uri()}" '
            f'style="border:0;width:{width}px;height:{height + offset}px;margin-top:-{offset}px"></iframe></div>'
            for offset in offsets
        )
        frame.write_text(f'<body style="margin:0;display:flex;gap:{gap}px;background:#888">{frames}</body>')
        words = [
            f"--user-data-dir={scratch}/profile",
            f"--window-size={total},{height}",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={target}",
        ]
        done = subprocess.run(
            [command, *QUIET, *words, frame.as_uri()], capture_output=True, text=True, timeout=120, check=False
        )
    if done.returncode or not target.exists():
        sys.exit(f"{command} drew nothing: {done.stderr[-500:]}")


def main(argv: list[str] | None = None) -> int:
    """Render the runs' page and draw it four times."""
    parser = argparse.ArgumentParser(description="Pictures of a report, from runs.")
    parser.add_argument("name", help="which report it is, for the files' names")
    parser.add_argument("runs", nargs="+", type=Path, help="directories of runs")
    parser.add_argument("--ttft-ms", type=float)
    parser.add_argument("--tpot-ms", type=float)
    parser.add_argument("--percentile", type=float, default=99)
    parser.add_argument("--only", default="", help="such as desktop-light,phone-dark")
    parser.add_argument("--to", type=Path, default=IMAGES)
    given = parser.parse_args(argv)
    limits = {"time_to_first_token_ms": given.ttft_ms, "time_per_output_token_ms": given.tpot_ms}
    objective = Objective(**limits, percentile=given.percentile) if any(limits.values()) else None
    command = browser()
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "report.html"
        page.write_text(render.html(analysis.read(given.runs), objective), encoding="utf-8")
        for kind, size in SIZES.items():
            for scheme, number in SCHEMES.items():
                if given.only and f"{kind}-{scheme}" not in given.only.split(","):
                    continue
                target = given.to / f"report-{given.name}-{kind}-{scheme}.png"
                picture(command, page, target, size, number)
                sys.stdout.write(f"{target}: {target.stat().st_size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
