# SPDX-License-Identifier: Apache-2.0
"""Makes the stand-in of an SDK release's vLLM container image, in the layout that a registry serves.

Runs inside a lab host's root, whose Python and libraries the image takes over: what a base image would bring. On top
are the commands of the release and the two traits of the real image that people trip over: an entry point that starts
the command as a child and passes no signal on, and a health check of port 8080, where nobody listens. Source:
Dockerfiles of aws-neuron/deep-learning-containers. The bytes are the same whenever they are made of the same files, so
the digest is the image's name in a plan.

    python3 neuron_image.py FOLDER REPOSITORY RELEASE...    writes FOLDER/<repository>/{manifests,blobs}
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PROGRAMS = ("/bin/sh", "/usr/bin/env", "/usr/bin/curl", "/bin/sleep", "/bin/cat", "/bin/ls")
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

#: As the real one does: the command is a child of process 1, which handles no signal and hands none on.
ENTRYPOINT = """\
# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys

subprocess.check_call(sys.argv[1:])
"""


def libraries(files: Iterable[str]) -> set[str]:
    """The shared libraries that programs and modules are linked with."""
    found: set[str] = set()
    for name in files:
        said = subprocess.run(["ldd", name], capture_output=True, text=True, check=False).stdout
        found.update(word for line in said.splitlines() for word in line.split() if word.startswith("/"))
    return found


def base_files() -> dict[str, Path]:
    """The system's Python, a shell, a few programs and what they are linked with: path in the image -> file."""
    python = os.path.realpath(sys.executable)
    standard = Path(os.__file__).parent
    modules = [
        path
        for path in sorted(standard.rglob("*"))
        if path.is_file() and not path.is_symlink() and not {"__pycache__", "test", "idlelib"} & set(path.parts)
    ]
    linked = [python, *PROGRAMS, *(str(path) for path in modules if path.suffix == ".so")]
    names = {python, *PROGRAMS, *libraries(linked), *(str(path) for path in modules), "/etc/passwd", "/etc/group"}
    return {name: Path(name) for name in names}


class Layer:
    """One layer: a compressed tar of the same bytes for the same files."""

    def __init__(self) -> None:
        self._raw = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._raw, mode="w", format=tarfile.GNU_FORMAT)

    def _entry(self, name: str, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.mode = mode
        return entry

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        entry = self._entry(name, mode)
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        entry = self._entry(name, 0o777)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a directory."""
        entry = self._entry(name, mode)
        entry.type = tarfile.DIRTYPE
        self._tar.addfile(entry)

    def done(self) -> tuple[bytes, str]:
        """The compressed layer, and the digest of what is compressed."""
        self._tar.close()
        raw = self._raw.getvalue()
        return gzip.compress(raw, 1, mtime=0), digest_of(raw)


def digest_of(data: bytes) -> str:
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def base_layer() -> Layer:
    """The layer that stands for the base image."""
    layer = Layer()
    for name in ("tmp", "var/tmp", "workspace", "workspace/vllm", "root", "run", "etc", "dev", "proc", "sys"):
        layer.folder(f"/{name}", 0o1777 if name.endswith("tmp") else 0o755)
    for name in ("bin", "sbin", "lib", "lib64"):
        # As merged systems have it; a file's own path below may be either.
        layer.link(f"/{name}", f"usr/{name}")
    files: dict[str, Path] = {}
    for name, path in base_files().items():
        merged = f"/usr{name}" if name.split("/")[1] in ("bin", "sbin", "lib", "lib64") else name
        files.setdefault(merged, path)
    for name in sorted(files):
        layer.file(name, files[name].read_bytes(), files[name].stat().st_mode & 0o755)
    for name in ("python", "python3"):
        layer.link(f"/usr/bin/{name}", Path(os.path.realpath(sys.executable)).name)
    return layer


def release_layer(key: str) -> Layer:
    """The commands of a release, which its environment on a host has, where the image has them."""
    # Beside this file in the root that it runs in, as the scripts of the image will find it on a host.
    install, sdk = importlib.import_module("neuron_sim.install"), importlib.import_module("neuron_sim.sdk")
    config = importlib.import_module("neuron_sim.config")

    row = sdk.release(key)
    layer = Layer()
    with tempfile.TemporaryDirectory() as folder:
        written = install.image_files(config.HostConfig(root=Path("/")), row, Path(folder))
        for path in written:
            layer.file(f"/{path.relative_to(folder)}", path.read_bytes(), path.stat().st_mode & 0o755)
    layer.file("/usr/local/bin/vllm_entrypoint.py", ENTRYPOINT.encode(), 0o755)
    return layer


def image_config(diff_ids: list[str]) -> dict[str, Any]:
    """What the image says of itself, in the form of Docker's images, which has a place for the health check."""
    check = ["CMD-SHELL", "curl -f http://localhost:8080/ping || exit 1"]
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/aws/neuron/bin"],
            "Entrypoint": ["python", "/usr/local/bin/vllm_entrypoint.py"],
            "Healthcheck": {"Test": check, "Interval": 30_000_000_000, "Timeout": 5_000_000_000, "Retries": 3},
            "ExposedPorts": {"8080/tcp": {}, "8081/tcp": {}},
            "WorkingDir": "/workspace/vllm",
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "stand-in of the lab"} for _ in diff_ids],
    }


def write_image(folder: Path, tag: str, layers: list[tuple[bytes, str]]) -> str:
    """Write an image's blobs and its manifest, under its digest and its tag; return the digest."""
    blobs, manifests = folder / "blobs", folder / "manifests"
    for path in (blobs, manifests):
        path.mkdir(parents=True, exist_ok=True)

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        (blobs / digest_of(data)).write_bytes(data)
        return {"mediaType": kind, "size": len(data), "digest": digest_of(data)}

    config = json.dumps(image_config([diff for _, diff in layers]), sort_keys=True).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(config, CONFIG),
        "layers": [blob(data, LAYER) for data, _ in layers],
    }
    text = json.dumps(manifest, sort_keys=True).encode()
    for name in (digest_of(text), tag):
        (manifests / name).write_bytes(text)
    return digest_of(text)


def main() -> None:
    """Write the images, and `digests.json`: the tag of each -> its digest."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("folder", type=Path)
    options.add_argument("repository")
    options.add_argument("release", nargs="+", help="<row of the SDK table>=<tag>")
    given = options.parse_args()
    base = base_layer().done()
    digests = {}
    for item in given.release:
        key, _, tag = item.partition("=")
        digests[tag] = write_image(given.folder / given.repository, tag, [base, release_layer(key).done()])
    (given.folder / "digests.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
