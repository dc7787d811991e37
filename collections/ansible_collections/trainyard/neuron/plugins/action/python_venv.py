# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.python_venv``: brings the system package that it needs."""

from __future__ import annotations

from ansible_collections.trainyard.neuron.plugins.plugin_utils.with_packages import WithPackages


class ActionModule(WithPackages):
    """One module run where nothing is to be done; a package and a second run where Python lacks `venv`."""
