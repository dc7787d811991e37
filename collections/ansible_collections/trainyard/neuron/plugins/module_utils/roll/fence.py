# SPDX-License-Identifier: Apache-2.0
"""What every module that changes a host does first: prove that the host's lock is still its run's.

The action plugins pass a fence along in runs that hold the lock; a task of another playbook has none, and is not asked.
Standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from .journal import STATE_DIR, Book, Fence, LockLostError, StateError

FENCE_OPTION: Dict[str, Any] = {
    "type": "dict",
    "options": {
        "run": {"type": "str", "required": True},
        "number": {"type": "int", "required": True},
        "lease_s": {"type": "float", "required": True},
    },
}
"""The option ``fence`` of a module."""


def fence_of(parameters: Mapping[str, Any]) -> Optional[Fence]:
    """The fence that a module was given, None without."""
    given = parameters.get("fence")
    return Fence(**given) if given else None


def lost(parameters: Mapping[str, Any], check_mode: bool, directory: Path = STATE_DIR) -> str:
    """Why a module must not act; empty if it may. A lock that holds is renewed.

    Args:
        parameters: the module's, with ``fence``.
        check_mode: nothing is going to be changed, so nothing is asked.
        directory: where the host keeps its lock.
    """
    fence = fence_of(parameters)
    if fence is None or check_mode:
        return ""
    try:
        Book(directory).prove(fence)
    except (LockLostError, StateError) as error:
        return str(error)
    except OSError as error:
        return "the lock of this host ({0}) cannot be proved: {1}. This step was not taken".format(directory, error)
    return ""


def prove(module: Any) -> None:
    """End an ``AnsibleModule`` with a failure unless it may act."""
    why = lost(module.params, module.check_mode)
    if why:
        module.fail_json(msg=why, lock_lost=True)
