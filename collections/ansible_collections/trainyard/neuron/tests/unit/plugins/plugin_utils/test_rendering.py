# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.rendering import Renderer


class Given:
    """Variables that count how often each is resolved."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.asked: list[str] = []

    def __call__(self, name: str) -> Any:
        self.asked.append(name)
        return self.values[name]


@pytest.fixture
def renderer(tmp_path: Path) -> Callable[..., Renderer]:
    def make(given: Given, cache: Path | None = None, **templates: str) -> Renderer:
        for name, text in templates.items():
            (tmp_path / f"{name}.j2").write_text(text)
        return Renderer([tmp_path / "none", tmp_path], frozenset(given.values), given, cache)

    return make


def test_a_variable_is_resolved_once_and_only_where_it_is_named(renderer: Callable[..., Renderer]) -> None:
    given = Given(port=8000, address="::1", never=1)
    made = renderer(given, a="{{ address }}:{{ port }}\n", b="{% for n in range(3) %}\n{{ port + n }}\n{% endfor %}\n")
    assert made.render("a.j2") == "::1:8000\n"
    assert made.render("b.j2") == "8000\n8001\n8002\n"
    assert given.asked == ["address", "port"]


def test_what_a_task_shares_stands_before_a_variable_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "a.j2").write_text("{{ release }} {{ item.name }}\n")
    given = Given(release="a variable's")
    made = Renderer([tmp_path], frozenset(given.values), given, shared={"release": "the task's", "item": None})
    assert made.render("a.j2", item={"name": "x"}) == "the task's x\n"
    assert not given.asked


def test_what_is_given_stands_before_a_variable_of_that_name(renderer: Callable[..., Renderer]) -> None:
    given = Given(item="of the task")
    made = renderer(given, a="{{ item }}")
    assert (made.render("a.j2", item="of the list"), made.render("a.j2")) == ("of the list", "of the task")


def test_macros_of_a_shared_template_and_filters_of_both_are_known(renderer: Callable[..., Renderer]) -> None:
    made = renderer(
        Given(words=["b", "a"], rows=[{"n": 1}, {}]),
        shared="{% macro line(word) %}word={{ word }}{% endmacro %}",
        a="{% import 'shared.j2' as shared %}{{ shared.line(words | sort | to_json) }}"
        "{{ words | select('match', 'b') | join }}{{ rows | map(attribute='n', default=7) | list }}"
        "{{ rows[1].n | default(0) }}",
    )
    assert made.render("a.j2") == 'word=["a", "b"]b[1, 7]0'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ no_such_thing }}", "template a.j2: 'no_such_thing' is undefined"),
        ("{{ known.part }}", "has no attribute 'part'"),
        ("\n{{ known", "template a.j2, line 2: "),
        ("{{ known | no_such_filter }}", "No filter named 'no_such_filter'"),
        ("{% import 'gone.j2' as gone %}", "template gone.j2 is in none of "),
    ],
)
def test_what_cannot_be_rendered_says_where_and_why(renderer: Callable[..., Renderer], text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        renderer(Given(known={}), a=text).render("a.j2")


def test_a_template_is_compiled_once_for_many_runs_and_anew_when_it_changes(
    renderer: Callable[..., Renderer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, compiled = tmp_path / "cache", []
    really = jinja2.Environment.compile

    def counted(environment: jinja2.Environment, *args: Any, **kwargs: Any) -> Any:
        compiled.append(args[1] if len(args) > 1 else kwargs.get("name"))
        return really(environment, *args, **kwargs)

    monkeypatch.setattr(jinja2.Environment, "compile", counted)
    for value in (1, 2):
        assert renderer(Given(x=value), cache, a="{{ x }}").render("a.j2") == str(value)
    assert compiled == ["a.j2"]
    assert renderer(Given(x=3), cache, a="<{{ x }}>").render("a.j2") == "<3>"
    assert compiled == ["a.j2", "a.j2"]


def test_code_is_not_taken_from_where_others_may_write(renderer: Callable[..., Renderer], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    renderer(Given(), cache, a="x").render("a.j2")
    (kept,) = cache.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    for file in kept.iterdir():
        file.unlink()
    kept.chmod(0o777)
    assert renderer(Given(), cache, a="x").render("a.j2") == "x"
    assert not list(kept.iterdir())


def test_without_a_place_to_keep_it_it_is_rendered_all_the_same(
    renderer: Callable[..., Renderer], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    assert renderer(Given(), tmp_path / "file", a="x").render("a.j2") == "x"
