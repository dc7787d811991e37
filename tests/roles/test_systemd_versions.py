# SPDX-License-Identifier: Apache-2.0
"""Every unit that the roles write, judged by the systemd of other distributions as by this machine's own.

Packages are unpacked, not installed, and a version's `systemd-analyze` runs by its own loader on its own libraries,
which needs no container. Debian's archive is the machine's own source or $TRAINYARD_DEBIAN_ARCHIVE; Ubuntu's is
$TRAINYARD_UBUNTU_ARCHIVE or, on Ubuntu, the machine's own source.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.roles import test_job_units, test_load_balancer, test_vllm_endpoint, test_vllm_router
from tests.roles.render import replica
from tests.roles.test_vllm_endpoint import GOLDEN_CASES, analyze, budget, planned, tree
from trainyard.lab.cache import cache_dir, digest, locked
from trainyard.lab.errors import LabError
from trainyard.lab.sources import apt_proxies, of_machine

pytestmark = [pytest.mark.lab, pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed")]

#: Where a version is to be had: distribution, suites (packages come from the last), and what is included.
REACHABLE = {
    249: ("ubuntu", ("jammy",), "systemd"),
    252: ("debian", ("bookworm",), "systemd"),
    254: (
        "debian",
        ("bookworm", "bookworm-backports"),
        "systemd/bookworm-backports,libsystemd0/bookworm-backports,libsystemd-shared/bookworm-backports",
    ),
    255: ("ubuntu", ("noble",), "systemd"),
    257: ("debian", ("trixie",), "systemd"),
}
VERSIONS = range(249, 258)
#: Since then it looks at units in another root directory, and judges their exposure without a running systemd.
ELSEWHERE_SINCE = 250


def archive(distribution: str) -> str:
    """The address of a distribution's archive; skips where nothing names one."""
    variable = f"TRAINYARD_{distribution.upper()}_ARCHIVE"
    if named := os.environ.get(variable):
        return named
    try:
        codename, sources = of_machine()
    except LabError:
        codename, sources = "", []
    own = (
        "debian"
        if codename in {suite for kind, suites, _ in REACHABLE.values() if kind == "debian" for suite in suites}
        else "ubuntu"
    )
    if own != distribution or not sources:
        pytest.skip(f"this machine has no source of {distribution}: set {variable} to the address of its archive")
    return next(source.uri for source in sources if source.suite == codename)


