# SPDX-License-Identifier: Apache-2.0
"""Sets Python's garbage collector for a controller that forks a process for every task and host.

A collection walks all that Ansible has loaded, finds nothing there, and its marks make each worker copy the pages that
it would else share. At one host it was a tenth of the controller's processor time (simulated; bench/control_plane.py).
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: garbage_collection
type: aggregate
short_description: A garbage collector for a controller that forks
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Takes what is loaded when a run begins out of the reach of Python's garbage collector, which then looks at what
    comes later, and more rarely. Cycles that a run leaves behind are collected as before.
  - Costs the memory of some ten thousand objects, saves processor time in the controller and in its workers.
requirements:
  - enabled in the configuration
"""

import gc
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader

#: New objects before the young are looked at (Python's own: 700), and how often the older are.
THRESHOLDS = (50_000, 20, 50)


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Sets the collector when it is loaded: after Ansible itself, before the first worker."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trainyard.neuron.garbage_collection"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # Filters and tests are loaded where the first of them is named: in each worker anew, unless it is here.
        filter_loader.get("default")
        test_loader.get("defined")
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
