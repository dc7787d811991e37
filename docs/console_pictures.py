# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of the fleet's pages: `python docs/console_pictures.py FOLDER`.

FOLDER holds the pages as a run left them: `TRAINYARD_WATCH_PAGES=FOLDER molecule test -s watch`. Writes
docs/images/console-NAME-{desktop,phone}-{light,dark}.png; it needs Chromium, as docs/report_pictures.py does.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from report_pictures import IMAGES, SCHEMES, browser, picture

#: What the book shows: page, kind of screen, colours, and what `report_pictures.picture` takes for its size.
SHOWN = (
    ("fleet", "desktop", "light", (1500, 860, (0,))),
    ("fleet", "phone", "dark", (390, 844, (0,))),
)


def main(argv: list[str] | None = None) -> int:
    """Draw each page that the book shows."""
    parser = argparse.ArgumentParser(description="Pictures of the fleet's pages, from a run.")
    parser.add_argument("folder", type=Path, help="where the pages are")
    parser.add_argument("--to", type=Path, default=IMAGES)
    given = parser.parse_args(argv)
    command = browser()
    for name, kind, colours, size in SHOWN:
        with tempfile.TemporaryDirectory() as scratch:
            page = Path(scratch) / f"{name}.html"
            text = (given.folder / f"{name}.html").read_text(encoding="utf-8")
            # In a frame nothing lies behind a page, where a window paints its own colour.
            still = re.sub(r'<meta http-equiv="refresh"[^>]*>', "<style>html{background:Canvas}</style>", text)
            page.write_text(still, encoding="utf-8")
            target = given.to / f"console-{name}-{kind}-{colours}.png"
            picture(command, page, target, size, SCHEMES[colours])
            sys.stdout.write(f"{target}: {target.stat().st_size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
