# SPDX-License-Identifier: Apache-2.0
"""What a teardown leaves on a stand-in host: the difference to the host before is what docs/serving.md lists."""

from __future__ import annotations

import base64
import fnmatch
import json
from collections.abc import Iterator

import pytest

from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("teardown-lab")]

SECRETS = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "planted-key-of-the-store"}
TOKEN, KEY = "planted-token-of-the-hub", "planted-key-of-the-replicas"

#: Prints what a host has, as JSON: files, users, groups, units, packages and rules by name.
LOOK = """
import grp, json, os, pwd, stat, subprocess
skip = {"/proc", "/sys", "/dev", "/tmp", "/run", "/var/tmp", "/var/log/journal", "/var/cache", "/var/lib/apt"}
files = []
for folder, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in skip]
    files += [os.path.join(folder, name) for name in folders + names]
def said(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout
def lines(*argv):
    return sorted({line.split()[0] for line in said(*argv).splitlines() if line})
print(json.dumps({
    "files": sorted(files),
    "users": sorted(entry.pw_name for entry in pwd.getpwall()),
    "groups": sorted(entry.gr_name for entry in grp.getgrall()),
    "units": lines("systemctl", "list-unit-files", "--no-legend", "--plain"),
    "packages": lines("dpkg-query", "--show", "--showformat=${Package}\\n"),
    "rules": said("nft", "list", "ruleset") if os.path.exists("/usr/sbin/nft") else "",
}))
"""

#: What of ours may be there afterwards: the list in docs/serving.md, but for what needs disks of the host's own; globs.
OURS_THAT_STAY = [
    *("/data", "/data/*", "/etc/trainyard", "/usr/local/lib/trainyard"),
    *("/opt/trainyard", "/var/lib/trainyard", "/var/lib/trainyard/*", "/opt/aws*"),
    # Where the SDK's packages come from and at which versions: they stay, and so does what holds them.
    *("/etc/apt/preferences.d/trainyard-neuron", "/etc/apt/sources.list.d/trainyard-neuron.sources"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    variables = {
        "trainyard_aws_environment": SECRETS,
        "model_weights_hub_token": TOKEN,
        "vllm_endpoint_api_key": KEY,
        "load_balancer_upstream_key": KEY,
    }
    with stand_in("teardown", 1, "--time-scale", "0.01", **variables) as made:
        yield made


def look(lab: Lab) -> dict[str, list[str]]:
    packed = base64.b64encode(LOOK.encode()).decode()
    return dict(json.loads(lab.on("lab-1", f"echo {packed} | base64 -d | python3 -")))


def with_a_secret(lab: Lab) -> str:
    """The files that hold one of the planted secrets, and entries of the journal by who wrote them."""
    # Ansible logs what it runs: the pattern must find the secrets and not itself.
    found = "|".join(f"[{secret[0]}]{secret[1:]}" for secret in (SECRETS["AWS_SECRET_ACCESS_KEY"], TOKEN, KEY))
    places = "/etc /opt /usr/local /var/lib /var/log /home /root /run /data"
    entries = f"journalctl --all --output=short --no-pager | grep -E '{found}' | cut --characters=1-300"
    return lab.on("lab-1", f"grep -rlsE '{found}' {places} || true; {entries} || true")


def test_a_teardown_leaves_what_the_documentation_lists_and_no_credential(lab: Lab) -> None:
    before = look(lab)
    lab.play("site.yml", "--skip-tags=benchmark")
    there = with_a_secret(lab)
    for place in ("/etc/trainyard/credentials/weights.json", "/etc/trainyard/credentials/artifact.json", "/api-key"):
        assert place in there, there
    lab.play("playbooks/teardown.yml")
    after = look(lab)
    assert with_a_secret(lab) == ""

    packages = set(after["packages"]) - set(before["packages"])
    from_packages = set(lab.on("lab-1", f"dpkg --listfiles {' '.join(sorted(packages))} || true").splitlines())
    added = [path for path in after["files"] if path not in set(before["files"]) and path not in from_packages]
    ours = [path for path in added if any(word in path for word in ("trainyard", "vllm", "haproxy", "fence", "/data"))]
    assert [path for path in ours if not any(fnmatch.fnmatch(path, glob) for glob in OURS_THAT_STAY)] == []
    assert "haproxy" not in packages
    for kind in ("users", "groups"):
        new = set(after[kind]) - set(before[kind])
        assert not {name for name in new if "trainyard" in name or name == "vllm"}, new
    # A stand-in host has no disks of its own, and so not the boot unit of the data volume either.
    units = set(after["units"]) - set(before["units"])
    assert not {unit for unit in units if "trainyard" in unit or "vllm" in unit}, units
    assert "trainyard" not in after["rules"]

    again = lab.play("playbooks/teardown.yml")
    assert sum(stats["changed"] for stats in again["stats"].values()) == 0
