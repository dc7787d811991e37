# SPDX-License-Identifier: Apache-2.0
"""What MkDocs does beyond its own: pages of the tree beside docs/, pages written from the code, links out of docs/.

It runs in the environment of docs/requirements.txt, which has PyYAML and nothing of trainyard's.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import messages  # noqa: E402
import plugin_pages  # noqa: E402

#: Pages that stand elsewhere in the tree, and where the site has them.
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-reports.md",
    "inventory/recipes/README.md": "inventory/recipes.md",
    "inventory/examples/README.md": "inventory/examples.md",
}
ROLES = "roles/index.md"
LINK = re.compile(r"(?P<before>!?\[[^\]]*\]\()(?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")


def roles() -> dict[str, str]:
    """The README of each role and its page."""
    found = sorted(ROOT.glob("roles/*/README.md"))
    return {str(path.relative_to(ROOT)): f"roles/{path.parent.name}.md" for path in found}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in {**ELSEWHERE, **roles()}.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=followed(text, source, page, config)))
    for page, text in written().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs' own
    """Lead links out of docs/ to the page that the site has of it, or to the repository."""
    if page.file.generated_by is not None:
        return markdown
    return followed(markdown, f"docs/{page.file.src_uri}", page.file.src_uri, config)


def followed(text: str, source: str, page: str, config: MkDocsConfig) -> str:
    """A page's text with its links to other files of the tree made to lead somewhere in the site.

    Args:
        text: Markdown.
        source: the file that has it, from the root of the tree.
        page: where the site has it.
        config: for the repository's address.

    Raises:
        PluginError: a link leads to nothing.
    """
    pages = {**ELSEWHERE, **roles(), "roles": ROLES}

    def follow(found: re.Match[str]) -> str:
        target = found["target"]
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        anchor = found["anchor"] or ""
        inside = path.removeprefix("docs/") if path.startswith("docs/") else pages.get(path, "")
        if inside and (not path.startswith("docs/schemas/")) and not path.endswith((".py", ".yml")):
            return f"{found['before']}{posixpath.relpath(inside, posixpath.dirname(page) or '.')}{anchor})"
        if not (ROOT / path).exists():
            raise PluginError(f"{source} links to {target}, and there is no {path}")
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{found['before']}{config.repo_url}/{kind}/main/{path}{anchor})"

    return "".join(LINK.sub(follow, part) if prose else part for prose, part in parts(text))


def parts(text: str) -> Iterator[tuple[bool, str]]:
    """A page in parts: prose, and fenced code, which has no links."""
    for number, part in enumerate(re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)):
        yield number % 2 == 0, part


def written() -> dict[str, str]:
    """The pages that are written from the code, and so cannot be out of date."""
    table = "\n".join(
        f"- [{path.parent.name}]({path.parent.name}.md): {purpose(path)}"
        for path in sorted(ROOT.glob("roles/*/README.md"))
    )
    return {
        ROLES: f"# Roles\n\nWhat each does, refuses and undoes, with its variables.\n\n{table}\n",
        "messages.md": messages.page(),
        **plugin_pages.pages(),
    }


def purpose(readme: Path) -> str:
    """The first sentence of a role's README."""
    paragraphs = readme.read_text(encoding="utf-8").split("\n\n")
    return re.split(r"(?<=[.:])\s", " ".join(paragraphs[1].split()), maxsplit=1)[0]
