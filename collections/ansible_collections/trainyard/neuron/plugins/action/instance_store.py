# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.instance_store``: brings mdadm and mkfs where they are missing."""

from __future__ import annotations

from ansible_collections.trainyard.neuron.plugins.plugin_utils.with_packages import WithPackages


class ActionModule(WithPackages):
    """One module run where nothing is to be done; packages and a second run where a volume is first made."""
