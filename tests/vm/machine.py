# SPDX-License-Identifier: Apache-2.0
"""A virtual machine with emulated NVMe disks: what a container cannot be when disks are to be partitioned and raided.

Runs under plain emulation (TCG), so it needs no /dev/kvm. What it needs is installed where it is missing. Its image is
made once from this machine's own package sources and kept in the cache. Disks, the root disk too, are raw files of the
host: a test can compare their bytes and swap them for blank ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from trainyard.lab import machine as controller
from trainyard.lab.cache import cache_dir, digest, locked
from trainyard.lab.sources import of_machine

#: Programs of this machine, and the Debian packages that bring them.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh-keygen": "openssh-client",
}

#: What is in the virtual machine.
PACKAGES = (
    "systemd-sysv udev dbus libpam-systemd python3 python3-apt openssh-server sudo iproute2 kmod procps mdadm xfsprogs "
    "e2fsprogs lvm2 fdisk fio util-linux-extra ca-certificates initramfs-tools zstd linux-image-cloud-amd64"
)

#: Services that have nothing to do in a test machine and would only lengthen its boot.
MASKED = (
    "systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer "
    "e2scrub_reap.service systemd-pstore.service getty@tty1.service dpkg-db-backup.timer mdcheck_start.timer "
    "mdmonitor-oneshot.timer lvm2-monitor.service"
)

#: Runs inside the new root; `$1` is that root.
SETUP = f"""
set -eu
echo vm > "$1/etc/hostname"
printf '127.0.0.1 localhost vm\\n' > "$1/etc/hosts"
printf 'LABEL=root / ext4 defaults 0 1\\n' > "$1/etc/fstab"
printf '[Match]\\nName=eth*\\n[Network]\\nDHCP=yes\\n' > "$1/etc/systemd/network/eth.network"
mkdir -p "$1/root/.ssh"
cp "$KEY.pub" "$1/root/.ssh/authorized_keys"
chroot "$1" systemctl enable systemd-networkd ssh
for unit in {MASKED}; do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done
chroot "$1" systemd-machine-id-setup
"""

#: Emulated and on a busy machine a boot takes ten times what it takes on a quiet one, seconds.
BOOT_S = 900.0


@dataclass(frozen=True)
class Image:
    """What boots: kernel, initial ramdisk and root filesystem, and the key that logs in."""

    folder: Path

    @property
    def key(self) -> Path:
        """Private SSH key of root."""
        return self.folder / "id"

    @property
    def host_key(self) -> str:
        """Public host key of the machine, known before its first boot."""
        return (self.folder / "host_key.pub").read_text(encoding="utf-8").strip()


def install_tools() -> None:
    """Install what this machine lacks of the programs that make and run the virtual machine.

    Raises:
        LabError: it cannot be installed from here; with the names of the packages.
    """
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = sorted({package for program, package in TOOLS.items() if shutil.which(program, path=path) is None})
    if missing:
        controller.install(missing, controller.detect())


def image() -> Image:
    """Return the image, making it first where the cache has none (about three minutes, once)."""
    codename, sources = of_machine()
    lines = "".join(f"{source.line()}\n" for source in sources)
    folder = cache_dir() / f"vm-{digest(codename, lines, PACKAGES, SETUP)[:12]}"
    with locked("vm-image"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, codename, lines)
            (folder / "complete").touch()
    return Image(folder)


def _make(folder: Path, codename: str, sources: str) -> None:
    folder.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "id"], check=True)
    (folder / "sources.list").write_text(sources, encoding="utf-8")
    (folder / "setup.sh").write_text(SETUP.replace("$KEY", str(folder / "id")), encoding="utf-8")
    root = folder / "rootfs"
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
            "--aptopt=Acquire::Check-Valid-Until false",
            "--aptopt=Apt::Install-Recommends false",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            f"--include={','.join(PACKAGES.split())}",
            f'--customize-hook=sh {folder / "setup.sh"} "$1"',
            codename,
            root,
            folder / "sources.list",
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        shutil.copy(next((root / "boot").glob(pattern)), folder / name)
    shutil.copy(root / "etc" / "ssh" / "ssh_host_ed25519_key.pub", folder / "host_key.pub")
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, "-E", "lazy_itable_init=1", folder / "base.img", "3G"],
        check=True,
    )
    shutil.rmtree(root)


@dataclass
class Drive:
    """One emulated NVMe disk: a file, and the serial number that its guest sees."""

    serial: str
    path: Path
    bytes_per_s: int = 0

    def blank(self, size_bytes: int = 2**30) -> Drive:
        """Make the disk new: all zero, as a stopped and started instance gets its disks."""
        self.path.unlink(missing_ok=True)
        with self.path.open("wb") as file:
            file.truncate(size_bytes)
        return self

    def sha256(self) -> str:
        """Sum over every byte of the disk."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Machine:
    """One virtual machine; its root disk is a copy, so the image stays as it is."""

    image: Image
    folder: Path
    drives: list[Drive] = field(default_factory=list)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        copy = ["cp", "--sparse=always", "--reflink=auto", self.image.folder / "base.img", self.root.path]
        subprocess.run(copy, check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.image.host_key}\n", encoding="utf-8")

    @property
    def root(self) -> Drive:
        """The root disk: NVMe too, as an EBS volume is."""
        return Drive("vol0123456789abcdef0", self.folder / "root.img")

    @property
    def known_hosts(self) -> Path:
        """Host keys that the machine may have."""
        return self.folder / "known_hosts"

    @property
    def ssh_options(self) -> list[str]:
        """What `ssh` needs to know, host key checked."""
        return [
            *("-i", str(self.image.key), "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "IdentitiesOnly=yes"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=30", "-o", "BatchMode=yes"),
        ]

    def start(self) -> None:
        """Boot and wait for a login."""
        argv = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-cpu", "Nehalem", "-smp", "1", "-m", "1024"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{self.folder / 'console.log'}"]
        argv += ["-kernel", str(self.image.folder / "vmlinuz"), "-initrd", str(self.image.folder / "initrd")]
        argv += ["-append", "root=LABEL=root rw console=ttyS0 net.ifnames=0 systemd.default_timeout_start_sec=300"]
        argv += ["-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{self.port}-:22,restrict=on"]
        # Without its ROM, which is another package: nothing here boots from the network.
        argv += ["-device", "virtio-net-pci,netdev=n0,romfile=", "-object", "rng-random,filename=/dev/urandom,id=rng0"]
        argv += ["-device", "virtio-rng-pci,rng=rng0"]
        argv += ["-drive", f"file={self.root.path},if=none,id=root,format=raw,cache=unsafe"]
        argv += ["-device", f"nvme,serial={self.root.serial},drive=root"]
        for number, drive in enumerate(self.drives):
            limit = f",throttling.bps-total={drive.bytes_per_s}" if drive.bytes_per_s else ""
            argv += ["-drive", f"file={drive.path},if=none,id=d{number},format=raw,cache=unsafe{limit}"]
            argv += ["-device", f"nvme,serial={drive.serial},drive=d{number}"]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.await_login()

    def await_login(self) -> None:
        """Wait until the machine takes a login.

        Raises:
            AssertionError: it did not in time; with the end of its console.
        """
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline and self.running:
            if self.run("true", check=False).returncode == 0:
                return
            time.sleep(2)
        console = (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        raise AssertionError(f"no login after {BOOT_S:.0f} s; console: {console}")

    @property
    def running(self) -> bool:
        """Whether the emulator lives."""
        return self._process is not None and self._process.poll() is None

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the machine as root."""
        argv = ["ssh", *self.ssh_options, "-p", str(self.port), "root@127.0.0.1", command]
        result = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
        assert not check or result.returncode == 0, f"{command}: {result.stderr or result.stdout}"
        return result

    def reboot(self) -> None:
        """Restart from within; disks keep their content."""
        before = self.run("cat /proc/sys/kernel/random/boot_id").stdout
        self.run("systemctl reboot", check=False)
        deadline = time.monotonic() + BOOT_S
        while time.monotonic() < deadline:
            now = self.run("cat /proc/sys/kernel/random/boot_id", check=False)
            if now.returncode == 0 and now.stdout != before:
                return
            time.sleep(2)
        raise AssertionError("did not come back from a reboot")

    def stop(self) -> None:
        """Power off in an orderly way, as stopping an instance does."""
        if self.running:
            self.run("sync; systemctl poweroff", check=False)
            try:
                self._wait(300)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End the emulator."""
        if self._process is not None and self.running:
            self._process.kill()
            self._wait(30)

    def _wait(self, seconds: float) -> None:
        if self._process is not None:
            self._process.wait(timeout=seconds)

    def inventory(self) -> Path:
        """Return an inventory file with this one host."""
        host = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            # In memory: a test makes the root disk read-only.
            "ansible_remote_tmp": "/run/ansible",
            "ansible_ssh_common_args": " ".join(self.ssh_options),
        }
        path = self.folder / "inventory.json"
        path.write_text(json.dumps({"all": {"hosts": {"vm": host}}}), encoding="utf-8")
        return path
