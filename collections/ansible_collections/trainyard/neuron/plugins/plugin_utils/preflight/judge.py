# SPDX-License-Identifier: Apache-2.0
"""What a host's answers mean for the plan: each trouble that a later stage would meet, in one line with its fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages, sdk
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem

#: The oldest HAProxy whose configuration this is, and the oldest Python of hosts' programs.
HAPROXY, PYTHON = (2, 6), (3, 9)

#: A clock that differs by more breaks signatures and certificates (AWS refuses 300 s) and every comparison of times.
SKEW_S = 30.0

#: Room of an image of a Neuron release while it is unpacked.
IMAGE_BYTES = 45 << 30

#: Room that models take at least whose size nobody knows: a volume that is full is none for them.
UNKNOWN_BYTES = 1 << 30

#: HAProxy of systems whose own is too old.
_OWN_HAPROXY = {"ubuntu 20.04": "2.0", "ubuntu 22.04": "2.4", "debian 10": "1.8", "debian 11": "2.2"}

#: What stands for a variable in the problem of a way between two hosts.
NETWORK = "network"

#: Units whose ports are the fleet's own.
_OURS = re.compile(r"(vllm@|trainyard-|haproxy\.service)")

#: Where nobody else reaches Prometheus, and where everybody does.
_NEAR, _EVERYWHERE = ("127.0.0.1", "::1", "localhost"), ("0.0.0.0", "::")  # noqa: S104 - compared with alone

_GIB = 1 << 30


@dataclass(frozen=True)
class Answered:
    """One host and what it said.

    Attributes:
        name: its inventory name.
        expect: what it is to have, as `questions_of` returns it.
        result: of `trainyard.neuron.topology_info`, with `answers`.
        before_s: the controller's time before it was asked, seconds since 1970.
        after_s: and after it answered.
        serves: whether it is to have replicas.
    """

    name: str
    expect: Mapping[str, Any]
    result: Mapping[str, Any]
    before_s: float
    after_s: float
    serves: bool = True
    answers: Mapping[str, Any] = field(default_factory=dict)

    def problem(self, variable: str, value: Any, rule: str, fix: str) -> Problem:
        """Return a problem of this host."""
        return Problem(self.name, variable, value, rule, fix)


def judge(host: Answered) -> list[Problem]:
    """Return every trouble of a host that was reached."""
    checks: list[Callable[[Answered], list[Problem]]] = [
        _clock,
        _python,
        _system,
        _ports,
        _room,
        _haproxy,
        _watch,
        _files,
        _said,
        _sources,
    ]
    if host.serves:
        checks[3:3] = [_driver, _environments, _disks, _space]
    return [problem for check in checks for problem in check(host)]


def unreached(name: str, message: str, by_sudo: bool = False, address: str = "") -> Problem:
    """Return the problem of a host that could not be asked.

    Args:
        name: its inventory name.
        message: why.
        by_sudo: it was reached, and its user may not become root.
        address: where it was looked for.
    """
    reason = " ".join(message.split())[:300]
    if by_sudo:
        fix = "let the user sudo without a password, or give it with --ask-become-pass (-K)"
        return Problem(name, "ansible_become", True, f"was reached, and sudo refuses: {reason}", fix)
    fix = "correct its address or key; start it; or leave it out: --limit, or trainyard_as_far_as_possible: true"
    return Problem(name, "ansible_host", address or name, f"cannot be asked: {reason}", fix)


def no_python(name: str, message: str) -> Problem:
    """Return the problem of a host that was reached, and on which no module runs."""
    reason = " ".join(message.split())[:300]
    fix = f"give it Python {PYTHON[0]}.{PYTHON[1]} or newer, and name it in ansible_python_interpreter"
    return Problem(name, "ansible_python_interpreter", None, f"was reached, and no module runs there: {reason}", fix)


def _clock(host: Answered) -> list[Problem]:
    said = float(host.answers.get("time_s") or 0)
    off = said - host.after_s if said > host.after_s else min(said - host.before_s, 0.0)
    if abs(off) <= SKEW_S:
        return []
    way = "ahead of" if off > 0 else "behind"
    rule = f"is {abs(off):.0f} s {way} this controller: signatures and certificates fail, and times cannot be compared"
    return [
        host.problem("clock", f"{off:+.0f} s", rule, "`timedatectl set-ntp true` there; look at the controller's too")
    ]


def _python(host: Answered) -> list[Problem]:
    version = _version(str(host.answers.get("python", "")))
    if not version or version >= PYTHON:
        return []
    rule = f"is too old for what runs there: {PYTHON[0]}.{PYTHON[1]} is needed"
    fix = "install a newer one, and name it in ansible_python_interpreter"
    return [host.problem("ansible_python_interpreter", host.answers["python"], rule, fix)]


def _system(host: Answered) -> list[Problem]:
    """Say of a system that it is none of those that the roles can install on."""
    told = host.answers.get("system") or {}
    lacking, name = told.get("lacking") or (), str(told.get("id") or "an unknown one")
    fix = "use Ubuntu 22.04 or 24.04, or Debian 12 or newer, there"
    if told and not told.get("manager"):
        return [host.problem("system", name, "has neither apt nor dnf, by which everything is installed", fix)]
    if told and told["manager"] != "apt" and lacking:
        rule = f"has no apt, by which {', '.join(lacking)} would be installed"
        return [host.problem("system", name, rule, fix)]
    return []


def _driver(host: Answered) -> list[Problem]:
    """Say of driver and runtime what keeps them from working once packages are as planned."""
    rows = [dict(row) for row in host.expect.get("sdk") or ()]
    if not rows:
        return []
    wanted = sdk.wanted_packages(rows)
    there: Mapping[str, str] = host.answers.get("packages") or {}
    found = {name: host_packages.Installed(version) for name, version in there.items()}
    install = dict(host_packages.changes(found, wanted).install)
    source = str(host.expect.get("package_source") or "")
    problems = []
    if not source:
        wrong = {name: there[name] for name in install if name in there}
        if wrong and not host.expect.get("allow_drift"):
            told = ", ".join(f"{name} {version}, not {wanted[name]}" for name, version in sorted(wrong.items()))
            fix = "use that release's machine image, or set neuron_venv_package_source to have them installed"
            problems.append(host.problem("sdk_release", _releases(rows), f"the host has {told}", fix))
        install = {}
    changes_driver = sdk.DRIVER in install
    problems += _in_use(host, {name: there[name] for name in install if name in there})
    if not host.result.get("available") and not changes_driver and not _will_be_loaded(host, there):
        problems += _not_loaded(host, there)
    loaded = None if changes_driver else host.result.get("driver_version") or None
    for said in sdk.skew_problems(rows, {**there, **install}, loaded):
        # An upgrade reboots the host itself where the kernel does not let go of a driver.
        if not host.expect.get("allow_drift") and not host.expect.get("upgrades"):
            fix = "reboot the host while nothing runs on it, or let `trainyard upgrade` do both"
            problems.append(host.problem("sdk_release", _releases(rows), said, fix))
    return problems


def _in_use(host: Answered, changing: Mapping[str, str]) -> list[Problem]:
    """Say who uses packages that are to change: only an upgrade takes replicas out of service for it."""
    told = host.answers.get("driver") or {}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(changing.items()))
    if not changing or host.expect.get("upgrades"):
        return []
    if told.get("replicas"):
        rule = f"{versions} would change, and {', '.join(told['replicas'])} run on it"
        return [host.problem("sdk_release", _releases(host.expect["sdk"]), rule, "let `trainyard upgrade` do it")]
    if told.get("holders") and sdk.DRIVER in changing:
        rule = f"would change, and is held by {', '.join(told['holders'])}"
        return [host.problem("driver", changing[sdk.DRIVER], rule, "stop them; the kernel lets go of it then")]
    return []


def _will_be_loaded(host: Answered, packages: Mapping[str, str]) -> bool:
    """Return whether this run gives the kernel the driver, which is built for it and not loaded."""
    told = host.answers.get("driver") or {}
    provisions = host.expect.get("verb") in ("site", "provision", "upgrade")
    return bool(provisions and sdk.DRIVER in packages and told.get("built") and not told.get("loaded"))


def _releases(rows: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({str(row["release"]) for row in rows}))


def _not_loaded(host: Answered, packages: Mapping[str, str]) -> list[Problem]:
    reason = str(host.result.get("reason") or "no device")
    if sdk.DRIVER not in packages and "is not installed" in reason:
        rule = f"{reason}, and nothing says where Neuron's packages come from"
        fix = "use Neuron's machine image, or set neuron_venv_package_source"
        return [host.problem("neuron_venv_package_source", "", rule, fix)]
    kernel = host.result.get("kernel", "")
    fix = "`modprobe neuron`"
    if host.answers.get("headers") is False:
        fix = f"`apt-get install linux-headers-{kernel} && dkms autoinstall && modprobe neuron`: the kernel is newer"
    return [host.problem("driver", host.result.get("driver_version") or "not loaded", reason, fix)]


def _environments(host: Answered) -> list[Problem]:
    return [
        host.problem(
            "sdk_release",
            release,
            said,
            "use the machine image of that release, or runtime: container where it has an image",
        )
        for release, said in sorted((host.answers.get("environments") or {}).items())
    ]


def _disks(host: Answered) -> list[Problem]:
    told = host.answers.get("disks") or {}
    refused = " ".join(str(told.get("refused") or "").split())
    if refused:
        fix = "what the line says; or nvme_raid_state: absent with a volume of your own at trainyard_data_dir"
        return [host.problem("trainyard_data_dir", host.expect["data_dir"], refused, fix)]
    if told and told.get("count") == 0 and not told.get("taken") and host.expect.get("when_no_disks") == "fail":
        rule = "the host has no instance-store disk to make the data volume of"
        fix = "mount storage there and set nvme_raid_when_no_disks: directory"
        return [host.problem("trainyard_data_dir", host.expect["data_dir"], rule, fix)]
    return []


def _space(host: Answered) -> list[Problem]:
    """Compare the room of the data volume, as it is or will be, with what the plan puts there."""
    told, memory = host.answers.get("space") or {}, host.expect.get("memory")
    volume = host.answers.get("disks") or {}
    if not told or _disks(host):
        return []
    lacking = sum(1 for there in (host.answers.get("images") or {}).values() if not there)
    known = int(memory["disk_peak_bytes"] or 0) if memory else 0
    least = UNKNOWN_BYTES if host.expect.get("sdk") and not known else known
    needed = least + lacking * IMAGE_BYTES
    room = int(told["free_bytes"]) + int(told["have_bytes"])
    if int(volume.get("count") or 0) > 0 and not volume.get("mounted"):
        room = int(volume["bytes"])
    if needed <= room:
        return []
    what = "weights, compiled models and images" if lacking else "weights and compiled models"
    about = "an estimated" if known else "at least"
    rule = f"has {room / _GIB:.0f} GiB for {what} that take {about} {needed / _GIB:.0f}"
    fix = "give it a larger volume, or serve fewer models there"
    return [host.problem("trainyard_data_dir", host.expect["data_dir"], rule, fix)]


def _room(host: Answered) -> list[Problem]:
    """Say of the system's own volumes that one is full, where packages or environments are to come."""
    space = host.answers.get("space") or {}
    told = {space.get("device")} if _space(host) else set()
    rule = "has {} MiB left for the packages and environments that are to come: at least 1 GiB"
    fix = "empty it (`apt-get clean`, `journalctl --vacuum-size=100M`), or give the volume more"
    return [
        host.problem("room", place, rule.format(row["free_bytes"] >> 20), fix)
        for place, row in sorted((host.answers.get("rooms") or {}).items())
        if row["free_bytes"] < UNKNOWN_BYTES and row["device"] not in told
    ]


