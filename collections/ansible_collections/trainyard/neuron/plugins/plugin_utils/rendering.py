# SPDX-License-Identifier: Apache-2.0
"""Renders the templates of a task with Jinja2: each is compiled once a controller, each variable resolved once a task.

Ansible compiles a template anew for every file and host, and resolves a variable anew wherever it is named; with a few
templates on each of many hosts that was a good third of the controller's work for a host (bench/control_plane.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from ansible.plugins.filter.core import FilterModule
from ansible.plugins.test.core import TestModule
from jinja2.runtime import Context
from jinja2.utils import missing


class Renderer:
    """Templates of some directories, filled with the variables of one task on one host.

    A template knows Jinja's filters and tests, and ansible-core's besides; what it names must be defined.

    Parameters:
        search: directories to look in, the first that has a template wins
        names: the variables that there are
        resolve: gives the value of one of them
        cache: where compiled templates are kept for later runs; without it, or where it cannot be written, nowhere
        shared: values that are there already, before any variable of that name
    """

    def __init__(
        self,
        search: Sequence[Path],
        names: frozenset[str],
        resolve: Callable[[str], Any],
        cache: Path | None = None,
        shared: Mapping[str, Any] | None = None,
    ) -> None:
        known: dict[str, Any] = {}

        class Resolved(Context):
            def resolve_or_missing(self, key: str) -> Any:
                found = super().resolve_or_missing(key)
                if found is not missing or key not in names:
                    return found
                if key not in known:
                    known[key] = resolve(key)
                return known[key]

        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([str(path) for path in search]),
            bytecode_cache=_kept_in(cache),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,  # noqa: S701 - units and configuration, no page
        )
        self._environment.context_class = Resolved
        self._environment.globals.update(shared or {})
        # Where both have one (`default`, `map`, ...), ansible-core's is for its own environment only.
        for known_here, core in (
            (self._environment.filters, FilterModule().filters()),
            (self._environment.tests, TestModule().tests()),
        ):
            known_here.update({name: function for name, function in core.items() if name not in known_here})

    def render(self, name: str, **given: Any) -> str:
        """The text of a template; `given` stands before the task's variables.

        Raises:
            ValueError: the template is not there, is no template, or names what is not defined.
        """
        try:
            return self._environment.get_template(name).render(given)
        except jinja2.TemplateNotFound as error:
            searched = ", ".join(self._environment.loader.searchpath)  # type: ignore[union-attr]
            raise ValueError(f"template {error.name} is in none of {searched}") from error
        except jinja2.TemplateError as error:
            line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise ValueError(f"template {name}{line}: {error}") from error


def _kept_in(cache: Path | None) -> jinja2.BytecodeCache | None:
    if cache is None:
        return None
    # Code that another version of Jinja2 made is not run: its name is part of the place.
    folder = cache / f"jinja2-{jinja2.__version__}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    found = folder.stat()
    safe = found.st_uid == os.getuid() and found.st_mode & 0o022 == 0
    return jinja2.FileSystemBytecodeCache(str(folder)) if safe else None
