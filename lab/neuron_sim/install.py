# SPDX-License-Identifier: Apache-2.0
"""Turn a container into a stand-in host: commands, environments, devices. Running it again changes nothing."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from . import faults, ownership, packages, sdk, sysfs
from .config import DEVICE_DIR, RUN_DIR, HostConfig
from .hardware import instance_type

PACKAGE_PARENT = Path(__file__).resolve().parent.parent
BYTECODE_DIR = "/var/cache/neuron-sim"
HOST_TOOLS = ("neuron-ls", "neuron-monitor", "neuron-monitor-prometheus.py", "neuron-top")
KERNEL_TOOLS = ("modinfo", "lsmod", "modprobe")
#: Below the run directory: what containers of this host see as their settings.
CONTAINER_VIEW = "container.json"
_NULL_DEVICE = os.makedev(1, 3)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file that is not so yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def link(path: Path, target: str) -> None:
    """Make a symbolic link that is not so yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and str(path.readlink()) == target:
        return
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _prelude(host: HostConfig) -> str:
    return (
        "# SPDX-License-Identifier: Apache-2.0\n"
        "import sys\n"
        f"sys.pycache_prefix = {str(host.path(BYTECODE_DIR))!r}\n"
        f"sys.path.insert(0, {str(PACKAGE_PARENT)!r})\n"
        "from neuron_sim.commands import main\n"
    )


def _script(host: HostConfig, interpreter: str, name: str, release: str = "") -> str:
    call = f"main({name!r}, root={str(host.root)!r}, release={release!r})"
    return f"#!{interpreter}\n{_prelude(host)}sys.exit({call})\n"


def system_python() -> str:
    """The interpreter behind this process, outside of any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def install_tools(host: HostConfig) -> None:
    """The host's own commands, in ``/opt/aws/neuron/bin`` and, as the DLAMI links them, in ``/usr/bin``."""
    for name in HOST_TOOLS:
        write(host.path(f"/opt/aws/neuron/bin/{name}"), _script(host, f"{system_python()} -IS", name), 0o755)
        link(host.path(f"/usr/bin/{name}"), str(host.path(f"/opt/aws/neuron/bin/{name}")))


def install_kernel_tools(host: HostConfig) -> None:
    """What asks or tells the kernel about a module that no kernel here has loaded, and git for stand-ins of sources."""
    for name in (*KERNEL_TOOLS, *(["git"] if host.commits else [])):
        write(host.path(f"/usr/local/sbin/{name}"), _script(host, f"{system_python()} -IS", name), 0o755)


def install_container_engine(host: HostConfig) -> None:
    """What runs containers where there is no podman: on a host that is a directory."""
    write(host.path("/usr/bin/podman"), _script(host, f"{system_python()} -IS", "podman"), 0o755)


