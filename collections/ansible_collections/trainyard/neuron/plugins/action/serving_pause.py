# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.serving_pause``."""

from __future__ import annotations

from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import FencedModule


class ActionModule(FencedModule):
    """One module run: takes a host out of service and back."""
