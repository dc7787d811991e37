# SPDX-License-Identifier: Apache-2.0
"""Make the README's terminal picture from a fleet that runs: `python docs/pictures.py` after `make demo`."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from rich.console import Console
from rich.text import Text

from trainyard.paths import ROOT

COLUMNS = 118
PICTURE = ROOT / "docs" / "images" / "demo.svg"


def main() -> int:
    """Write the picture of `trainyard show`; the command's own exit code where it failed."""
    command = ["trainyard", "show", "-i", "inventory/lab"]
    run = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"},
    )
    if run.returncode:
        sys.stderr.write(run.stderr)
        return run.returncode
    # The checkout's own path says nothing to a reader.
    said = run.stdout.replace(f"{ROOT}/", "")
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    console.print(Text("$ make demo", style="bold green"))
    console.print(Text.from_ansi(said))
    PICTURE.parent.mkdir(exist_ok=True)
    picture = console.export_svg(title="trainyard: a stand-in fleet on a laptop")
    # The reader's own monospace font will do: a picture fetches nothing.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
