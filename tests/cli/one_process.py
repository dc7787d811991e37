# SPDX-License-Identifier: Apache-2.0
"""A process that runs command lines of `trainyard`, one after the other: a JSON list in, how it ended out, a line each.

A start of Python for each command takes a second; so what a command changes in its process is undone after it.
"""

from __future__ import annotations

import json
import os
import sys

from typer.testing import CliRunner

from trainyard import extra_vars, plan_command
from trainyard.cli import app


def forget_inventories() -> None:
    """Import as before: once it opened an inventory, Ansible finds collections in the place of Python."""
    from ansible.parsing.vault import VaultSecretsContext
    from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

    _AnsibleCollectionFinder._remove()
    VaultSecretsContext._current = None
    plan_command._opened.cache_clear()
    extra_vars.use(None)


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        before = dict(os.environ)
        called = CliRunner().invoke(app, json.loads(line))
        os.environ.clear()
        os.environ.update(before)
        forget_inventories()
        fell = called.exception if not isinstance(called.exception, SystemExit) else None
        said = {
            "exit_code": called.exit_code,
            "output": called.output,
            "said": called.stdout,
            "fell": repr(fell) if fell else "",
        }
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
