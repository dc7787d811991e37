# SPDX-License-Identifier: Apache-2.0
"""What an execution node says: read within limits, and nothing of it written here.

ansible-runner unpacks the archive that a worker sends at its end, and follows the links in it: a node could write any
file of the controller. Nobody reads that archive, so it is thrown away as it comes.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Mapping
from io import BufferedReader, RawIOBase
from typing import IO, Any

from ansible_runner.streaming import Processor
from ansible_runner.utils.base64io import Base64IO

#: What a node may say of one part: a thousand hosts' tasks need a tenth of it.
MOST_BYTES = 1 << 30
#: What a result may be; a longer line is none of Ansible's.
MOST_LINE_BYTES = 1 << 25
#: Events that tell of nobody's failure, and make up nearly all that a node says.
_SAID_OFTEN = frozenset(
    {"runner_on_ok", "runner_on_start", "runner_on_skipped", "runner_item_on_ok", "runner_on_async_ok"}
)
_CHUNK = 1 << 20


class AnswerError(ValueError):
    """What a node says is nothing that ansible-runner's worker does."""


class Watched(RawIOBase):
    """What a worker says, at an end when it was silent for too long: a node that hangs is lost as one that died."""

    def __init__(self, source: IO[bytes], silent_s: float) -> None:
        self._source, self._silent_s, self._said = source, silent_s, 0
        self.silent = False

    def readable(self) -> bool:
        """Return that it can be read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes and put them into a buffer; returns how many, 0 at the end.

        Raises:
            AnswerError: it says more than anybody needs to.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._source, selectors.EVENT_READ)
            if not selector.select(self._silent_s):
                self.silent = True
                return 0
        found = os.read(self._source.fileno(), len(buffer))
        self._said += len(found)
        if self._said > MOST_BYTES:
            raise AnswerError(f"it says more than {MOST_BYTES} bytes")
        buffer[: len(found)] = found
        return len(found)


class Lines(BufferedReader):
    """Lines of a bounded length."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line.

        Raises:
            AnswerError: it is too long.
        """
        line = super().readline(MOST_LINE_BYTES if size is None or size < 0 else size)
        if len(line) == MOST_LINE_BYTES:
            raise AnswerError(f"a line of it is longer than {MOST_LINE_BYTES} bytes")
        return line


class Answer(Processor):  # type: ignore[misc]  # ansible-runner ships no types
    """What a worker says of its job.

    Attributes:
        events: those that tell how it went: `{event, event_data, stdout}`, as ansible-runner has them.
        why: what the worker itself said of an end that Ansible knows nothing of.
        status: ansible-runner's word for the end.
    """

    def __init__(self, source: Watched, folder: str) -> None:
        """Read from a worker.

        Args:
            source: what it writes.
            folder: an empty directory; nothing of the node's is written there.
        """
        self.events: list[Mapping[str, Any]] = []
        self.why: list[str] = []
        super().__init__(
            _input=Lines(source),
            private_data_dir=folder,
            event_handler=self._heard,
            status_handler=self._told,
            quiet=True,
        )

    def artifacts_callback(self, artifacts_data: Mapping[str, Any]) -> None:
        """Throw away what the worker kept on its node.

        Raises:
            AnswerError: it has no size.
        """
        left = artifacts_data["zipfile"]
        if isinstance(left, bool) or not isinstance(left, int) or not 0 <= left <= MOST_BYTES:
            raise AnswerError(f"its archive has {left!r:.40} bytes")
        with Base64IO(self._input) as source:
            while left:
                found = source.read(min(left, _CHUNK))
                if not found:
                    raise AnswerError("its archive was cut")
                left -= len(found)

    def _heard(self, event: Mapping[str, Any]) -> bool:
        if not isinstance(event.get("event_data") or {}, Mapping):
            raise AnswerError("an event of it has no data")
        if event.get("event") not in _SAID_OFTEN:
            self.events.append(event)
        return False

    def _told(self, status: Mapping[str, Any], **_: Any) -> None:
        if status.get("job_explanation"):
            self.why.append(str(status["job_explanation"]))
