# SPDX-License-Identifier: Apache-2.0
"""Faults that a service answers with while they are switched on."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field, fields
from typing import Any

#: Where every service takes its faults: PUT a JSON object to set, DELETE to clear, GET to see.
FAULT_PATH = "/_lab/fault"


@dataclass
class Fault:
    """What is wrong with a service just now; the defaults are a healthy one."""

    status: int = 0
    """HTTP status that requests are answered with; 0 = as usual."""
    count: int = -1
    """How many requests get `status`, or how many downloads are cut; -1 = all until cleared."""
    retry_after_s: int = 0
    """Value of Retry-After in those answers; 0 = no such header."""
    delay_s: float = 0.0
    """Seconds that every request waits first."""
    bytes_per_s: int = 0
    """Speed of a download; 0 = as fast as it goes."""
    cut_after_bytes: int = 0
    """A download's connection is cut after so many bytes; 0 = never."""

    @classmethod
    def from_json(cls, text: bytes) -> Fault:
        """Read a fault from JSON.

        Raises:
            ValueError: not an object, or a name or a type that no fault has.
        """
        given: Any = json.loads(text or b"{}")
        if not isinstance(given, dict):
            raise ValueError("a fault is a JSON object")
        types: dict[str, type[int] | type[float]] = {
            entry.name: float if entry.type == "float" else int for entry in fields(cls)
        }
        for name, value in given.items():
            if name not in types:
                raise ValueError(f"no fault field {name!r}; there are {', '.join(types)}")
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ValueError(f"{name} takes a number")
            given[name] = types[name](value)
        return cls(**given)


@dataclass
class Switch:
    """The fault of one service, shared by its threads."""

    fault: Fault = field(default_factory=Fault)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, fault: Fault) -> None:
        """Switch a fault on; a default Fault switches all off."""
        with self._lock:
            self.fault = fault

    def refusal(self) -> tuple[int, int] | None:
        """Wait as the fault says; then (status, Retry-After seconds) for a request that must fail, or None."""
        time.sleep(self.fault.delay_s)
        with self._lock:
            fault = self.fault
            if fault.status == 0 or fault.count == 0:
                return None
            if fault.count > 0:
                fault.count -= 1
            return fault.status, fault.retry_after_s

    def cut_bytes(self, length_bytes: int) -> int:
        """After how many bytes a download of this length is cut; 0 = not at all."""
        with self._lock:
            fault = self.fault
            if not 0 < fault.cut_after_bytes < length_bytes or fault.count == 0:
                return 0
            if fault.count > 0:
                fault.count -= 1
            return fault.cut_after_bytes