def _ports(host: Answered) -> list[Problem]:
    problems = []
    for port, who in sorted((host.answers.get("ports") or {}).items()):
        if _OURS.match(str(who)):
            continue
        what = host.expect["ports"].get(port, "the plan")
        fix = f"stop it (`ss -ltnp 'sport = :{port}'`), or give {what} another port"
        problems.append(host.problem("port", int(port), f"is {what}'s, and {who} listens on it", fix))
    return problems


def _haproxy(host: Answered) -> list[Problem]:
    package = str(host.expect.get("haproxy") or "")
    offered = str((host.answers.get("candidates") or {}).get(package) or "")
    if not offered and "=" not in package:
        # Its lists are empty until somebody fetches them, as those of a new host are.
        offered = _OWN_HAPROXY.get(str((host.answers.get("system") or {}).get("id") or ""), "")
    version = _version(offered)
    if not version or version >= HAPROXY:
        return []
    rule = f"is what this system has; the router needs HAProxy {HAPROXY[0]}.{HAPROXY[1]} or newer"
    fix = (
        "add a source that has it (Ubuntu 22.04: ppa:vbernat/haproxy-3.0, and load_balancer_package: haproxy=3.0.*), "
        "or route on Ubuntu 24.04 or Debian 12"
    )
    return [host.problem("load_balancer_package", offered, rule, fix)]


