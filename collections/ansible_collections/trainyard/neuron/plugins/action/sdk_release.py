# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.sdk_release``."""

from __future__ import annotations

from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import FencedModule


class ActionModule(FencedModule):
    """One module run: one look at a host, and the proof that the run may act there."""
