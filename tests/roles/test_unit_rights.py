# SPDX-License-Identifier: Apache-2.0
"""What every unit of every role may do, right by right: a budget of exposure has room for one that went unnoticed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.roles.render import render, replica
from tests.roles.test_job_units import VARIABLES
from tests.roles.test_vllm_endpoint import directives, unit_templates

#: What has nothing to do with rights; every other setting of a unit is held to the table.
PLAIN = re.compile(
    r"""Description|After|Before|Wants|Requires|Conflicts|BindsTo|PartOf|DefaultDependencies|RequiresMountsFor|WantedBy
    |StartLimit\w+|Type|Exec\w+|Environment\w*|Restart\w*|Timeout\w+|RuntimeDirectory(Preserve)?|StateDirectory
    |WorkingDirectory|Standard\w+|Nice|IOScheduling\w+|Limit\w+|MemoryMax|TasksMax|Kill\w+|SuccessExitStatus|Watchdog\w+
    |OOMPolicy|RemainAfterExit|CPUAffinity|NUMA\w+""".replace("\n", "").replace(" ", "")
)

COMMON: dict[str, list[str]] = {
    "NoNewPrivileges": ["yes"],
    "ProtectSystem": ["strict"],
    "ProtectHome": ["yes"],
    "PrivateTmp": ["yes"],
    "ProtectClock": ["yes"],
    "ProtectControlGroups": ["yes"],
    "ProtectHostname": ["yes"],
    "ProtectKernelLogs": ["yes"],
    "ProtectKernelModules": ["yes"],
    "ProtectKernelTunables": ["yes"],
    "CapabilityBoundingSet": [],
    "AmbientCapabilities": [],
    "LockPersonality": ["yes"],
    "RestrictNamespaces": ["yes"],
    "RestrictSUIDSGID": ["yes"],
    "RestrictAddressFamilies": ["AF_UNIX AF_INET AF_INET6 AF_NETLINK"],
    "SystemCallArchitectures": ["native"],
    "SystemCallFilter": ["@system-service"],
    "SystemCallErrorNumber": ["EPERM"],
    "RemoveIPC": ["yes"],
    "UMask": ["0027"],
}
METADATA = "169.254.169.254 169.254.170.2 169.254.170.23 fd00:ec2::254 fd00:ec2::23"
NEURON = {"DevicePolicy": ["closed"], "DeviceAllow": ["char-neuron rw"]}
NARROW = {
    "PrivateDevices": ["yes"],
    "ProtectProc": ["invisible"],
    "MemoryDenyWriteExecute": ["yes"],
    "RestrictRealtime": ["yes"],
}
FENCE = {
    **NARROW,
    "ProcSubset": ["pid"],
    "CapabilityBoundingSet": ["CAP_NET_ADMIN"],
    "RestrictAddressFamilies": ["AF_NETLINK"],
    # What it notes is read by everybody.
    "UMask": ["0027", "0022"],
}
JOB = {
    "PrivateDevices": ["yes"],
    "RestrictAddressFamilies": ["AF_INET AF_INET6 AF_UNIX"],
    # Programs of the toolkit's own, which serve nobody; their budgets count that they keep these.
    **dict.fromkeys(("AmbientCapabilities", "SystemCallFilter", "SystemCallErrorNumber", "RemoveIPC", "UMask")),
}

#: Each unit's difference from what all give up; None is a line that it does not have.
UNITS: dict[str, dict[str, list[str] | None]] = {
    "vllm@.service": {
        **NEURON,
        "User": ["vllm"],
        "Group": ["vllm"],
        "RuntimeDirectoryMode": ["0750"],
        "StateDirectoryMode": ["0750"],
        "NotifyAccess": ["exec"],
        "IPAddressDeny": [METADATA],
    },
    "trainyard-probe.service": {
        **NARROW,
        "User": ["vllm"],
        "Group": ["vllm"],
        "SupplementaryGroups": ["systemd-journal"],
        "RuntimeDirectoryMode": ["0755"],
        "NotifyAccess": ["main"],
    },
    "trainyard-fence.service": {**FENCE, "RuntimeDirectoryMode": ["0755"]},
    "trainyard-fence-hold.service": {**FENCE, "ReadWritePaths": ["-/run/trainyard-fence"]},
    "trainyard-fence-watch.service": {
        **FENCE,
        "ReadWritePaths": ["-/run/trainyard-fence"],
        "RestrictAddressFamilies": ["AF_NETLINK AF_UNIX"],
        "RuntimeDirectoryMode": ["0755"],
    },
    "trainyard.conf": {
        **{key: value for key, value in NARROW.items() if key != "MemoryDenyWriteExecute"},  # Lua may compile
        "DevicePolicy": ["closed"],
        "ReadWritePaths": ["/run"],
        "CapabilityBoundingSet": [
            "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_NET_BIND_SERVICE CAP_SETGID CAP_SETUID CAP_SYS_CHROOT"
        ],
        "SystemCallFilter": ["@system-service", "chroot"],
    },
    "trainyard-vllm-router@.service": {**NARROW, "ProcSubset": ["pid"], "DynamicUser": ["yes"]},
    "trainyard-monitor.service": {
        **NEURON,
        "User": ["root"],
        "RestrictRealtime": ["yes"],
        "IPAddressDeny": ["any"],
        "IPAddressAllow": ["localhost 10.0.0.0/16"],
        "CapabilityBoundingSet": ["CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"],
    },
    # Ansible at work for a person, whose home it needs, and whose other runs' semaphores it must not take away.
    "trainyard-block-watch.service": {
        "User": ["root"],
        "ProtectHome": None,
        "ProtectSystem": ["full"],
        "RemoveIPC": None,
    },
    "trainyard-prometheus.service": {
        **NARROW,
        "DynamicUser": ["yes"],
        "LoadCredential": [
            f"{name}:/etc/trainyard/monitoring/{name}" for name in ("web.json", "certificate.pem", "key.pem")
        ],
    },
    "trainyard-alertmanager.service": {
        **NARROW,
        "DynamicUser": ["yes"],
        "LoadCredential": ["alertmanager.json:/etc/trainyard/monitoring/alertmanager.json"],
    },
    "trainyard-exporter.service": {
        **{key: value for key, value in NARROW.items() if key != "PrivateDevices"},  # the kernel's log is one
        "User": ["root"],
        "RuntimeDirectoryMode": ["0755"],
        "DevicePolicy": ["closed"],
        "DeviceAllow": ["/dev/kmsg r"],
        "ProtectKernelLogs": ["yes", "no"],
        "CapabilityBoundingSet": ["CAP_DAC_READ_SEARCH CAP_SYSLOG"],
        "IPAddressDeny": ["any"],
        "IPAddressAllow": ["localhost 10.0.0.0/16"],
        "UMask": ["0027", "0022"],
    },
    "trainyard-weights@.service": {
        **JOB,
        "LoadCredential": ["environment:/etc/trainyard/credentials/weights.json"],
        "ReadWritePaths": ["/data/weights /var/log/trainyard"],
        "RestrictRealtime": ["yes"],
    },
    "trainyard-artifact@.service": {
        **JOB,
        "LoadCredential": ["environment:/etc/trainyard/credentials/artifact.json"],
        "ReadWritePaths": ["/data/artifacts /data/compile /var/log/trainyard"],
        "CapabilityBoundingSet": ["CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE"],
        "RestrictRealtime": ["yes"],
    },
    "trainyard-compile@.service": {
        **NEURON,
        "User": ["trainyard-compile"],
        "Group": ["trainyard-compile"],
        "LoadCredential": ["spec:/etc/trainyard/jobs/artifact-%i.json"],
        "IPAddressDeny": [METADATA],
        "PrivateNetwork": ["yes"],
        "ReadWritePaths": ["/data/artifacts/.%i.partial", "/data/compile/%i"],
    },
    "trainyard-build@.service": {
        # Builds of others' packages, whose scripts are many and old.
        **JOB,
        **dict.fromkeys(("ProtectClock", "ProtectHostname", "ProtectKernelLogs")),
        **dict.fromkeys(("RestrictSUIDSGID", "SystemCallArchitectures")),
        "LoadCredential": ["environment:/etc/trainyard/credentials/build.json"],
        "ReadWritePaths": ["/opt /var/log/trainyard"],
        "CapabilityBoundingSet": ["CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER"],
    },
    "trainyard-instance-store.service": {
        # It makes arrays and file systems and mounts them for all.
        **dict.fromkeys(("ProtectSystem", "ProtectHome", "PrivateTmp", "ProtectClock", "ProtectControlGroups")),
        **dict.fromkeys(("ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables")),
        **dict.fromkeys(("AmbientCapabilities", "RestrictNamespaces", "SystemCallFilter", "SystemCallErrorNumber")),
        **dict.fromkeys(("RemoveIPC", "UMask")),
        "CapabilityBoundingSet": ["CAP_SYS_ADMIN CAP_SYS_RAWIO CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER CAP_MKNOD"],
        "RestrictAddressFamilies": ["AF_UNIX AF_NETLINK"],
        "IPAddressDeny": ["any"],
        "RestrictRealtime": ["yes"],
        "MemoryDenyWriteExecute": ["yes"],
    },
    "trainyard-ray.service": {
        "RuntimeDirectoryMode": ["0700"],
        "DevicePolicy": ["closed"],
        "ReadWritePaths": ["/dev/shm"],  # noqa: S108 - where Ray shares memory
    },
}


def lines(path: Path) -> dict[str, list[str]]:
    """The settings of a rendered unit."""
    role = path.parts[-3]
    given: dict[str, Any] = {**VARIABLES.get(role, {})}
    if role == "vllm_endpoint":
        given["vllm_endpoint_replicas"] = [replica(0)]
    return directives(render(role, path.name, **given))


#: What a drop-in of one replica adds is told apart below.
TEMPLATES = {path.name.removesuffix(".j2"): path for path in unit_templates() if path.name != "replica.conf.j2"}


def test_every_unit_is_in_the_table() -> None:
    assert set(TEMPLATES) == set(UNITS)


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_a_unit_has_the_rights_that_it_needs_and_no_other(unit: str) -> None:
    own = UNITS[unit]
    wanted = {key: value for key, value in {**COMMON, **own}.items() if value is not None}
    assert {key: value for key, value in lines(TEMPLATES[unit]).items() if not PLAIN.fullmatch(key)} == wanted


@pytest.mark.parametrize("generation", ["nxdi_v0", "nxdi_v1", "native"])
@pytest.mark.parametrize("key", ["", "sk-a"])
def test_a_replica_of_a_venv_gets_a_key_and_its_cache_and_no_right_besides(generation: str, key: str) -> None:
    row = replica(0, generation=generation)
    given = {"vllm_endpoint_replicas": [row], "vllm_endpoint_api_key": key, "item": row, "host_release": "0123"}
    found = directives(render("vllm_endpoint", "replica.conf.j2", **given))
    wanted = {"LoadCredential": ["api-key:/etc/vllm/releases/0123/api-key"]} if key else {}
    if generation == "native":
        wanted["ReadWritePaths"] = [row["artifact_path"]]
    assert {name: value for name, value in found.items() if not PLAIN.fullmatch(name)} == wanted


def test_a_step_that_may_fail_is_one_that_guards_nothing() -> None:
    """`-` before a program: whatever it says, the unit goes on. Each of these tidies up or remembers."""
    ignored = {
        (unit, name, value.lstrip("-+").split()[0].rpartition("/")[2], value.split()[1] if " " in value else "")
        for unit, path in TEMPLATES.items()
        for name, values in lines(path).items()
        if name.startswith("Exec")
        for value in values
        if value.startswith("-")
    }
    assert ignored == {
        ("vllm@.service", "ExecStop", "touch", "/run/vllm/%i/stopping"),
        ("vllm@.service", "ExecStopPost", "setpriv", "--reuid=vllm"),
        ("trainyard-fence.service", "ExecStop", "nft", "delete"),
        ("trainyard.conf", "ExecStartPre", "router", "ports"),
        ("trainyard.conf", "ExecReload", "router", "save"),
        ("trainyard.conf", "ExecReload", "router", "ports"),
        ("trainyard.conf", "ExecStop", "router", "save"),
    }


#: What a unit runs, step by step; the last word of a reload is that it happens after the check.
STEPS = {
    "vllm@.service": {
        "ExecStartPre": ["/usr/local/lib/trainyard/replica check %i"],
        "ExecStart": ["/usr/local/lib/trainyard/replica launch %i"],
        "ExecStartPost": ["/usr/local/lib/trainyard/replica gate %i"],
    },
    "trainyard-fence.service": {
        "ExecStart": ["/usr/local/lib/trainyard/fence load"],
        "ExecReload": ["/usr/local/lib/trainyard/fence load"],
    },
    "trainyard-fence-hold.service": {"ExecStart": ["/usr/local/lib/trainyard/fence hold"]},
    "trainyard-fence-watch.service": {"ExecStart": ["/usr/local/lib/trainyard/fence watch"]},
    "trainyard-probe.service": {"ExecStart": ["/usr/local/lib/trainyard/replica watch"]},
}


@pytest.mark.parametrize("unit", sorted(STEPS))
def test_a_unit_looks_before_it_starts_and_gates_before_it_is_up(unit: str) -> None:
    found = lines(TEMPLATES[unit])
    assert {name: found.get(name) for name in STEPS[unit]} == STEPS[unit]


#: What a unit needs before it starts, and goes down with.
NEEDS = {
    "vllm@.service": {"Requires": ["trainyard-fence.service trainyard-fence-hold.service"]},
    "trainyard-probe.service": {"Requires": ["trainyard-fence.service"]},
    "trainyard-fence-hold.service": {"Requires": ["trainyard-fence.service"]},
    "trainyard-fence-watch.service": {"PartOf": ["trainyard-fence.service"]},
    "trainyard-compile@.service": {"BindsTo": ["trainyard-artifact@%i.service"]},
}


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_a_unit_depends_on_what_guards_it_and_on_nothing_else(unit: str) -> None:
    found = lines(TEMPLATES[unit])
    told = {key: found[key] for key in ("Requires", "BindsTo", "PartOf") if key in found}
    assert told == NEEDS.get(unit, {})


#: How a service that is up comes back, and what is killed with it.
ENDS = {
    "vllm@.service": {"Restart": ["always"], "KillMode": ["control-group"], "OOMPolicy": ["stop"]},
    "trainyard-probe.service": {"Restart": ["always"], "WatchdogSec": ["10"], "WatchdogSignal": ["SIGKILL"]},
    "trainyard-fence-watch.service": {"Restart": ["always"]},
    "trainyard-monitor.service": {"Restart": ["always"]},
    "trainyard-exporter.service": {"Restart": ["always"]},
    "trainyard-prometheus.service": {"Restart": ["always"]},
    "trainyard-alertmanager.service": {"Restart": ["always"]},
    "trainyard-vllm-router@.service": {"Restart": ["always"]},
    "trainyard-compile@.service": {"KillMode": ["control-group"]},
    "trainyard-ray.service": {
        "Restart": ["on-failure"],
        "KillSignal": ["SIGKILL"],
        "SuccessExitStatus": ["SIGKILL"],
    },
}


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_a_unit_ends_and_comes_back_as_it_should(unit: str) -> None:
    found = lines(TEMPLATES[unit])
    ends = re.compile(r"Restart|Kill\w+|OOMPolicy|Watchdog\w+|SuccessExitStatus")
    assert {key: value for key, value in found.items() if ends.fullmatch(key)} == ENDS.get(unit, {})
