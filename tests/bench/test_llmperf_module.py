# SPDX-License-Identifier: Apache-2.0
"""What can be said of our part of LLMPerf without its source: above all, what is handed to Ray, which logs it."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.bench.conftest import ROOT

FILES = ROOT / "roles/llmperf_patched/files"
PATCHES: list[dict[str, Any]] = yaml.safe_load((FILES / "patches.yml").read_text(encoding="utf-8"))
KEY = "sk-pl4nted"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Our module of LLMPerf, in an environment where every secret's name has one."""
    for name in ("OPENAI_API_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "ANY_PASSWORD"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_API_BASE", "http://router:8080/v1")
    spec = importlib.util.spec_from_file_location("trainyard_llmperf", FILES / "trainyard_llmperf.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def calls(name: str) -> Iterator[str]:
    """Every call of a method of that name in what our patches put into LLMPerf."""
    for patch in PATCHES:
        for edit in patch["edits"]:
            text = textwrap.dedent(edit.get("text") or "")
            try:
                tree = ast.parse(text)
            except SyntaxError:  # a part of a call or a block that goes on in LLMPerf's own lines
                assert f"{name}(" not in text, text
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                    yield ast.unparse(node)


def test_requests_ask_for_each_name_in_turn_and_for_the_one_model_where_there_are_none(module: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.remember(parser.parse_args(["--models", '["llama", "sql"]']))
    assert [module.model_of("llama", index) for index in range(5)] == ["llama", "sql", "llama", "sql", "llama"]
    module.remember(parser.parse_args([]))
    assert module.model_of("llama", 3) == "llama"


def test_ray_is_handed_no_secret_and_where_to_send(module: ModuleType) -> None:
    given = module.shared_environment()
    assert given["OPENAI_API_BASE"] == "http://router:8080/v1"
    assert KEY not in given.values()
    assert set(given) <= set(module.SHARED)
    # All that LLMPerf begins Ray with.
    assert [*calls("init")] == ["ray.init(runtime_env={'env_vars': trainyard.shared_environment()})"]


def test_the_key_goes_with_each_request(module: ModuleType) -> None:
    given = module.metadata(3)
    assert {**given, "clocks": {}} == {"stream": 3, "key": KEY, "request_timeout_s": 180.0, "clocks": {}}


def test_its_options_are_taken_and_their_defaults_are_llmperf_s_own(module: ModuleType) -> None:
    assert (module.option("seed"), module.option("request_timeout")) == (11111, 180.0)
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.remember(parser.parse_args(["--seed", "7", "--request-timeout", "9", "--load-hosts", "2"]))
    assert [module.option(name) for name in ("seed", "request_timeout", "load_hosts", "warm_up")] == [7, 9.0, 2, 0]


def test_a_prompt_that_no_draw_makes_long_enough_ends_the_run(module: ModuleType) -> None:
    assert module.long_enough(5, lambda: 5) == 5
    with pytest.raises(SystemExit, match="at least 5 tokens"):
        module.long_enough(5, lambda: 4)


def test_a_patch_says_why_and_replaces_lines_that_it_knows() -> None:
    for patch in PATCHES:
        assert len(patch["why"]) > 20, patch["name"]
        for edit in patch["edits"]:
            assert str(edit["lines"]).startswith("before ") != ("was" in edit), (patch["name"], edit["lines"])
