# SPDX-License-Identifier: Apache-2.0
"""What a lab command reports to a person instead of a traceback."""

from __future__ import annotations


class LabError(Exception):
    """A lab could not be made, changed or removed; the message names the cause, the state left and the next command."""
