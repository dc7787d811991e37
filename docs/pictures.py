# SPDX-License-Identifier: Apache-2.0
"""Draw the README's terminal picture: `python docs/pictures.py [LAB]` runs `make demo` and draws what it printed.

The tools are installed before (`make venv`), and the fleet is left up. Exits with the run's own code where it failed,
and with 1, without a picture, where the output does not fit on two screens.
"""

from __future__ import annotations

import os
import pty
import re
import sys
import time

from rich.console import Console
from rich.text import Text

from trainyard.paths import ROOT

COLUMNS = 120
#: Rows of a terminal that fills a laptop's screen.
SCREEN_LINES = 52
PICTURE = ROOT / "docs" / "images" / "demo.svg"


def printed_by(command: list[str]) -> tuple[int, str]:
    """Run a command on a terminal of its own, in the tree.

    Returns:
        Its exit code, and all that it printed, with colours.
    """
    kept: list[bytes] = []

    def keep(descriptor: int) -> bytes:
        kept.append(os.read(descriptor, 4096))
        return kept[-1]

    os.chdir(ROOT)
    os.environ |= {"COLUMNS": str(COLUMNS), "LINES": str(SCREEN_LINES), "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    status = pty.spawn(command, keep, lambda _: b"")
    return os.waitstatus_to_exitcode(status), b"".join(kept).decode(errors="replace")


def drawn(said: str) -> tuple[str, int]:
    """The picture of a terminal, and how many of its lines are written on.

    Args:
        said: what was printed, with colours; the checkout's own path is left out, which says nothing to a reader.
    """
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    console.print(Text("$ make demo", style="bold green"))
    console.print(Text.from_ansi(said.replace("\r\n", "\n").replace(f"{ROOT}/", "").strip()))
    lines = console.export_text(clear=False).count("\n")
    picture = console.export_svg(title="trainyard: a stand-in fleet on a laptop, the real vLLM on its CPU")
    # The reader's own monospace font will do: a picture fetches nothing.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL), lines


def main() -> int:
    """Run the demonstration and write its picture."""
    lab = sys.argv[1] if len(sys.argv) > 1 else "default"
    began_s = time.monotonic()
    code, said = printed_by(["make", "--no-print-directory", "demo", f"LAB={lab}"])
    if code:
        return code
    picture, lines = drawn(said)
    sys.stderr.write(f"{lines} lines of {COLUMNS} columns, {time.monotonic() - began_s:.0f} s\n")
    if lines > 2 * SCREEN_LINES:
        sys.stderr.write(f"that is more than two screens of {SCREEN_LINES} lines: no picture was written\n")
        return 1
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