def _watch(host: Answered) -> list[Problem]:
    """Say of Prometheus what keeps it from being reached where it is to be, or what must not be reached so."""
    watch = host.expect.get("watch")
    if not watch or watch["address"] in _NEAR:
        return []
    address, near = watch["address"], "leave it out, and come by SSH to the loopback"
    if not watch["guarded"]:
        rule = "is reached from elsewhere, and Prometheus tells everything to whoever asks"
        fix = f"give monitoring_users, monitoring_certificate and monitoring_certificate_key, or {near}"
        return [host.problem("monitoring_address", address, rule, fix)]
    own = (host.result.get("topology") or {}).get("addresses")
    if own and address not in (*own, *_EVERYWHERE):
        rule = f"is no address of the host, which has {', '.join(own)}: nothing could listen there"
        return [host.problem("monitoring_address", address, rule, f"give its own, or {near}")]
    return []


def _files(host: Answered) -> list[Problem]:
    rule, fix = "is not there, and its load would need it", "put it on that host, or correct the path"
    return [
        host.problem(str(row["variable"]), row["path"], rule, fix)
        for row in host.answers.get("files") or ()
        if not row["there"]
    ]


def _said(host: Answered) -> list[Problem]:
    """Say what of its variables cannot work, whatever the host is."""
    return [host.problem(*row) for row in host.expect.get("said") or ()]


