# SPDX-License-Identifier: Apache-2.0
"""The action as a play runs it: a real ansible-playbook over the local connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.action import file_tree
from ansible_collections.trainyard.neuron.plugins.plugin_utils import trees

ROOT = Path(__file__).parents[8]


def run(
    project: Path,
    items: list[dict[str, Any]],
    *options: str,
    services: dict[str, Any] | None = None,
    **variables: Any,
) -> subprocess.CompletedProcess[str]:
    """Run one file_tree task inside a role of `project`."""
    tasks = project / "roles/demo/tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, Any] = {"items": items, "names": {"out": f"{project}/out", "name": "{{ 'for all' }}"}}
    arguments |= {"services": services} if services else {}
    task = {"name": "Lay out", "trainyard.neuron.file_tree": arguments, "register": "demo"}
    show = {"name": "Show", "ansible.builtin.debug": {"msg": "DID={{ demo.changed_paths | to_json }}"}}
    (tasks / "main.yml").write_text(yaml.safe_dump([task, show]))
    play = [{"name": "Demo", "hosts": "localhost", "connection": "local", "gather_facts": False, "roles": ["demo"]}]
    (project / "playbooks").mkdir(exist_ok=True)
    (project / "playbooks/demo.yml").write_text(yaml.safe_dump(play))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_ROLES_PATH": str(project / "roles"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    return subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "-i",
            "localhost,",
            "playbooks/demo.yml",
            "-e",
            json.dumps({"ansible_python_interpreter": sys.executable, **variables}),
            *options,
        ],
        cwd=project,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "roles/demo/templates").mkdir(parents=True)
    (tmp_path / "roles/demo/files").mkdir()
    (tmp_path / "templates").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "roles/demo/templates/unit.j2").write_text(
        "# {{ ansible_managed }}\n{% import 'shared.j2' as shared %}\n"
        "{% for word in item.words %}\n  {% if word %}\n{{ shared.line(word) }}\n  {% endif %}\n{% endfor %}\n"
    )
    (tmp_path / "templates/shared.j2").write_text("{% macro line(word) %}word={{ word }}{% endmacro %}")
    (tmp_path / "roles/demo/files/tool").write_text("#!/bin/sh\n# {{ not a template }}\n")
    return tmp_path


def test_templates_files_and_structures_land_in_one_run(project: Path) -> None:
    out = project / "out"
    items = [
        {"path": f"{out}/{{name}}.conf", "template": "unit.j2", "each": "{{ units }}"},
        {"path": f"{out}/tool", "file": "tool", "mode": "0755"},
        {"path": f"{out}/data.json", "content": {"b": "{{ 1 + 1 }}", "a": [1]}},
        {"path": f"{out}/code.py", "module_util": "file_tree.py"},
        {"path": f"{out}/key", "content": "{{ token }}", "mode": "0600", "sensitive": True},
    ]
    units = [{"name": "one", "words": ["a", "", "b"]}, {"name": "two", "words": []}]
    check = run(project, items, "--check", "--diff", units=units, token="tok-3141")
    assert check.returncode == 0, check.stdout + check.stderr
    assert list(out.iterdir()) == []
    assert "+word=a" in check.stdout
    done = run(project, items, "--diff", "-vvv", units=units, token="tok-3141")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tok-3141" not in done.stdout
    header = "# Managed by trainyard (unit.j2): changes made here are lost.\n"
    assert (out / "one.conf").read_text() == header + "word=a\nword=b\n"
    assert (out / "two.conf").read_text() == header
    assert (out / "tool").read_text().endswith("# {{ not a template }}\n")
    assert (out / "data.json").read_text() == '{\n  "a": [\n    1\n  ],\n  "b": 2\n}\n'
    assert (out / "code.py").read_bytes() == (trees.MODULE_UTILS / "file_tree.py").read_bytes()
    assert (out / "key").read_text() == "tok-3141"
    again = run(project, items, units=units, token="tok-3141")
    assert "changed=0" in again.stdout
    assert "DID=[]" in again.stdout


def test_a_package_is_laid_out_whole_and_what_is_no_part_of_it_goes(project: Path) -> None:
    out = project / "out" / "programs"
    items = [{"path": str(out), "state": "directory", "package": "routing", "prune": ["*.py"]}]
    done = run(project, items)
    assert done.returncode == 0, done.stdout + done.stderr
    source = {path.name: path.read_bytes() for path in (trees.MODULE_UTILS / "routing").glob("*.py")}
    assert len(source) > 4
    assert {path.name: path.read_bytes() for path in out.iterdir()} == source
    (out / "stray.py").write_text("", encoding="utf-8")
    (out / "cli.py").write_text("", encoding="utf-8")
    assert "changed=1" in run(project, items).stdout
    assert {path.name: path.read_bytes() for path in out.iterdir()} == source
    gone = run(project, [{**items[0], "state": "absent"}])
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert not out.exists()


def test_an_undefined_variable_names_the_path(project: Path) -> None:
    (project / "roles/demo/templates/broken.j2").write_text("{{ no_such_thing }}")
    result = run(project, [{"path": f"{project}/out/x", "template": "broken.j2"}])
    assert result.returncode != 0
    assert f"{project}/out/x" in result.stdout + result.stderr
    assert "no_such_thing" in result.stdout + result.stderr


def test_names_stand_in_every_path_and_an_elements_own_come_first(project: Path) -> None:
    items = [
        {"path": "{out}/{name}", "state": "directory"},
        {"path": "{out}/{name}.json", "content": "{out}", "each": [{"name": "one"}]},
        {"path": "{out}/link", "state": "link", "target": "{out}/{name}"},
    ]
    done = run(project, items)
    assert done.returncode == 0, done.stdout + done.stderr
    out = project / "out"
    assert (out / "one.json").read_text() == "{out}"
    assert (out / "link").readlink() == out / "for all"


def test_units_with_each_are_repeated() -> None:
    rows = [{"name": "{unit}", "each": [{"unit": "a.service"}, {"unit": "b.service"}]}]
    sent = file_tree.services_of({"services": {"units": rows, "prune": ["x@*"]}, "lists": {}})
    wanted = {"units": [{"name": "a.service"}, {"name": "b.service"}], "prune": ["x@*"], "wait_s": 5}
    assert sent == {"services": wanted}, "it waits a little, and asks again for those that still start"
    assert file_tree.services_of({"services": None, "lists": {}}) == {}


def item(**given: Any) -> dict[str, Any]:
    return {**dict.fromkeys(trees.options.ITEM_SPEC), "state": "file", "path": "/x", **given}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "exactly one of"),
        ({"content": "", "template": "t"}, "given: template, content"),
        ({"state": "directory", "content": ""}, "content is for files"),
        ({"state": "link"}, "link and target go together"),
        ({"content": "", "previous": "/p"}, "previous is for links"),
        ({"content": "", "prune": ["*"]}, "prune is for directories"),
        ({"state": "directory", "validate": "true"}, "validate is for files"),
        ({"content": "", "package": "routing"}, "package is for directories"),
        ({"state": "directory", "package": "no_such"}, "package 'no_such' is no directory of programs"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trees.check_item(item(**given))


def test_state_can_be_a_switch() -> None:
    trees.check_item(item(state="absent", content="x", validate="true"))


SYSTEMCTL = """#!{python}
# Units of a host: one starts in {seconds} s, or dies at the end of that, and says meanwhile how far it is.
import pathlib, sys, time
told = pathlib.Path(__file__).with_name("told")
with pathlib.Path(__file__).with_name("calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "start":
    told.write_text(str(time.monotonic()))
if sys.argv[1] == "show" and "--value" not in sys.argv:
    age = time.monotonic() - float(told.read_text()) if told.exists() else None
    active, sub, text = "inactive", "dead", ""
    if age is not None:
        over = age > {seconds}
        active, sub = ("{end}", "{end}") if over else ("activating", "start-post")
        text = "ready" if over else "loading 3/8, 3 s of about 9 s (33 %)"
    print(f"ActiveState={{active}}\\nSubState={{sub}}\\nResult=exit-code\\nExecMainStatus=3\\nStatusText={{text}}")
"""


@pytest.mark.parametrize("end", ["active", "failed"])
def test_units_that_start_are_followed_until_they_have_arrived_or_failed(
    project: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    programs = project / "bin"
    programs.mkdir()
    text = SYSTEMCTL.format(python=sys.executable, seconds=8, end=end)
    for name, content in (("systemctl", text), ("journalctl", "#!/bin/sh\necho its last words\n")):
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    services = {"units": [{"name": "vllm@a-0.service"}], "timeout_s": 60}
    items = [{"path": f"{project}/out/x", "content": "x"}]
    done = run(project, items, services=services)
    assert "localhost: vllm@a-0: loading 3/8, 3 s of about 9 s (33 %)\n" in done.stdout, done.stdout + done.stderr
    calls = (programs / "calls").read_text().splitlines()
    assert [line for line in calls if not line.startswith("show")] == ["start --no-block -- vllm@a-0.service"]
    if end == "failed":
        assert done.returncode != 0
        assert "vllm@a-0.service is failed (exit code 3)." in done.stdout
        assert "its last words" in done.stdout
        assert "(1 of 1 paths" in done.stdout, "the paths are told of too"
        return
    assert done.returncode == 0, done.stdout + done.stderr
    (programs / "calls").unlink()
    again = run(project, items, services=services)
    assert "changed=0" in again.stdout
    assert "loading" not in again.stdout
    assert len((programs / "calls").read_text().splitlines()) == 1, "one look, by one module run"
