# SPDX-License-Identifier: Apache-2.0
"""The outside world as a lab's hosts see it: real names at the services' address, and certificates that they trust."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from trainyard.lab.cache import write
from trainyard.lab.errors import LabError
from trainyard.lab.state import BUCKET, Lab, Paths
from trainyard.paths import ROOT

_NAMES = json.loads((ROOT / "lab" / "services" / "names.json").read_text(encoding="utf-8"))

#: Where every instance finds what EC2 knows of it.
METADATA_ADDRESS = str(_NAMES["metadata"])

PROXY_PORT = 3128


def names() -> list[str]:
    """Every name of the world that a host finds in its /etc/hosts: a bucket has one of its own in each region."""
    found = list(_NAMES["names"])
    for interface in (*_NAMES["interfaces"], f"{BUCKET}.s3"):
        found += [
            f"{interface}.amazonaws.com",
            *(f"{interface}.{region}.amazonaws.com" for region in _NAMES["regions"]),
        ]
    return found


def ca(files: Paths) -> Path:
    """The certificate of the lab's authority."""
    return files.folder / "world" / "ca.pem"


def server(files: Paths) -> Path:
    """The services' certificate and key."""
    return files.folder / "world" / "server.pem"


def bundle(files: Paths) -> Path:
    """The authorities that this machine trusts and the lab's, for programs here that speak with the lab's world."""
    return files.folder / "world" / "bundle.pem"


def ensure(files: Paths, trusted: Path) -> None:
    """Make authority and certificate where they are missing, or where the world has got further names.

    Args:
        files: the lab's.
        trusted: the machine's bundle of authorities, which need not exist.

    Raises:
        LabError: no certificate could be made.
    """
    listed = "\n".join([*names(), METADATA_ADDRESS]) + "\n"
    noted = files.folder / "world" / "names"
    if noted.exists() and noted.read_text(encoding="ascii") == listed and server(files).exists():
        return
    script = ROOT / "lab" / "certificates.py"
    made = subprocess.run(
        [sys.executable, str(script)], input=listed, capture_output=True, text=True, check=False, timeout=60
    )
    if made.returncode:
        raise LabError(f"{script.name} made no certificate: {' '.join(made.stderr.strip().splitlines()[-1:])}")
    authority, pair = json.loads(made.stdout)
    write(ca(files), authority)
    write(server(files), pair, 0o600)
    known = trusted.read_text(encoding="utf-8") if trusted.exists() else ""
    write(bundle(files), known.rstrip("\n") + "\n" + authority if known else authority)
    write(noted, listed)


def boot_script(lab: Lab) -> str:
    """What makes a host part of the lab's world at each boot: whom it trusts, and where it asks what it is."""
    own = "/usr/local/share/ca-certificates/trainyard-lab.crt"
    return f"""\
set -eu
cd /etc/ssl/certs
[ -e ca-certificates.crt.before-lab ] || cp ca-certificates.crt ca-certificates.crt.before-lab
cat ca-certificates.crt.before-lab {own} > ca-certificates.crt
ln -sf {own} "$(openssl x509 -hash -noout -in {own}).0"
ip route replace {METADATA_ADDRESS}/32 via {lab.services_address} || true
"""


def environment(lab: Lab, files: Paths) -> dict[str, str]:
    """What a program on this machine needs to see the lab's world by its real names, and nothing else of the world.

    Raises:
        LabError: the lab is not up.
    """
    if not lab.subnet or not bundle(files).exists():
        raise LabError(f"lab {lab.name!r} is not up: `trainyard lab up --name {lab.name}`")
    proxy = f"http://{lab.services_address}:{PROXY_PORT}"
    trust = str(bundle(files))
    hosts = ",".join(["localhost", "127.0.0.1", lab.subnet, *lab.hosts.values()])
    return {
        **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(filter(None, [os.environ.get("NO_PROXY"), hosts]))),
        **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE"), trust),
        "AWS_ACCESS_KEY_ID": "lab",
        "AWS_SECRET_ACCESS_KEY": "lab",
        "AWS_DEFAULT_REGION": str(_NAMES["regions"][0]),
    }
