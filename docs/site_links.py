# SPDX-License-Identifier: Apache-2.0
"""Follows every link of the built site: inside it by file and anchor, to the repository by the tree. Lists the others.

python docs/site_links.py build/site [--repository URL]

Nothing is fetched. The addresses of others are written to `build/site-external-links.txt`, for a person or a checker
that has the internet. Exits with 1 where a link leads to nothing.
"""

from __future__ import annotations

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """The links of a page, and what in it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top", "__top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the base class's
        """Collect what a tag links to, and its name."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


def faults(site: Path, repository: str) -> tuple[list[str], set[str]]:
    """What of a site's links leads to nothing, and the addresses of others.

    Args:
        site: the directory that was built.
        repository: address of the repository, whose links are held to the tree.
    """
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    wrong, others = [], set()
    for path, page in pages.items():
        at = path.relative_to(site)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.scheme or parts.netloc:
                wrong += [f"{at}: {link}: {why}" for why in _elsewhere(link, repository)]
                if not link.startswith(repository):
                    others.add(link)
                continue
            # The page that is shown in place of one that is not there has the paths of the site's root.
            below = site if path.name == "404.html" else path.parent
            target = (below / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                wrong.append(f"{at}: {link}: no such file in the site")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                wrong.append(f"{at}: {link}: no such heading there")
    return wrong, others


def _elsewhere(link: str, repository: str) -> list[str]:
    """Why a link to the repository leads to nothing."""
    if not link.startswith(f"{repository}/"):
        return []
    parts = urlsplit(link.removeprefix(f"{repository}/")).path.split("/")
    if parts[0] in ("blob", "tree") and not (ROOT / "/".join(parts[2:])).exists():
        return ["no such file in the tree"]
    return []


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 where a link leads to nothing."""
    parser = argparse.ArgumentParser(description="Follow every link of the built site.")
    parser.add_argument("site", type=Path)
    parser.add_argument("--repository", default="https://github.com/trainyard/trainyard")
    given = parser.parse_args(argv)
    site = given.site.resolve()
    wrong, others = faults(site, given.repository)
    listed = "".join(f"{link}\n" for link in sorted(others))
    (site.parent / "site-external-links.txt").write_text(listed, encoding="utf-8")
    for line in wrong:
        sys.stdout.write(f"dead link: {line}\n")
    pages = len(list(site.rglob("*.html")))
    said = "dead links" if len(wrong) != 1 else "dead link"
    sys.stdout.write(f"{pages} pages, {len(wrong)} {said}; {len(others)} addresses of others, listed and not fetched\n")
    return int(bool(wrong) or not pages)


if __name__ == "__main__":
    sys.exit(main())
