# SPDX-License-Identifier: Apache-2.0
"""Runs all services of a lab in one process: `python -m lab.services --models DIR --bucket NAME`."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import urllib.request
from pathlib import Path
from types import FrameType

from lab.services import aws, files, hub, registry


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = argparse.ArgumentParser(
        prog="lab.services", description="AWS interfaces and a model hub for the lab's hosts."
    )
    options.add_argument("--address", default="0.0.0.0", help="where both listen")  # noqa: S104 - a network of the lab alone
    options.add_argument("--aws-port", type=int, default=5000)
    options.add_argument("--hub-port", type=int, default=8080)
    options.add_argument("--models", type=Path, required=True, help="folder of <organisation>/<model> folders")
    options.add_argument("--apt-port", type=int, default=8081)
    options.add_argument("--packages", type=Path, help="folder of a package repository")
    options.add_argument("--registry-port", type=int, default=5001)
    options.add_argument("--images", type=Path, help="folder of container images")
    options.add_argument("--bucket", help="an S3 bucket that exists from the start")
    given = options.parse_args()

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        os._exit(0)  # all state is in memory, and an open connection must not hold the lab's end up

    signal.signal(signal.SIGTERM, stop)
    models = hub.serve(given.models, given.address, given.hub_port)
    threading.Thread(target=models.serve_forever, daemon=True).start()
    if given.packages:
        packages = files.serve(given.packages, given.address, given.apt_port)
        threading.Thread(target=packages.serve_forever, daemon=True).start()
    if given.images:
        images = registry.serve(given.images, given.address, given.registry_port)
        threading.Thread(target=images.serve_forever, daemon=True).start()
    cloud = aws.serve(given.address, given.aws_port)
    thread = threading.Thread(target=cloud.serve_forever, daemon=True)
    thread.start()
    if given.bucket:
        request = urllib.request.Request(f"http://127.0.0.1:{given.aws_port}/{given.bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - this very process
    print("services are ready", flush=True)
    thread.join()


if __name__ == "__main__":
    main()
