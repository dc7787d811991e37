# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.patched_source``: sends a source that is on the controller, when needed."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source
from ansible_collections.trainyard.neuron.plugins.plugin_utils.host_packages import have_packages


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """One module run where nothing is to be done; a transfer and a second one where the source is the controller's."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module, and once more with the source at hand when it asks for it."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        if result.get("needs_packages"):
            installed = have_packages(self, list(result["needs_packages"]), task_vars)
            if installed.get("failed"):
                return installed
            result = self._execute_module(module_args=arguments, task_vars=task_vars)
        given = str(arguments.get("source") or "")
        if not result.get("needs_source") or not given:
            return result
        local = Path(self._loader.path_dwim(given))
        if not local.exists():
            return result
        with tempfile.TemporaryDirectory() as scratch:
            archive = local if local.is_file() else bundle(local, str(arguments.get("commit") or "HEAD"), Path(scratch))
            remote = self._connection._shell.join_path(self._connection._shell.tmpdir, "source" + archive.suffix)
            self._transfer_file(str(archive), remote)
            arguments["source"] = remote
            sent: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return sent


def bundle(directory: Path, commit: str, scratch: Path) -> Path:
    """A directory or a repository's commit as an archive."""
    import subprocess

    tree = scratch / "source"
    patched_source.obtain(
        str(directory),
        commit,
        tree,
        lambda argv: (
            (done := subprocess.run(argv, capture_output=True, text=True, check=False)).returncode,
            done.stdout,
            done.stderr,
        ),
    )
    archive = scratch / "source.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, arcname="source")
    return archive