def install_devices(host: HostConfig) -> None:
    """``/dev/neuronN``: character nodes that behave as ``/dev/null`` does, or plain files where nodes are forbidden."""
    for device in instance_type(host.instance_type).devices:
        path = host.path(f"/dev/neuron{device.index}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, _NULL_DEVICE)
            except PermissionError:
                path.touch()
        with contextlib.suppress(PermissionError):
            path.chmod(0o666)


def _distributions(row: sdk.Release) -> dict[str, str]:
    found = {"vllm": row.vllm, "neuronx-cc": row.compiler}
    if row.nxdi:
        found["neuronx-distributed-inference"] = row.nxdi
    if row.plugin:
        found["vllm-neuron"] = row.plugin
    return found


def install_environment(host: HostConfig, row: sdk.Release, *, with_vllm: bool = True) -> None:
    """The virtual environment that the DLAMI ships for this release: a real one, its packages stand-ins."""
    venv = host.path(row.venv)
    python = system_python()
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = venv / "lib" / minor / "site-packages"
    if not with_vllm and not (venv / "bin" / "pip").exists():
        # vLLM is going to be built into it.
        subprocess.run([python, "-m", "venv", str(venv)], check=True)
    write(
        venv / "pyvenv.cfg",
        f"home = {Path(python).parent}\ninclude-system-site-packages = false\n"
        f"version = {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}\n",
    )
    link(venv / "bin" / "python", python)
    for name in ("python3", minor):
        link(venv / "bin" / name, "python")
    for name in _commands(row):
        if with_vllm or name != "vllm":
            write(venv / "bin" / name, _script(host, str(venv / "bin" / "python"), name, row.key), 0o755)
    _write_packages(host, row, site, with_vllm=with_vllm)


def _commands(row: sdk.Release) -> list[str]:
    return ["vllm", *(["inference_demo"] if row.nxdi else [])]


def _write_packages(host: HostConfig, row: sdk.Release, site: Path, *, with_vllm: bool = True) -> None:
    """The release's Python packages: their metadata, and the module that is started by its name."""
    for name, number in _distributions(row).items():
        if not with_vllm and name in ("vllm", "vllm-neuron"):
            continue
        info = site / f"{name.replace('-', '_')}-{number}.dist-info"
        write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        write(info / "INSTALLER", "pip\n")
    if not with_vllm:
        return
    write(site / "vllm" / "__init__.py", f'__version__ = "{row.vllm}"\n')
    for package in ("vllm/entrypoints", "vllm/entrypoints/openai"):
        write(site / package / "__init__.py", "")
    call = f"sys.exit(main('api_server', root={str(host.root)!r}, release={row.key!r}))"
    module = f'if __name__ == "__main__":\n    {call}\n'
    write(site / "vllm" / "entrypoints" / "openai" / "api_server.py", _prelude(host) + module)


def image_files(host: HostConfig, row: sdk.Release, folder: Path) -> list[Path]:
    """What the release's container image has of it, written below ``folder`` as below the image's root.

    The commands are on the search path there, for the system's Python, without a virtual environment.
    """
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in _commands(row):
        write(folder / "usr/local/bin" / name, _script(host, system_python(), name, row.key), 0o755)
    _write_packages(host, row, folder / "usr/local/lib" / minor / "dist-packages")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def install_container_view(host: HostConfig) -> None:
    """What a container of this host shares with it, as it would the driver: the settings file that it is to see.

    The engine in there is the simulated one, whatever the host's is: an image has none of the machine's packages.
    """
    seen = {
        "instance_type": host.instance_type,
        "logical_nc_config": host.logical_nc_config,
        "sdk_releases": list(host.sdk_releases),
        "engine": "simulated",
        "time_scale": host.time_scale,
        "instance_id": host.instance_id,
        "latency": host.latency,
    }
    write(host.run_dir / CONTAINER_VIEW, json.dumps(seen, indent=2) + "\n")
    faults.directories(host)[1].mkdir(parents=True, exist_ok=True)


def _compile_ahead(host: HostConfig) -> None:
    """Byte-compile the simulator once: the lab mounts it read-only, so its commands could never keep the result."""
    before = sys.pycache_prefix
    try:
        sys.pycache_prefix = str(host.path(BYTECODE_DIR))
        compileall.compile_dir(str(PACKAGE_PARENT / "neuron_sim"), quiet=2)
    finally:
        sys.pycache_prefix = before


def install(host: HostConfig) -> None:
    """Make everything that ``host`` says.

    Raises:
        ValueError: an instance type or SDK release that the lab does not know.
    """
    kind = instance_type(host.instance_type)
    rows = sdk.installed(host.sdk_releases)
    if str(host.root) == "/":
        Path(DEVICE_DIR).mkdir(exist_ok=True)
        link(Path(RUN_DIR), DEVICE_DIR)
    ownership.prepare(host, kind.physical_cores * len(kind.devices))
    install_kernel_tools(host)
    if host.start == "ready":
        install_devices(host)
        install_tools(host)
        packages.register(host, sdk.of_host(host.sdk_releases))
        sysfs.create(host)
        for row in rows:
            install_environment(host, row)
    else:
        from . import starts  # it needs this module

        starts.begin(host)
    install_container_view(host)
    _compile_ahead(host)