def unpacked(distribution: str, suites: tuple[str, ...], packages: str) -> Path:
    """A directory with packages and what they need, unpacked; kept for the next time."""
    lines = [f"deb [signed-by={keyring(distribution)}] {archive(distribution)} {suite} main" for suite in suites]
    root = cache_dir() / f"unpacked-{digest(packages, *lines)[:12]}"
    with locked(root.name):
        if root.is_dir():
            return root
        half = root.with_name(f".{root.name}")
        shutil.rmtree(half, ignore_errors=True)
        options = [f"--aptopt={option.rstrip(';')}" for option in apt_proxies()]
        command = ["mmdebstrap", "--quiet", "--variant=extract", *options, f"--include={packages}", suites[0]]
        done = subprocess.run([*command, str(half), *lines], capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines() or ["no reason given"]
            pytest.skip(f"{' and '.join(suites)} of {distribution} cannot be had here: {last[0]}")
        half.rename(root)
    return root


def keyring(distribution: str) -> Path:
    """The keys of a distribution's archive: this machine's, or those that Debian has of Ubuntu's."""
    name = f"usr/share/keyrings/{distribution}-archive-keyring.gpg"
    here = Path("/") / name
    if here.is_file() or distribution == "debian":
        return here
    return unpacked("debian", ("trixie",), "ubuntu-archive-keyring") / name


def analyzer(root: Path) -> tuple[str, ...]:
    """The command that runs an unpacked systemd-analyze on the libraries that came with it."""
    loaders = [path for at in (root, root / "usr") for path in at.glob("lib/*/ld-linux-*.so.*")]
    folders = [
        str(path) for at in ("lib", "usr/lib") for path in (*(root / at).glob("*-linux-gnu*"), root / at / "systemd")
    ]
    folders += [str(path) for path in root.glob("usr/lib/*-linux-gnu*/systemd")]
    return str(loaders[0]), "--library-path", ":".join(folders), str(root / "usr/bin/systemd-analyze")


class Judge:
    """One version of systemd."""

    def __init__(self, version: int, unpacked: Path, folder: Path) -> None:
        self.version, self.program = version, analyzer(unpacked)
        said = subprocess.run([*self.program, "--version"], capture_output=True, text=True, check=True).stdout
        assert said.startswith(f"systemd {version} ")
        self.root = folder / "root"
        if version < ELSEWHERE_SINCE:
            shutil.copytree(unpacked, self.root, symlinks=True, ignore=shutil.ignore_patterns("dev"))
            for name in ("proc", "run/systemd"):
                (self.root / name).mkdir(parents=True)

    def verify(self, root: Path, unit: str) -> str:
        """What it says of a unit in a root directory; empty if it understands all of it."""
        if self.version >= ELSEWHERE_SINCE:
            done = analyze("verify", root, unit, "--man=no", program=self.program)
        else:
            units = self.root / "etc/systemd/system"
            shutil.rmtree(units)
            shutil.copytree(root, self.root, dirs_exist_ok=True)
            # Its own root directory must be the one then.
            inside = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc=/proc", f"--root={self.root}"]
            done = subprocess.run(
                [*inside, "/usr/bin/systemd-analyze", "verify", "--man=no", unit],
                capture_output=True, text=True, check=False,
                env={"LC_ALL": "C", "PATH": os.environ["PATH"], "SYSTEMD_UNIT_PATH": "/etc/systemd/system"},
            )  # fmt: skip
        return done.stderr or (f"exit {done.returncode}" if done.returncode else "")

    def exposure(self, root: Path, unit: str, threshold: int) -> str:
        """What it says of a unit whose exposure is over the threshold; empty if it is not."""
        options = ("--offline=true", f"--threshold={threshold}", "--no-pager")
        done = analyze("security", root, unit, *options, program=self.program)
        return f"{done.stdout[-200:]}{done.stderr}" if done.returncode else ""


@pytest.fixture(scope="module", params=VERSIONS, ids="systemd-{}".format)
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    version: int = request.param
    if version not in REACHABLE:
        pytest.skip("only releases had it that have left their distribution's archive")
    return Judge(version, unpacked(*REACHABLE[version]), tmp_path_factory.mktemp("judge"))


class Case(NamedTuple):
    """A unit in a root directory, and the most that it may have of exposure."""

    name: str
    root: Path
    unit: str
    threshold: int


def cases(folder: Path) -> Iterator[Case]:
    """Every unit: replicas of each recipe, generation and runtime, and what stands beside them."""

    def made(name: str) -> Path:
        root = folder / re.sub(r"\W", "-", name)
        root.mkdir()
        return root

    for name, wanted in GOLDEN_CASES.items():
        row = planned(*wanted)[0]
        yield Case(name, tree(made(name), row, vllm_endpoint_api_key="k"), row["unit"], budget(row))
    for unit, threshold in test_vllm_endpoint.BUDGET.items():
        yield Case(unit, tree(made(unit), replica(0)), unit, threshold)
    for (role, unit), threshold in test_job_units.BUDGET.items():
        root = made(unit)
        yield Case(unit, root, test_job_units.tree(root, role, unit), threshold)
    root = made("haproxy")
    yield Case("haproxy", root, test_load_balancer.package_unit(root), test_load_balancer.BUDGET)
    root = made("vllm-router")
    yield Case("vllm-router", root, test_vllm_router.router_unit(root), test_vllm_router.BUDGET)


def test_it_understands_every_unit(judge: Judge, tmp_path: Path) -> None:
    said = {case.name: judge.verify(case.root, case.unit) for case in cases(tmp_path)}
    assert {name: text for name, text in said.items() if text} == {}


def test_it_finds_every_unit_within_its_budget(judge: Judge, tmp_path: Path) -> None:
    if judge.version < ELSEWHERE_SINCE:
        pytest.skip(f"systemd {judge.version} judges the exposure of loaded units alone")
    said = {case.name: judge.exposure(case.root, case.unit, case.threshold) for case in cases(tmp_path)}
    assert {name: text for name, text in said.items() if text} == {}


def test_it_would_notice_a_misspelt_key(judge: Judge, tmp_path: Path) -> None:
    root = tree(tmp_path, replica(0))
    unit = root / "etc/systemd/system/trainyard-probe.service"
    unit.write_text(unit.read_text().replace("Restart=always", "Retsart=always"))
    assert "Retsart" in judge.verify(root, unit.name)
