# SPDX-License-Identifier: Apache-2.0
"""A module that lays out paths before it does its own work, in one run on the host."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from . import file_tree, options, prerequisites
from .entries import unpack

FILES_OPTION: Dict[str, Any] = {"type": "dict", "options": options.SENT_FILES_SPEC}
"""The option ``files`` of a module."""


class WithFiles:
    """What an ``AnsibleModule`` with the option ``files`` is besides: its result says what was done to them too.

    To be named before ``AnsibleModule`` among the bases of a class.
    """

    params: Dict[str, Any]
    check_mode: bool
    _diff: bool
    laid_out: Optional[Dict[str, Any]] = None

    def lay_out(self) -> None:
        """Bring the paths of ``files`` to their wanted state, or only compare in check mode.

        Ends the module where a user that they belong to is missing (``lacking``), and where they cannot be laid out.
        """
        given = self.params["files"]
        if not given:
            return
        wrong = prerequisites.wrong_users(given["users"])
        if wrong:
            self.exit_json(changed=True, lacking={"packages": [], "users": wrong})
        try:
            outcome = file_tree.compare(unpack(given["payload"]))
            if self.check_mode:
                file_tree.rehearse(outcome)
            else:
                file_tree.apply(outcome)
        except file_tree.TreeError as error:
            self.fail_json(msg=str(error))
        self.laid_out = {
            "changed": bool(outcome.changes),
            "files": {
                "msg": outcome.summary(),
                "changed_paths": [change.entry.path for change in outcome.changes],
                "notes": outcome.notes,
            },
            "diff": [change.as_diff() for change in outcome.changes] if self._diff else [],
        }

    def exit_json(self, **result: Any) -> None:
        """End the module with its own result and that of the paths."""
        super().exit_json(**merged(self.laid_out, result))  # type: ignore[misc]  # the other base has it

    def fail_json(self, msg: str, **result: Any) -> None:
        """End the module with a failure; what was done to the paths stays and is told."""
        super().fail_json(msg=msg, **merged(self.laid_out, result))  # type: ignore[misc]  # the other base has it


def merged(laid_out: Optional[Dict[str, Any]], result: Dict[str, Any]) -> Dict[str, Any]:
    """A module's result with what was done to the paths before: changed where either is, their differences first."""
    if not laid_out:
        return result
    both = {**result, "files": laid_out["files"]}
    both["changed"] = bool(result.get("changed")) or laid_out["changed"]
    own: Any = result.get("diff") or []
    rows: List[Any] = own if isinstance(own, list) else [own]
    both["diff"] = laid_out["diff"] + [row for row in rows if row.get("before") or row.get("after")]
    return both
