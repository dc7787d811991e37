# SPDX-License-Identifier: Apache-2.0
"""Turns a fetched run into its report, on the controller; the documentation is the module's of the same name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import OBJECTIVE

ARGUMENTS: dict[str, Any] = {
    "archive": {"type": "path", "required": True},
    "provenance": {"type": "str", "required": True},
    "replicas": {"type": "list", "elements": "dict", "required": True},
    "scenario": {"type": "dict", "default": {}},
    "objective": {"type": "dict", "default": {}},
    "failed_limit": {"type": "float", "default": 0.0},
    "balance_limit": {"type": "float", "default": 0.0},
    "client_reason": {"type": "str", "default": ""},
}


#: What a page may take, seconds: that of 10,000 requests takes a few.
PAGE_S = 300


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Extracts the run's archive beside it, builds the report and writes report.json."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the report's figures and the table to print; fails on what is no run of ours."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENTS)
        if self._task.check_mode:
            return {
                **result,
                "changed": False,
                "skipped": True,
                "msg": "a report needs a run, and check mode makes none",
            }
        try:
            from ansible_collections.trainyard.neuron.plugins.plugin_utils.report import building, reading, schema
            from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.text import table
        except ImportError as error:
            raise AnsibleActionFail(
                f"{error}: a report is made with pydantic; install it where ansible-core is ({sys.executable} -m pip)"
            ) from error
        try:
            directory = extract(Path(args["archive"]))
            summary = json.loads((directory / "run.json").read_text(encoding="utf-8"))
            limits = {name: value for name, value in args["objective"].items() if value is not None}
            problems = OBJECTIVE.read(limits, "benchmark_objective")[1] if limits else []
            if problems:
                raise ValueError("; ".join(str(problem) for problem in problems))
            report = building.build(
                summary,
                reading.records_of(directory),
                provenance=args["provenance"],
                replicas=args["replicas"],
                scenario={name: value for name, value in args["scenario"].items() if value is not None},
                objective=schema.Objective(**limits) if limits else None,
                failed_limit=args["failed_limit"],
                balance_limit=args["balance_limit"],
                tool_reason=args["client_reason"],
                git_commit=commit_of(Path(__file__).parent),
            )
        except (
            OSError,
            ValueError,
            KeyError,
            reading.ReportError,
            tarfile.TarError,
            patched_source.SourceError,
        ) as error:
            raise AnsibleActionFail(
                f"{args['archive']} is no benchmark run that a report can be made of: {error}"
            ) from error
        path = directory / "report.json"
        path.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        page, why = page_of(directory)
        return {
            **result,
            "changed": True,
            "path": str(path),
            "page": page,
            "warnings": [why] if why else [],
            "table": table(report).splitlines(),
            "sound": report.sound,
            "flags": [flag.model_dump() for flag in report.flags],
            "results": report.results.model_dump(mode="json", exclude={"repeats"}),
        }


def page_of(directory: Path) -> tuple[str, str]:
    """Have the run's page written by `trainyard report`; its path, and why there is none where it could not be written.

    The collection does without that program: where it is not, there is neither.
    """
    program = Path(sys.executable).with_name("trainyard")
    found = str(program) if program.is_file() else shutil.which("trainyard")
    page = directory / "report.html"
    if not found:
        return "", ""
    try:
        done = subprocess.run(
            [found, "report", str(directory)], capture_output=True, text=True, check=False, timeout=PAGE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"no page of the run was written: {error}"
    if done.returncode != 0 or not page.is_file():
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        return "", f"no page of the run was written: {said}. `trainyard report {directory}` writes it"
    return str(page), ""


def extract(archive: Path) -> Path:
    """Unpack the archive beside itself, remove it, and return the run's directory."""
    with tarfile.open(archive) as tar:
        patched_source.extract(tar, archive.parent)
    directory = archive.parent / archive.name.removesuffix(".tar.gz")
    if not (directory / "run.json").exists():
        raise ValueError("the archive holds no run.json in a directory of its own name")
    archive.unlink()
    return directory


def commit_of(directory: Path) -> str | None:
    """The commit of the checkout that holds `directory`, with a + where files differ from it; None without git."""
    done = subprocess.run(
        ["git", "-C", str(directory), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
