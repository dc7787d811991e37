# SPDX-License-Identifier: Apache-2.0
"""What a restart of every replica costs clients, by who drains: the same engines and the same load for each way.

Restarts the replicas of the lab that TRAINYARD_LAB names, one after another, under the load of `tests/roll/load.py`:

- ``trainyard``: a roll to a new release (`playbooks/redeploy.yml`),
- ``haproxy-restart``: trainyard's router, and replicas restarted with nobody told,
- ``nginx-restart``: the same behind nginx,
- ``nginx-reload``: nginx; a server is marked down, nginx reloaded, the replica restarted when it is idle, and back,
- ``vllm-router-restart``: vllm-router with its own health checks, and replicas restarted with nobody told,
- ``vllm-router-drain``: a worker is removed, restarted when it is idle, and added again.

nginx and vllm-router are run from where the arguments say; neither is installed by this. What comes out is simulated.

    python -m bench.roll_compare --nginx /usr/sbin/nginx --vllm-router /tmp/venv/bin/vllm-router --out compare.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "collections"))

from ansible_collections.trainyard.neuron.plugins.module_utils.roll import metrics
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.host import fetch_metrics

from tests.roll.conftest import BASE, LabFleet

DRAIN_DEADLINE_S = 60.0
READY_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Engine:
    """One replica: the host that restarts it, its unit, and where it listens."""

    host: str
    unit: str
    url: str

    @property
    def address(self) -> str:
        """``host:port``."""
        return urllib.parse.urlsplit(self.url).netloc


class Way:
    """How a replica leaves and comes back; this one tells nobody.

    Args:
        url: where clients send to.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        """Begin to route."""

    def leave(self, engine: Engine) -> None:
        """Before a replica is restarted."""

    def rejoin(self, engine: Engine) -> None:
        """After it was."""

    def stop(self) -> None:
        """End routing."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def answers(url: str) -> None:
    """Wait until something answers at ``url``.

    Raises:
        TimeoutError: nothing does.
    """
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=2.0).status_code < 500:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"nothing answers at {url}")


def idle(engine: Engine) -> None:
    """Wait until an engine has no request, in two looks half a second apart, or the deadline is over."""
    deadline, quiet = time.monotonic() + DRAIN_DEADLINE_S, 0
    while quiet < 2 and time.monotonic() < deadline:
        text = fetch_metrics(engine.url)
        quiet = quiet + 1 if text is None or not metrics.read(text).in_flight else 0
        time.sleep(0.5)


class Program(Way):
    """A router that runs here as a process of its own."""

    def __init__(self, argv: Sequence[str], port: int, log: Path) -> None:
        super().__init__(f"http://127.0.0.1:{port}")
        self.argv = list(argv)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it, and wait until it answers."""
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(self.argv, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        answers(f"{self.url}/v1/models")

    def stop(self) -> None:
        """End it with all its processes."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=30)


def nginx_config(folder: Path, port: int, engines: Sequence[Engine], down: str = "") -> str:
    """Nginx as its documentation has it for streams, balanced by connections; ``down`` is the server that is out."""
    servers = "\n".join(
        f"    server {engine.address}{' down' if engine.address == down else ''};" for engine in engines
    )
    temporary = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
{temporary}
  upstream replicas {{
    zone replicas 256k;
    least_conn;
{servers}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


class Nginx(Program):
    """Nginx; with ``reloads`` a replica is marked down before, and nginx reloaded."""

    def __init__(self, binary: str, folder: Path, engines: Sequence[Engine], reloads: bool) -> None:
        port = free_port()
        self.config = folder / "nginx.conf"
        self.render: Callable[[str], str] = lambda down: nginx_config(folder, port, engines, down)
        self.reloads = reloads
        argv = [binary, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(self.config)]
        super().__init__(argv, port, folder / "nginx.log")

    def start(self) -> None:
        """Write the configuration, and run."""
        self.config.write_text(self.render(""), encoding="utf-8")
        super().start()

    def _reload(self, down: str) -> None:
        self.config.write_text(self.render(down), encoding="utf-8")
        subprocess.run([*self.argv, "-s", "reload"], check=True, capture_output=True)
        # The old workers take requests until the new ones are there.
        time.sleep(1.0)

    def leave(self, engine: Engine) -> None:
        """Mark it down, reload, and let it finish."""
        if self.reloads:
            self._reload(engine.address)
            idle(engine)

    def rejoin(self, engine: Engine) -> None:
        """Take it in again."""
        del engine
        if self.reloads:
            self._reload("")


class VllmRouter(Program):
    """The program vllm-router, balanced by round robin; with ``drains`` a worker is removed before, and added after."""

    def __init__(self, binary: str, folder: Path, engines: Sequence[Engine], drains: bool) -> None:
        port = free_port()
        self.drains = drains
        argv = [binary, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
        argv += ["--prometheus-port", str(free_port()), "--health-check-interval-secs", "1"]
        # A worker that is added is looked at after this long first: 30 s unless told otherwise.
        argv += ["--worker-startup-check-interval", "1"]
        argv += ["--worker-urls", *(engine.url for engine in engines)]
        super().__init__(argv, port, folder / "vllm-router.log")

    def _tell(self, verb: str, engine: Engine) -> None:
        httpx.post(f"{self.url}/{verb}", params={"url": engine.url}, timeout=60.0).raise_for_status()

    def leave(self, engine: Engine) -> None:
        """Remove the worker, and let it finish."""
        if self.drains:
            self._tell("remove_worker", engine)
            idle(engine)

    def rejoin(self, engine: Engine) -> None:
        """Add the worker."""
        if self.drains:
            self._tell("add_worker", engine)


def restart(engine: Engine) -> None:
    """Restart a replica; comes back when its unit is active, which is when it generates.

    Raises:
        subprocess.CalledProcessError: it does not come up.
    """
    for verb in ("reset-failed", "restart"):  # one way after another restarts it more often than its start limit
        command = ["trainyard", "lab", "ssh", engine.host, "sudo", "systemctl", verb, engine.unit]
        subprocess.run(command, check=True, capture_output=True)


def ways(arguments: argparse.Namespace, folder: Path, engines: Sequence[Engine], router: str) -> dict[str, Way]:
    """Every way that there is a program for, by name."""
    found: dict[str, Way] = {"trainyard": Way(router), "haproxy-restart": Way(router)}
    for name, binary, kind in (("nginx", arguments.nginx, Nginx), ("vllm-router", arguments.vllm_router, VllmRouter)):
        for verb, tells in (("restart", False), ("reload" if name == "nginx" else "drain", True)):
            if binary:
                home = folder / f"{name}-{verb}"
                home.mkdir()
                found[f"{name}-{verb}"] = kind(binary, home, engines, tells)
    return found


def measured(
    fleet: LabFleet, name: str, way: Way, engines: Sequence[Engine], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Restart replicas in one way under load; the account of it. A roll restarts all of them."""
    restarted = engines[: arguments.restarts or len(engines)]
    way.start()
    began = time.monotonic()
    try:
        with fleet.load(way.url, closed=len(engines) * 7 // 4, rate=len(engines) / 5, longest_s=20.0) as account:
            if name == "trainyard":
                restarted = engines
                how = {"at_once": arguments.at_once, "floor": "50%", "canary_s": 5, "soak_s": 1}
                change = fleet.shaped(environment={"ROLL_TEST": str(int(time.time()))})
                run = fleet.redeploy({**change, "trainyard_redeploy": how})
                if run.code:
                    raise SystemExit(run.text[-3000:])
            else:
                for engine in restarted:
                    way.leave(engine)
                    restart(engine)
                    way.rejoin(engine)
            seconds = time.monotonic() - began
    finally:
        way.stop()
    account.pop("requests")
    return {"restarts": len(restarted), "seconds": round(seconds, 1), **account}


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--nginx", default="", help="nginx; without it none is tried")
    top.add_argument("--vllm-router", default="", help="vllm-router; without it none is tried")
    top.add_argument("--shape", default="{}", help="overrides of the deployment tiny-llama, as JSON")
    top.add_argument("--at-once", type=int, default=1, help="replicas at a time in trainyard's roll (%(default)s)")
    top.add_argument("--restarts", type=int, default=0, help="restart so many replicas; 0 is all, as a roll does")
    top.add_argument("--only", nargs="*", default=[], help="names of the ways to try")
    top.add_argument("--out", type=Path)
    arguments = top.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="roll-compare-") as scratch:
        folder = Path(scratch)
        overrides = {"trainyard_overrides": {"tiny-llama": json.loads(arguments.shape)}}
        fleet = LabFleet(folder, {**BASE, **overrides})
        inventory = fleet.inventory()
        # A replica whose only router is on its own host listens on loopback: with clients everywhere, none does.
        reachable = folder / "reachable.json"
        reachable.write_text(json.dumps({"client": {"hosts": {name: {} for name in inventory["neuron"]["hosts"]}}}))
        fleet.arguments = (f"--inventory={reachable}",)
        served = fleet.run("serve", {})
        if served.code:
            raise SystemExit(served.text[-3000:])
        address = inventory["_meta"]["hostvars"][inventory["router"]["hosts"][0]]["ansible_host"]
        engines = [
            Engine(host, row["unit"], row["url"])
            for host, report in sorted(fleet.reports().items())
            for _, row in sorted(report["replicas"].items())
        ]
        record: dict[str, Any] = {"provenance": "simulated", "replicas": len(engines), "at_once": arguments.at_once}
        record["load_average"] = [round(value, 1) for value in os.getloadavg()]
        for name, way in ways(arguments, folder, engines, f"http://{address}:8080").items():
            if arguments.only and name not in arguments.only:
                continue
            record[name] = measured(fleet, name, way, engines, arguments)
            counts = {
                key: record[name][key] for key in ("restarts", "seconds", "sent", "ok", "failed", "truncated", "gap")
            }
            print(name, json.dumps(counts), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