def _version(text: str) -> tuple[int, int] | None:
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _sources(host: Answered) -> list[Problem]:
    wrong = [answer for answer in host.answers.get("sources") or () if answer["problem"]]
    # One line for each host that is not reached, whatever its ports.
    first = {str(one["url"]).rpartition(":")[0]: one for one in reversed(wrong) if one["kind"] == "port"}
    return [
        _source_problem(host, one)
        for one in wrong
        if one["kind"] != "port" or first[str(one["url"]).rpartition(":")[0]] is one
    ]


#: The variable that names a source, and what else can be done about one that does not have what is wanted.
_VARIABLES = {
    "packages": (
        "neuron_venv_package_source",
        "correct it and neuron_venv_package_suite (the code name of the system)",
    ),
    "page": ("neuron_venv_pip_index", "correct it and neuron_venv_source_base"),
    "image": ("trainyard_images", "give the digest that your registry has"),
    "checkpoint": ("model_weights_hub_endpoint", "correct the deployment's model.repo and model.revision"),
    "store": ("model_compile_store", "make it, or correct its name"),
    "bucket": ("model.uri", "put the checkpoint there, or correct the uri"),
    "index": ("index-url of pip", "name an index in /etc/pip.conf there"),
    "offered": ("apt's sources", "`apt-get update` there; else add a source that has it (Ubuntu: component universe)"),
    "archive": ("apt's sources", "`apt-get update` there; correct what it complains of"),
    "client": ("benchmark_llmperf_source", "name a mirror, or a directory or archive of it on that host"),
}

#: What keeps an answer away, whatever was asked.
_AWAY = {
    "name": ("its name is not known here ({detail})", "give the host a name server, or an address in {variable}"),
    "certificate": ("its certificate is not trusted here ({detail})", "add its authority to the host's certificates"),
    "unreachable": (
        "it does not answer ({detail})",
        "open the way out (security group, route, proxy), or set {variable}",
    ),
}

_WORDS = {
    "missing": "is not there ({detail})",
    "refused": "is refused to this host ({detail})",
    "version": "does not have {detail}",
    "credentials": "cannot be asked: {detail}",
    "gated": "is gated, and the token may not read it ({detail})",
}

#: By kind and problem, what is to be done where the kind's own fix is not it.
_FIXES = {
    ("checkpoint", "gated"): "accept its licence at {hub}/{repo} with the account of model_weights_hub_token",
    ("checkpoint", "refused"): "set model_weights_hub_token to a token of the hub that may read it",
    ("image", "refused"): "log the host in to that registry, or use a public one",
    ("store", "refused"): (
        "let the instance's role, or trainyard_aws_environment, list, get and put objects there "
        "(s3:ListBucket, s3:GetObject, s3:PutObject)"
    ),
    ("bucket", "refused"): (
        "let the instance's role, or trainyard_aws_environment, list and get objects there "
        "(s3:ListBucket, s3:GetObject)"
    ),
    ("bucket", "credentials"): "give the instance a role, or credentials in trainyard_aws_environment",
    ("store", "credentials"): "give the instance a role, or credentials in trainyard_aws_environment",
}


def _source_problem(host: Answered, answer: Mapping[str, Any]) -> Problem:
    kind, word = str(answer["kind"]), str(answer["problem"])
    detail = " ".join(str(answer["detail"]).split())[:200]
    if kind == "port":
        rule = f"{answer['what']} is not reached from here ({detail})"
        fix = "open that port between the two (security group, network ACL), or correct trainyard_address"
        return host.problem(NETWORK, answer["url"], rule, fix)
    variable, fix = _VARIABLES["packages" if kind == "rpms" else kind]
    if word in _AWAY:
        rule, fix = _AWAY[word]
    else:
        rule, fix = _WORDS[word], _FIXES.get((kind, word), fix)
    hub = str(answer["url"]).partition("/resolve/")[0].rpartition("/")[0].rpartition("/")[0]
    repo = str(answer["what"]).partition(" at ")[0]
    words = {"detail": detail, "variable": variable, "hub": hub, "repo": repo}
    return host.problem(variable, answer["url"], f"{answer['what']}: {rule.format(**words)}", fix.format(**words))
