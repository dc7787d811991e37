# SPDX-License-Identifier: Apache-2.0
"""What holds a secret is root's alone and shown by nothing: every file item, task and module of every role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.roles.render import ROOT

#: Variables of roles that hold a secret by their names.
SECRET = re.compile(r"\b\w*(?:token|_key|_keys|certificate|_environment|secrets?|password)\b")

#: What is called so and is none.
HARMLESS = {
    "benchmark_tokenizer": "a directory",
    "neuron_venv_package_key": "the public key of a package source",
    "load_balancer_keys": "names and hashes of keys",
    "load_balancer_token_timeout_s": "seconds",
    "load_balancer_vllm_router_environment": "variables of pip and no secret's place, as its description says",
    "llmperf_patched_environment": "variables of pip and no secret's place, as its description says",
    "public_key": "a public key",
    "__load_balancer_certificates": "paths",
    "token_file": "a path",
    "host_key": "a public key",
    "sort_keys": "an option of a filter",
    "needs_key": "whether there is a key",
    "__vllm_endpoint_has_key": "whether there is a key",
}

#: An expression that tells of a secret no more than that it is there, or a sum of it.
TELLS_NOTHING = re.compile(r"[\w.]+ \| (?:length|default\('',? ?\w*\) \| length|hash\('sha256'\))")

LOADER = yaml.SafeLoader


def walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping of a document."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)


def documents(role: Path) -> Iterator[tuple[Path, Any]]:
    for path in sorted([*role.glob("tasks/*.yml"), *role.glob("vars/*.yml")]):
        yield path, yaml.load(path.read_text(encoding="utf-8"), LOADER)  # noqa: S506 - the safe loader


def secrets_in(text: str, role: Path) -> set[str]:
    """The secret variables that a text shows, also through variables of the role."""
    internal = {}
    for path in role.glob("vars/*.yml"):
        internal |= {name: str(value) for name, value in yaml.load(path.read_text(), LOADER).items()}  # noqa: S506
    seen: set[str] = set()
    found: set[str] = set()
    queue = [text]
    while queue:
        # Comments of a template are not in what it makes.
        expressions = TELLS_NOTHING.sub("", re.sub(r"\{#.*?#\}", "", queue.pop(), flags=re.DOTALL))
        shown = " ".join(re.findall(r"\{\{.*?\}\}|\{%.*?%\}", expressions, flags=re.DOTALL))
        shown = re.sub(r"'[^']*'", "", shown)
        for name in set(re.findall(r"\b[a-z_]\w*\b", shown)):
            if name in internal and name not in seen:
                seen.add(name)
                queue.append(internal[name])
            elif SECRET.fullmatch(name) and name not in HARMLESS:
                found.add(name)
    return found


def file_items() -> Iterator[tuple[Path, dict[str, Any], set[str]]]:
    """Every file item of every role with the secrets that are in it."""
    for role in sorted((ROOT / "roles").iterdir()):
        for path, document in documents(role):
            for item in walk(document):
                if "path" not in item or not ({"content", "template"} & set(item)):
                    continue
                text = str(item.get("content", ""))
                if "template" in item and "{{" not in item["template"]:
                    text += (role / "templates" / item["template"]).read_text(encoding="utf-8")
                yield path, item, secrets_in(text, role)


#: The files that hold a secret: what is found below must be these, so that the search is known to find.
FILES = {
    "/etc/trainyard/credentials/weights.json",
    "/etc/trainyard/credentials/artifact.json",
    "/etc/trainyard/credentials/build.json",
    "/etc/trainyard/credentials/block_watch.env",
    "/etc/trainyard/monitoring/certificate.pem",
    "/etc/trainyard/monitoring/key.pem",
    "/etc/vllm/releases/{host_release}/api-key",
    "{files}/upstream.map",
    "{files}/certificate.pem",
    "{{ __benchmark_cluster.token_file }}",
}


def test_the_files_with_a_secret_are_those_that_are_known() -> None:
    assert {item["path"] for _path, item, secrets in file_items() if secrets} == FILES


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_file_with_a_secret_is_root_s_alone_and_in_no_diff(path: str) -> None:
    items = [item for _path, item, _secrets in file_items() if item["path"] == path]
    assert items
    for item in items:
        assert item.get("mode") in ("0400", "0600"), item
        assert item.get("sensitive") is True, item
        assert item.get("owner", "root") == "root"


def tasks() -> Iterator[tuple[Path, dict[str, Any]]]:
    for folder in [*sorted((ROOT / "roles").iterdir()), ROOT / "playbooks"]:
        for path in sorted([*folder.glob("tasks/*.yml"), *folder.glob("*.yml")]):
            for task in walk(yaml.load(path.read_text(encoding="utf-8"), LOADER)):  # noqa: S506
                if "name" in task and any(key.count(".") == 2 for key in task):
                    yield path, task


def test_a_task_of_ansible_s_own_that_handles_a_secret_logs_nothing() -> None:
    found = []
    for path, task in tasks():
        role = path.parents[1] if path.parent.name == "tasks" else ROOT / "roles" / "none"
        for module, arguments in task.items():
            if module.startswith(("ansible.builtin.", "ansible.posix.")) and "include" not in module:
                text = " ".join(str(value) for value in (arguments, task.get("register", "")))
                named = {word for word in re.findall(r"\b\w+\b", text) if SECRET.fullmatch(word)} - set(HARMLESS)
                password = "ansible.builtin.password" in text
                if password or secrets_in(text, role) or named & {"__benchmark_token"}:
                    found.append((path.name, task["name"], task.get("no_log")))
    assert ("cluster.yml", "Make the cluster's token", True) in found
    assert ("cluster.yml", "Read the token for the other load hosts", True) in found
    assert [task for task in found if task[2] is not True] == []


def test_an_option_of_a_module_that_takes_a_secret_is_logged_by_none() -> None:
    folder = ROOT / "collections/ansible_collections/trainyard/neuron/plugins/modules"
    found = {}
    for path in sorted(folder.glob("*.py")):
        for name, spec in re.findall(r'"(\w+)": (\{[^{}]*"type": "(?:str|dict)"[^{}]*\})', path.read_text()):
            if re.fullmatch(r"\w*(api_key|token|secret|password|upstream_key)", name):
                found[path.stem, name] = '"no_log": True' in spec
    assert ("benchmark_run", "api_key") in found
    assert [option for option, hidden in found.items() if not hidden] == []


def test_every_credential_of_a_unit_is_a_file_that_root_alone_reads() -> None:
    private = {item["path"] for _path, item, _secrets in file_items() if item.get("mode") in ("0400", "0600")}
    given = set()
    for path in ROOT.glob("roles/*/templates/*.j2"):
        given |= set(re.findall(r"^LoadCredential=\w+:(\S+)", path.read_text(), flags=re.MULTILINE))
    # The specification of a job holds no secret, and root alone enters its directory.
    jobs = {path for path in given if path.startswith("/etc/trainyard/jobs/")}
    known = {path.replace("{host_release}", "") for path in private}
    assert given - jobs
    unknown = [path for path in given - jobs if path not in known and not path.startswith("/etc/vllm/")]
    assert unknown == []
