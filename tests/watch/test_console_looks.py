# SPDX-License-Identifier: Apache-2.0
"""The pages that Prometheus shows, as a browser draws them at the width of a desk and of a phone."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import consoles

from tests.roles.prometheus_program import needs_prometheus
from tests.watch.test_consoles import watched_fleet

CHROMIUM = next(
    (
        path
        for name in (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
        if name and (path := shutil.which(name))
    ),
    "",
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed, nor named in $CHROMIUM")
WIDTHS = {"desktop": 1280, "phone": 390}
#: A window is no narrower than 500, so the page stands in a frame that is. What sticks out of the page, and not of a
#: table's own scrolling box, makes a phone's whole page slide.
MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" src="PAGE" style="border:0;width:WIDTHpx;height:800px"></iframe><pre id="found"></pre><script>
document.getElementById("page").addEventListener("load", (event) => {
  const shown = event.target.contentDocument, root = shown.documentElement;
  const boxed = (one) => one.closest("div") && getComputedStyle(one.closest("div")).overflowX === "auto";
  const out = [...shown.body.querySelectorAll("*")].filter(
    (one) => one.getBoundingClientRect().right > WIDTH + 0.5 && !boxed(one));
  const sizes = [...shown.querySelectorAll("td,th,p,h1,h2")].map((one) => parseFloat(getComputedStyle(one).fontSize));
  document.getElementById("found").textContent = JSON.stringify({
    width: root.clientWidth, scrolls: root.scrollWidth, out: out.map((one) => one.outerHTML.slice(0, 80)),
    headings: [...shown.querySelectorAll("h2")].filter((one) => one.getBoundingClientRect().width > 0).length,
    smallest: Math.min(...sizes), text: shown.body.innerText.length,
  });
});
</script>"""
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Every page of a small fleet."""
    with watched_fleet(tmp_path_factory.mktemp("prometheus")) as found:
        yield found


def measured(page: str, width: int, folder: Path) -> dict[str, Any]:
    """What a browser says of a page at a width."""
    # As it is now: a frame that is loaded again would be measured again.
    (folder / "page.html").write_text(re.sub(r'<meta http-equiv="refresh"[^>]*>', "", page), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(MEASURE.replace("PAGE", "page.html").replace("WIDTH", str(width)), encoding="utf-8")
    words = [f"--user-data-dir={folder}/profile", "--allow-file-access-from-files", "--virtual-time-budget=5000"]
    argv = [CHROMIUM, *QUIET, *words, "--window-size=1400,900", "--dump-dom", frame.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return dict(json.loads(html.unescape(found[1])))


@needs_chromium
@needs_prometheus
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_what_it_is_looked_at_on(pages: dict[str, str], width: str, tmp_path: Path) -> None:
    for name, (_title, tables) in consoles.PAGES.items():
        found = measured(pages[name], WIDTHS[width], tmp_path)
        assert found["out"] == [], name
        assert found["width"] == found["scrolls"] == WIDTHS[width], name
        assert found["headings"] == len(tables), name
        assert found["smallest"] >= 12 and found["text"] > 200, name


@needs_chromium
def test_what_sticks_out_is_found(tmp_path: Path) -> None:
    """The test itself notices a table without a box of its own."""
    page = "<!doctype html><body><table><tr>" + "<td>a-word-of-some-length</td>" * 20 + "</tr></table></body>"
    found = measured(page, WIDTHS["phone"], tmp_path)
    assert found["out"] and found["scrolls"] > found["width"]
