# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.peer_access``."""

from __future__ import annotations

from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import FencedModule


class ActionModule(FencedModule):
    """The module, with the proof that it may act."""
