# SPDX-License-Identifier: Apache-2.0
"""The book holds: every link of every page leads somewhere, and what is written from the code is what the code says."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import phases

from tests.docs import quoted
from tests.docs.quoted import ROOT

PAGES = quoted.pages()
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
EXTERNAL = re.compile(r"[a-z]+:")


def script(name: str) -> ModuleType:
    """A program of docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What of a page can be linked to, as GitHub and MkDocs name headings."""
    found: Counter[str] = Counter()
    names = set()
    for title in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        names |= {slug if not found[slug] else f"{slug}-{found[slug]}"}
        found[slug] += 1
    return names


def dead(page: Path) -> list[str]:
    """The links of a page that lead to nothing in the tree."""
    wrong = []
    for link in LINK.finditer(prose(page)):
        target, _, anchor = link["target"].partition("#")
        if EXTERNAL.match(target):
            continue
        path = (page.parent / target).resolve() if target else page
        heading_lost = anchor and path.suffix == ".md" and path.exists() and anchor not in anchors(path)
        if not path.exists() or ROOT not in path.parents or heading_lost:
            wrong.append(link["target"])
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_a_dead_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "b.md").write_text("# One `two`, three\n\n```\n# no heading\n```\n", encoding="utf-8")
    page = tmp_path / "a.md"
    page.write_text(
        "[a](b.md) [b](c.md) [c](b.md#one-two-three) [d](b.md#no-heading) [e](#x) [f](https://x)", encoding="utf-8"
    )
    assert dead(page) == ["c.md", "b.md#no-heading", "#x"]


def test_every_page_of_docs_is_in_the_site() -> None:
    # MkDocs' own tags are no YAML for everybody; this file has none.
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["strict"] is True
    named = set(re.findall(r"[\w./-]+\.md", str(site["nav"])))
    here = {str(page.relative_to(ROOT / "docs")) for page in PAGES if ROOT / "docs" in page.parents}
    assert {page for page in here if not page.startswith("decisions/0")} - named == set()


def test_the_texts_of_a_log_are_those_that_the_product_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("messages").main(["--check"]) == 0, capsys.readouterr().out + "\nrun: python docs/messages.py"


def test_each_text_is_read_as_the_page_says() -> None:
    messages = script("messages")
    shown = 0
    for pattern, kind, cause, _action in phases.RULES:
        for text in messages.texts(pattern.pattern):
            found = phases.diagnose([re.sub(r"(?<![A-Z])N(?![A-Za-z])", "1", text).replace("...", " x ")])
            assert found is not None, text
            # A text that fits two rules is told by the graver one; the page has both.
            assert (found.kind, found.cause) == (kind, cause) or found.kind != kind, text
            shown += 1
    assert shown > 40


def test_every_message_is_collected_with_its_way_out() -> None:
    messages = script("messages")
    found = messages.collected()
    rows = {row for area in found.values() for row in area}
    assert len(rows) > 400
    assert ("is everybody", "name who it is, or say trainyard_replicas_open_to_everybody: true") in rows
    assert any(said.startswith("The group neuron has no host in") for said, _ in found["Modules and playbooks"])
    assert any(
        "did not come" in said and "run again to resume" in fix for said, fix in found["Weights and compiled artifacts"]
    )
    page = messages.page()
    assert not re.search(r"<(?!/)\w", page.replace("<br>", ""))
    assert all(line.count(" | ") == 1 for line in page.splitlines() if line.startswith("| ") and "---" not in line)


def test_the_texts_before_a_run_and_during_it_are_the_products() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for place in ("src", "playbooks", "inventory", quoted.COLLECTION + "/plugins")
        for path in (ROOT / place).rglob("*")
        if path.suffix in (".py", ".yml")
    )
    table = page.partition("## Before a host is touched")[2].partition("## While it serves")[0]
    texts = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(texts) > 5
    assert [text for text in texts for part in text.split("...") if part.strip() not in sources] == []


def test_the_ports_are_those_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("ports").main(["--check"]) == 0, capsys.readouterr().out + "\nrun: python docs/ports.py"


def test_the_alerts_are_those_of_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("alert_page").main(["--check"]) == 0, capsys.readouterr().out + "\nrun: python docs/alert_page.py"


def test_every_variable_that_the_book_names_is_one() -> None:
    known = set(re.findall(r"\b\w+\b", (ROOT / "docs/reference.md").read_text(encoding="utf-8")))
    variables = ROOT / quoted.COLLECTION / "plugins/plugin_utils/plan/variables.py"
    for path in (*ROOT.glob("roles/*/meta/argument_specs.yml"), variables):
        known |= set(re.findall(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b", path.read_text(encoding="utf-8")))
    roles = "|".join(path.parent.name for path in ROOT.glob("roles/*/tasks"))
    wrong = [
        f"{page.name}: {name}"
        for page in PAGES
        if page.parent in (ROOT, ROOT / "docs")
        for name in re.findall(rf"`((?:trainyard|{roles})_[a-z0-9_]+)`", page.read_text(encoding="utf-8"))
        if name not in known
    ]
    assert wrong == []


def test_every_module_has_its_page() -> None:
    pages = script("plugin_pages").pages()
    modules = {path.stem for path in (ROOT / quoted.COLLECTION / "plugins/modules").glob("*.py")}
    assert {f"modules/{name}.md" for name in modules} <= pages.keys()
    assert "| `fence.number` | int | required |" in pages["modules/units.md"]
    assert "## Examples" in pages["modules/units.md"]


def test_a_dead_link_of_the_site_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site"
    site.mkdir()
    mine = "https://example.org/x"
    (site / "b.html").write_text('<h1 id="there">b</h1>', encoding="utf-8")
    links = [
        "b.html#there",
        "b.html#away",
        f"{mine}/blob/main/README.md",
        f"{mine}/blob/main/AWAY.md",
        "https://example.com/",
    ]
    text = "".join(f'<a href="{link}">a</a>' for link in links)
    (site / "a.html").write_text(f'{text}<img src="c.png">', encoding="utf-8")
    assert script("site_links").main([str(site), "--repository", mine]) == 1
    said = capsys.readouterr().out
    for part in (
        "b.html#away: no such heading",
        "c.png: no such file in the site",
        "AWAY.md: no such file in the tree",
    ):
        assert part in said
    assert "2 pages, 3 dead links; 1 addresses of others" in said
    assert (tmp_path / "site-external-links.txt").read_text(encoding="utf-8") == "https://example.com/\n"
