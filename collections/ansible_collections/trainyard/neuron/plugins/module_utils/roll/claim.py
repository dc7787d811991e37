# SPDX-License-Identifier: Apache-2.0
"""Taking the host's lock in the module run that goes to the host first, whatever else that module does there.

A host that is held is an answer, not a failure: the controller hears all of them before it refuses. Standard library
only.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Dict, Mapping, Optional, Sequence

from .journal import Book, Claim, LockHeldError, StateError

CLAIM_OPTION: Dict[str, Any] = {
    "type": "dict",
    "options": {
        "run": {"type": "str", "required": True},
        "owner": {"type": "str", "required": True},
        "pid": {"type": "int", "required": True},
        "verb": {"type": "str", "required": True},
        "process": {"type": "str", "required": True},
        "lease_s": {"type": "float", "required": True},
        "take_over": {"type": "list", "elements": "str", "default": []},
    },
}
"""The option ``claim`` of a module."""


def taken(
    book: Book,
    given: Mapping[str, Any],
    check_mode: bool,
    moves: Optional[Sequence[Mapping[str, Any]]] = None,
) -> Dict[str, Any]:
    """Take the lock: ``holder`` is who has it now, ``refused`` why it was not given, empty if it was.

    Args:
        book: the host's.
        given: the option ``claim``.
        check_mode: refuse what would be refused, and change nothing.
        moves: with them the journal is opened too.
    """
    take_over = list(given["take_over"])
    claim = Claim(**{name: value for name, value in given.items() if name != "take_over"})
    try:
        if check_mode:
            book.refuses(claim, take_over)
            return {"holder": book.read()["holder"], "refused": ""}
        return {"holder": asdict(book.take(claim, moves, take_over)), "refused": ""}
    except LockHeldError as error:
        return {"holder": asdict(error.holder), "refused": str(error)}
    except StateError as error:
        return {"holder": None, "refused": str(error)}
    except OSError as error:
        why = "its lock cannot be written ({0}: {1}); free or mend that, and run the same again. Nothing was changed."
        return {"holder": None, "refused": why.format(book.directory, error.strerror)}
