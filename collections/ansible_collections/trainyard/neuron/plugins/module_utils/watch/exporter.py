# SPDX-License-Identifier: Apache-2.0
"""The program ``/usr/local/lib/trainyard/exporter``: looks at the host from time to time, and tells Prometheus.

The page is served on a port of the plan, and written to a file that node_exporter's textfile collector takes. A part
that cannot be looked at is left out and named; the others are told all the same.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ..serving import shape, trusted
from . import devices, quarantine
from .page import Page
from .replicas import Replicas, monotonic_s

CONFIGURATION = Path("/etc/trainyard/exporter.json")
FOLDER = Path("/run/trainyard-exporter")
REQUEST_TIMEOUT_S = 5.0

Say = Callable[[str], None]


class ExporterError(Exception):
    """The exporter cannot run: the cause and the next command, for the journal."""


@dataclass(frozen=True)
class Settings:
    """What the role tells the exporter.

    Attributes:
        port: where it answers; 0 for nowhere.
        address: on which address; empty for all.
        period_s: seconds from one look to the next.
        sysfs: the directory of the kernel's objects.
        kernel_log: what the kernel's lines are read from.
        mounts: file systems whose filling is told.
        capacity_block_end: end of the host's capacity block, an ISO time, of UTC where it names no zone; empty where it
            is in none.
        price_per_host_hour_usd: what an hour of the host costs; 0 where that is not known.
    """

    port: int = 0
    address: str = ""
    period_s: float = 15.0
    sysfs: str = "/sys"
    kernel_log: str = "/dev/kmsg"
    mounts: Tuple[str, ...] = ()
    capacity_block_end: str = ""
    price_per_host_hour_usd: float = 0.0

    @property
    def block_end_s(self) -> float:
        """End of the host's capacity block, seconds since the epoch; 0 where it is in none.

        Raises:
            ValueError: it is no ISO time.
        """
        if not self.capacity_block_end:
            return 0.0
        # Python 3.9 does not know the Z of UTC.
        end = datetime.fromisoformat(self.capacity_block_end.strip().replace("Z", "+00:00"))
        return (end if end.tzinfo else end.replace(tzinfo=timezone.utc)).timestamp()


def settings_of(text: str) -> Settings:
    """The settings in a file's text.

    Raises:
        ExporterError: it is none, or a word in it that is not known or of another kind.
    """
    said = "{0} is not usable: {1}; run the serve playbook for this host"
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExporterError(said.format(CONFIGURATION, "it is no JSON ({0})".format(error))) from error
    if not isinstance(raw, dict):
        raise ExporterError(said.format(CONFIGURATION, "it holds no settings by name"))
    slips = shape.problems(Settings, raw)
    if slips:
        raise ExporterError(said.format(CONFIGURATION, "; ".join(slips)))
    given = {word.name: raw[word.name] for word in fields(Settings) if raw.get(word.name) is not None}
    found = Settings(**{**given, "mounts": tuple(given.get("mounts", ()))})
    try:
        found.block_end_s  # noqa: B018 (asked here, so that what is wrong is said at the start)
    except (ValueError, OverflowError) as error:
        what = "capacity_block_end is {0!r:.80}, wanted is an ISO time".format(found.capacity_block_end)
        raise ExporterError(said.format(CONFIGURATION, what)) from error
    if not 1 <= found.period_s <= 3600:
        raise ExporterError(
            said.format(CONFIGURATION, "period_s is {0:g}, wanted are 1 to 3600".format(found.period_s))
        )
    return found


class Exporter:
    """Looks, remembers what the next process has to go on from, and keeps the page.

    Args:
        settings: what the role says.
        folder: where page and memory lie.
        replicas: what is asked about replicas.
        clock: the time of day.
        quarantined: file of the devices that healing took out.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path = FOLDER,
        replicas: Optional[Replicas] = None,
        clock: Callable[[], float] = time.time,
        quarantined: Path = quarantine.PATH,
    ) -> None:
        self.settings = settings
        self.quarantine = quarantined
        self.folder = folder
        self.replicas = replicas or Replicas()
        self.clock = clock
        self.kernel = devices.KernelLog(Path(settings.kernel_log))
        self.page = b""
        self._problems: Dict[str, str] = {}
        self._remember()

    def _remember(self) -> None:
        try:
            row = json.loads(trusted.read_text(self.folder / "state.json", trusted.CONFIGURATION_LIMIT))
            self.kernel.go_on(row["kernel"])
            starts = {str(name): float(took_s) for name, took_s in row["starts_s"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        self.replicas.starts_s.update(starts)

    def _keep(self) -> None:
        row = {"kernel": self.kernel.to_dict(), "starts_s": self.replicas.starts_s}
        trusted.write_text(self.folder / "state.json", json.dumps(row) + "\n")
        trusted.write_text(self.folder / "trainyard.prom", self.page.decode("utf-8"), 0o644)

    def look(self, say: Say) -> None:
        """Look once, and have the page say what was seen.

        Args:
            say: takes a line for the journal; each problem is told once.
        """
        began = _cpu_s()
        page, now_s = Page(), self.clock()
        found = devices.folders(Path(self.settings.sysfs))
        parts: List[Tuple[str, Callable[[Page], None]]] = [
            ("devices", lambda page: devices.say_devices(page, found)),
            ("quarantine", self._say_quarantine),
            ("kernel", lambda page: self._say_kernel(page, [index for index, _folder in found])),
            ("replicas", lambda page: self.replicas.say(page, now_s, monotonic_s())),
            ("fence", lambda page: self.replicas.say_fence(page, now_s)),
            ("roll", self.replicas.say_roll),
            ("filesystems", self._say_filesystems),
        ]
        for name, part in parts:
            problem = ""
            try:
                part(page)
            except (OSError, ValueError) as error:
                problem = str(error)
            if problem and problem != self._problems.get(name):
                say("{0} cannot be looked at: {1}".format(name, problem))
            self._problems[name] = problem
            page.say("trainyard_exporter_part_failed", float(bool(problem)), part=name)
        if self.settings.block_end_s:
            page.say("trainyard_capacity_block_end_timestamp_seconds", self.settings.block_end_s)
        if self.settings.price_per_host_hour_usd:
            page.say("trainyard_price_per_host_hour_usd", self.settings.price_per_host_hour_usd)
        page.say("trainyard_exporter_look_cpu_seconds", _cpu_s() - began)
        page.say("trainyard_exporter_look_timestamp_seconds", now_s)
        self.page = page.text().encode("utf-8")
        try:
            self._keep()
        except OSError as error:
            say("{0} cannot be written: {1}".format(self.folder, error))

    def _say_quarantine(self, page: Page) -> None:
        for index, look in quarantine.look(self.quarantine, Path(self.settings.sysfs)).items():
            page.say("trainyard_neuron_device_quarantined", float(look.out), device=str(index))
            if look.replaced:
                page.say("trainyard_neuron_device_replaced", 1, device=str(index))

    def _say_kernel(self, page: Page, indexes: Sequence[int]) -> None:
        # A host without a device of the kernel's log, or a file that no line has been written to yet.
        with contextlib.suppress(FileNotFoundError):
            self.kernel.look()
        self.kernel.say(page, indexes)

    def _say_filesystems(self, page: Page) -> None:
        for mount in self.settings.mounts:
            status = os.statvfs(mount)
            if status.f_blocks:
                # As df counts: what is kept for root is nobody's.
                used = status.f_blocks - status.f_bfree
                page.say("trainyard_filesystem_used_ratio", used / (used + status.f_bavail or 1), mount=mount)


def _cpu_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


class _Server(HTTPServer):
    """Answers one after the other: a page is a copy of bytes, and who asks for it is on the plan's list."""

    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter
        address = exporter.settings.address
        if ":" in address:
            self.address_family = socket.AF_INET6
        super().__init__((address, exporter.settings.port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no event."""


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server_version = "trainyard-exporter"
    sys_version = ""

    def do_GET(self) -> None:
        """The page; nothing else is here."""
        if not isinstance(self.server, _Server):
            raise AssertionError("no other server has this handler")
        found = self.path.partition("?")[0] == "/metrics"
        body = self.server.exporter.page if found else b"metrics are at /metrics\n"
        self.send_response(200 if found else 404)
        kind = "text/plain; version=0.0.4; charset=utf-8" if found else "text/plain; charset=utf-8"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """A scrape is no event."""


def serve(exporter: Exporter) -> HTTPServer:
    """Answer in the background; the server, which the caller shuts down.

    Raises:
        ExporterError: the port is somebody else's.
    """
    where = exporter.settings
    try:
        server = _Server(exporter)
    except OSError as error:
        said = "port {0} cannot be listened on: {1}; `ss -ltnp` names who has it"
        raise ExporterError(said.format(where.port, error.strerror or error)) from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def say(text: str) -> None:
    """A line for the journal, at once."""
    sys.stdout.write("trainyard: {0}\n".format(text))
    sys.stdout.flush()


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point; 1 with the cause on stderr where it cannot run."""
    os.environ["LC_ALL"] = "C"
    parser = argparse.ArgumentParser(prog="exporter", description="Tell Prometheus what this host does.")
    parser.add_argument("--once", action="store_true", help="print the page once, and end")
    parser.add_argument("--settings", type=Path, default=CONFIGURATION, help="default: %(default)s")
    options = parser.parse_args(argv)
    try:
        try:
            text = trusted.read_text(options.settings)
        except (OSError, ValueError) as error:
            raise ExporterError("{0}: {1}; run the serve playbook".format(options.settings, error)) from error
        exporter = Exporter(settings_of(text))
        if options.once:
            exporter.look(lambda _line: None)
            sys.stdout.write(exporter.page.decode("utf-8"))
            return 0
        exporter.look(say)
        if exporter.settings.port:
            serve(exporter)
        while True:
            time.sleep(exporter.settings.period_s)
            exporter.look(say)
    except ExporterError as error:
        sys.stderr.write("trainyard: {0}\n".format(error))
        return 1
