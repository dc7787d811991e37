# SPDX-License-Identifier: Apache-2.0
"""Ansible's own inventory of YAML, for files whose aliases do not multiply: it copies what they share, for hours."""

from __future__ import annotations

DOCUMENTATION = r"""
name: yaml
short_description: Ansible's inventory of YAML, which refuses a file whose aliases multiply
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Reads what P(ansible.builtin.yaml#inventory) reads, and makes the same of it.
  - A few lines whose aliases name one another can stand for a thousand million values, which Ansible writes out. Such a
    file is refused at once.
  - It is the first of the collection that a run comes to, so an ansible-core that is too old is refused here.
  - It stands in the place of C(yaml) among C(enable_plugins) of the configuration.
options:
  yaml_extensions:
    description: Endings of files that hold an inventory of YAML.
    type: list
    elements: string
    default: [".yaml", ".yml", ".json"]
    env:
      - name: ANSIBLE_YAML_FILENAME_EXT
      - name: ANSIBLE_INVENTORY_PLUGIN_EXTS
    ini:
      - key: yaml_valid_extensions
        section: defaults
      - key: yaml_valid_extensions
        section: inventory_plugin_yaml
"""

from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory.yaml import InventoryModule as AnsibleYaml
from ansible.release import __version__
from ansible_collections.trainyard.neuron.plugins.plugin_utils import command_line
from ansible_collections.trainyard.neuron.plugins.plugin_utils.aliases import values_of

MOST_VALUES = 5_000_000
"""A fleet of a thousand hosts, each with four replicas and all their settings in one file, has a tenth of it."""


class InventoryModule(AnsibleYaml):  # type: ignore[misc]  # ansible-core ships no types
    """Looks, and leaves the rest to Ansible."""

    NAME = "trainyard.neuron.yaml"

    def parse(self, inventory: Any, loader: Any, path: Any, cache: bool = True) -> None:
        """Read a file into the inventory.

        Raises:
            AnsibleParserError: its aliases multiply, or Ansible cannot read it.
            SystemExit: this ansible-core is too old; an error would be one among those of the other plugins.
        """
        old = command_line.too_old(__version__)
        if old:
            self.display.error(old, wrap_text=False)
            raise SystemExit(command_line.WRONG_OPTION)
        try:
            count = values_of(loader.load_from_file(path, cache="none", trusted_as_template=True))
        except RecursionError as error:
            raise AnsibleParserError("it is nested too deeply to be an inventory") from error
        if count > MOST_VALUES:
            told = "itself" if count == float("inf") else f"{count:.3g} values with its aliases written out"
            raise AnsibleParserError(f"it holds {told}: write what is meant without aliases that multiply")
        super().parse(inventory, loader, path, cache)
