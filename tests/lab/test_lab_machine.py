# SPDX-License-Identifier: Apache-2.0
"""What the lab makes of a machine's facts."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from trainyard.lab import machine
from trainyard.lab.errors import LabError

V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nproc /proc proc rw 0 0\n"
HYBRID = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
V1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"


def a_machine(**changes: object) -> machine.Machine:
    facts: dict[str, object] = {
        "root": True,
        "sudo": False,
        "cgroups": "v2",
        "may_raise_limits": True,
        "nofile_hard": 1048576,
        "nproc_max": 32768,
        "apparmor": False,
        "runtime": "/usr/sbin/runc",
    }
    return machine.Machine(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("mounts", "kind"), [(V2, "v2"), (HYBRID, "hybrid"), (V1, "v1"), ("", "v2")])
def test_cgroup_kind_comes_from_the_mounts(mounts: str, kind: str) -> None:
    assert machine.cgroups_of(mounts) == kind


def test_plain_machine_gets_podman_as_it_is() -> None:
    plain = a_machine()
    assert plain.prefix() == []
    assert plain.containers_conf() is None
    assert plain.refusal() is None


def test_hybrid_cgroups_get_a_private_view_and_no_mount_of_the_machine_changes() -> None:
    words = a_machine(cgroups="hybrid").prefix()
    assert words[:2] == ["unshare", "--mount"]
    script = words[words.index("-euc") + 1]
    # The parent is made private before anything below it is unmounted: otherwise the machine would lose its cgroups.
    assert script.index("--make-rprivate /sys") < script.index("umount -R /sys/fs/cgroup")


def test_sudo_comes_before_everything_else() -> None:
    assert a_machine(root=False, sudo=True, cgroups="hybrid").prefix()[0] == "sudo"


def test_limits_that_root_may_not_raise_are_written_down() -> None:
    conf = a_machine(may_raise_limits=False, nofile_hard=20000, nproc_max=4096).containers_conf()
    assert conf is not None
    assert '"nofile=20000:20000", "nproc=4096:4096"' in conf


@pytest.mark.parametrize(
    ("status", "may"),
    [("CapBnd:\t000001fffeffffff\n", False), ("CapBnd:\t000001ffffffffff\n", True), ("Name:\tsh\n", False)],
)
def test_the_bounding_set_says_whether_limits_may_be_raised(status: str, *, may: bool) -> None:
    assert machine.may_raise_limits_of(status) is may


def test_without_root_and_sudo_the_lab_is_refused_with_the_way_out() -> None:
    refusal = a_machine(root=False).refusal()
    assert refusal is not None
    assert "run as root, or allow `sudo`" in refusal
    assert a_machine(root=False, sudo=True).refusal() is None


def test_missing_programs_are_named_by_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda program, **_: None if program == "newuidmap" else program)
    assert "uidmap" in machine.missing_packages()
    assert "podman" not in machine.missing_packages()


def test_without_apt_the_message_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda *_: None)
    with pytest.raises(LabError, match=r"podman mmdebstrap; this machine has no apt-get"):
        machine.install(["podman", "mmdebstrap"], a_machine())


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root folder that the machine's apt-get installs into, from one source that is there and one that is away."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("this machine has no apt")
    root, source = tmp_path / "root", tmp_path / "source"
    for folder in ("var/lib/dpkg/updates", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "etc/apt"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    (root / "var/lib/dpkg/info").mkdir()
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    control = "Package: lab-helper\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: a test's own\n"
    (content / "DEBIAN" / "control").write_text(control)
    (content / "helper").write_text("here\n")
    source.mkdir()
    package = source / "lab-helper.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", content, package], check=True, capture_output=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    listed = f"{control}Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    (source / "Packages").write_text(listed)
    (root / "etc/apt/sources.list").write_text(
        f"deb [trusted=yes] file:{source} ./\ndeb [trusted=yes] file:{tmp_path}/away ./\n"
    )
    configuration = tmp_path / "apt.conf"
    configuration.write_text(
        f'Dir "{root}";\nDir::State::status "{root}/var/lib/dpkg/status";\nDir::Log "{root}";\n'
        f'DPkg::Options {{ "--root={root}"; "--force-not-root"; "--force-bad-path"; "--log={root}/log"; }};\n'
        "#clear DPkg::Pre-Install-Pkgs;\n#clear DPkg::Post-Invoke;\n#clear APT::Update::Post-Invoke;\n"
        '#clear APT::Update::Post-Invoke-Success;\nAPT::Sandbox::User "";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    return root


def test_a_vendor_s_source_that_is_away_does_not_stop_the_installation(elsewhere: Path) -> None:
    update = subprocess.run(["apt-get", "update"], capture_output=True, text=True, check=False)
    assert update.returncode != 0, "the source is to be away"
    machine.install(["lab-helper"], a_machine())
    assert (elsewhere / "helper").read_text() == "here\n"


@pytest.mark.usefixtures("elsewhere")
def test_a_failed_installation_shows_what_apt_said() -> None:
    with pytest.raises(LabError, match="could not install netavark: E: Unable to locate package netavark"):
        machine.install(["netavark"], a_machine())
