# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.device_quarantine``."""

from __future__ import annotations

from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import FencedModule


class ActionModule(FencedModule):
    """One module run: looks at devices, takes one out of the plan or back into it."""
