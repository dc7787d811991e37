# SPDX-License-Identifier: Apache-2.0
"""The image comes from where the machine's own packages come from, and from nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainyard.lab import sources
from trainyard.lab.errors import LabError

DEB822 = """\
# a snapshot
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://vendor.example/node
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/vendor.gpg

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""
ONE_LINE = """\
deb [arch=amd64 signed-by=/usr/share/keyrings/ubuntu-archive.gpg] http://mirror.example/ubuntu noble main universe
deb-src http://mirror.example/ubuntu noble main
# deb http://off.example/ubuntu noble main
deb http://vendor.example/cloud cloud-noble main  # another vendor's
"""


def test_paragraphs_become_lines_of_the_distribution_only() -> None:
    kept = sources.of_distribution(sources.parse_deb822(DEB822), "bookworm")
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert [source.line() for source in kept] == [
        f"deb {key} http://mirror.example/debian bookworm main contrib",
        f"deb {key} http://mirror.example/debian bookworm-updates main contrib",
        "deb http://mirror.example/debian-security bookworm-security main",
    ]


def test_lines_keep_the_options_that_an_image_needs() -> None:
    kept = sources.of_distribution(sources.parse_lines(ONE_LINE), "noble")
    assert [source.line() for source in kept] == [
        "deb [signed-by=/usr/share/keyrings/ubuntu-archive.gpg] http://mirror.example/ubuntu noble main universe"
    ]


def etc(folder: Path, release: str, **files: str) -> Path:
    (folder / "apt/sources.list.d").mkdir(parents=True)
    (folder / "os-release").write_text(release, encoding="utf-8")
    for name, text in files.items():
        (folder / "apt/sources.list.d" / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def test_machine_is_read_in_both_forms(tmp_path: Path) -> None:
    codename, found = sources.of_machine(
        etc(tmp_path, "ID=debian\nVERSION_CODENAME=bookworm\n", debian_sources=DEB822, more_list=ONE_LINE)
    )
    assert codename == "bookworm"
    assert len(found) == 3


def test_derivatives_use_the_codename_that_their_sources_have(tmp_path: Path) -> None:
    release = 'ID=mint\nID_LIKE="ubuntu debian"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\n'
    assert sources.of_machine(etc(tmp_path, release, u_list=ONE_LINE))[0] == "noble"


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ("ID=fedora\nPRETTY_NAME='Fedora Linux'\n", "Fedora Linux is neither Debian nor Ubuntu"),
        ("ID=debian\nVERSION_CODENAME=trixie\n", "no package source of trixie"),
    ],
)
def test_other_machines_are_told_of_the_base_image(tmp_path: Path, release: str, message: str) -> None:
    with pytest.raises(LabError, match=message) as caught:
        sources.of_machine(etc(tmp_path, release, debian_sources=DEB822))
    assert "TRAINYARD_LAB_BASE_IMAGE" in str(caught.value)
