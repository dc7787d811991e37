# SPDX-License-Identifier: Apache-2.0
"""The option by which a module proves that it may act."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of ``fence``."""

    DOCUMENTATION = r"""
options:
  fence:
    description:
      - Proof that the lock of the host is still the run's own (M(trainyard.neuron.roll_lock)). Where it is not, nothing
        is done and the module fails with the name of the run that has it.
      - The action plugins give it in runs that hold the lock; nobody writes it into a task. In check mode it is not
        asked for.
    type: dict
    suboptions:
      run:
        description: Id of the run.
        type: str
        required: true
      number:
        description: Number that the host gave out with its lock.
        type: int
        required: true
      lease_s:
        description: How long the lock is to hold after this, in seconds.
        type: float
        required: true
"""
