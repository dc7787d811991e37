# SPDX-License-Identifier: Apache-2.0
"""Runs all services of a lab in one process: `python -m lab.services --models DIR --bucket NAME`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import threading
import urllib.request
from pathlib import Path
from types import FrameType

from lab.services import aws, files, hub, machines, metadata, registry, sources, world


def front(given: argparse.Namespace) -> None:
    """Answer under the world's own names."""
    # The address that every instance asks; without the right to have it, nothing else suffers.
    subprocess.run(["ip", "address", "replace", f"{world.METADATA_ADDRESS}/32", "dev", "lo"], check=False)
    ports = {
        world.APT: given.apt_port,
        world.PIP: given.pip_port,
        world.IMAGES: given.registry_port,
        world.HUB: given.hub_port,
        world.SOURCES: given.sources_port,
        world.CLOUD: given.aws_port,
        world.METADATA: given.metadata_port,
    }
    made = world.World(ports, given.certificate)
    asyncio.run(made.serve(given.address, tls_port=443, plain_port=80, proxy_port=given.proxy_port))


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = argparse.ArgumentParser(
        prog="lab.services", description="What the lab's hosts find of the outside world."
    )
    options.add_argument("--address", default="0.0.0.0", help="where both listen")  # noqa: S104 - a network of the lab alone
    options.add_argument("--aws-port", type=int, default=5000)
    options.add_argument("--hub-port", type=int, default=8080)
    options.add_argument("--models", type=Path, required=True, help="folder of <organisation>/<model> folders")
    options.add_argument("--apt-port", type=int, default=8081)
    options.add_argument("--packages", type=Path, help="folder of a package repository")
    options.add_argument("--registry-port", type=int, default=5001)
    options.add_argument("--images", type=Path, help="folder of container images")
    options.add_argument("--pip-port", type=int, default=8082)
    options.add_argument("--wheels", type=Path, help="folder of a Python package index")
    options.add_argument("--sources-port", type=int, default=8083)
    options.add_argument("--sources", type=Path, help="folder of git repositories")
    options.add_argument("--metadata-port", type=int, default=8084)
    options.add_argument("--proxy-port", type=int, default=3128)
    options.add_argument("--certificate", type=Path, help="certificate and key of the world's names")
    options.add_argument("--bucket", help="an S3 bucket that exists from the start")
    options.add_argument("--with-machines", action="store_true", help="launched instances wait until a machine is up")
    given = options.parse_args()

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        os._exit(0)  # all state is in memory, and an open connection must not hold the lab's end up

    signal.signal(signal.SIGTERM, stop)
    made = machines.Machines(with_machines=given.with_machines)
    servers = [
        hub.serve(given.models, given.address, given.hub_port),
        metadata.serve("127.0.0.1", given.metadata_port, made.hosts),
    ]
    if given.packages:
        servers.append(files.serve(given.packages, given.address, given.apt_port))
    if given.wheels:
        servers.append(files.serve(given.wheels, given.address, given.pip_port))
    if given.sources:
        servers.append(sources.serve(given.sources, given.address, given.sources_port))
    if given.images:
        servers.append(registry.serve(given.images, given.address, given.registry_port))
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    if given.certificate:
        threading.Thread(target=front, args=(given,), daemon=True).start()
    cloud = aws.serve(given.address, given.aws_port, made)
    thread = threading.Thread(target=cloud.serve_forever, daemon=True)
    thread.start()
    if given.bucket:
        request = urllib.request.Request(f"http://127.0.0.1:{given.aws_port}/{given.bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - this very process
    print("services are ready", flush=True)
    thread.join()


if __name__ == "__main__":
    main()
