# SPDX-License-Identifier: Apache-2.0
"""What is done about a finding: the least that helps, within a budget, or nothing and why. Pure; reaches no host.

A finding is somebody's word. It is acted on only where hosts themselves show the same, and where what is done takes
nothing from a model that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean

RESTART, DRAIN, READMIT, QUARANTINE, LIFT, REBOOT, NOTHING = (
    "restart_replica",
    "drain_replica",
    "readmit_replica",
    "quarantine_device",
    "lift_quarantine",
    "reboot_host",
    "nothing",
)
REPLACE = "replace_host"
#: What a finding may ask for; the label `finding` of an alert.
FINDINGS = (RESTART, DRAIN, QUARANTINE, LIFT, REBOOT, REPLACE)
OF_REPLICAS = (RESTART, DRAIN)
OF_DEVICES = (QUARANTINE, LIFT, REBOOT)
#: Those that restart replicas, drained, gated and readmitted as in any roll.
ROLLED = (RESTART, QUARANTINE, LIFT)

WHAT = "heal"
BEGUN, DONE, FAILED, TOLD, WOULD = "begun", "done", "failed", "told", "would"
#: The alert of a start that takes longer than it should; other findings of a replica that starts are over.
TOO_LONG = "StartTooLong"
_SWITCH = {"true": True, "yes": True, "false": False, "no": False}
HOUR_S = 3600.0
DAY_S = 86400.0
REPLACING = (
    "Replace the host: playbooks/launch.yml with another of the same shape, then site.yml; "
    "playbooks/evacuate.yml -e trainyard_only={0} takes this one out without cutting a request"
)


class FindingError(ValueError):
    """What was given is no finding: all that is wrong with it."""


@dataclass(frozen=True)
class Finding:
    """Something wrong that was seen.

    Attributes:
        finding: one of `FINDINGS`.
        host: where.
        replica: its name there; empty for findings of devices.
        device: its index; None for findings of replicas.
        alert: who says so.
        over: the alert does not fire any more.
    """

    finding: str
    host: str
    replica: str = ""
    device: Optional[int] = None
    alert: str = ""
    over: bool = False

    @property
    def of(self) -> str:
        """What it is about, for people."""
        if self.device is not None:
            return "%s:device %d" % (self.host, self.device)
        return "%s:%s" % (self.host, self.replica) if self.replica else self.host


@dataclass(frozen=True)
class Replica:
    """A replica of the plan, and what its host and the routers say of it.

    Attributes:
        devices: those that it has cores of.
        active: systemd's word.
        serving: whether routers send it requests.
        drained: whether a router was told to send it nothing.
        generates: whether it answered a completion just now; None where it was not asked.
        room: whether its host has a slice for it elsewhere; None where that was not asked.
    """

    id: str
    host: str
    name: str
    deployment: str
    served_name: str
    devices: Tuple[int, ...]
    active: str = "active"
    serving: bool = True
    drained: bool = False
    generates: Optional[bool] = None
    room: Optional[bool] = None

    @property
    def well(self) -> bool:
        """Whether its host shows nothing wrong with it."""
        return self.active == "active" and self.generates is True


@dataclass(frozen=True)
class Device:
    """A device as its host sees it: `watch.quarantine.Look`."""

    sick: Tuple[str, ...] = ()
    repairable: bool = False
    out: bool = False
    replaced: bool = False


@dataclass(frozen=True)
class Fleet:
    """What is known when it is decided.

    Attributes:
        replicas: of the plan.
        devices: of the hosts that findings are about, by host and index.
        hosts: of the plan.
        routers: hosts that route.
    """

    replicas: Tuple[Replica, ...]
    devices: Mapping[Tuple[str, int], Device] = field(default_factory=dict)
    hosts: Tuple[str, ...] = ()
    routers: Tuple[str, ...] = ()

    def of(self, host: str, name: str) -> Optional[Replica]:
        """A replica by host and name."""
        return next((one for one in self.replicas if (one.host, one.name) == (host, name)), None)

    def on(self, host: str, device: int) -> List[Replica]:
        """The replicas that have cores of a device."""
        return [one for one in self.replicas if one.host == host and device in one.devices]


@dataclass(frozen=True)
class Limits:
    """How much healing may do.

    Attributes:
        actions_per_hour: for each deployment; 0 for none.
        again_after_s: what was healed is not healed again within that time: it did not help.
    """

    actions_per_hour: int = 2
    again_after_s: float = HOUR_S


@dataclass(frozen=True)
class Decision:
    """What is to be done.

    Attributes:
        action: one of the words above; `NOTHING` where nothing is done.
        why: for people.
        finding: what it is about.
        replicas: ids of the replicas that it touches.
        deployments: theirs; their budgets are what it costs.
        page: whether a person has to act.
    """

    action: str
    why: str
    finding: Finding
    replicas: Tuple[str, ...] = ()
    deployments: Tuple[str, ...] = ()
    page: bool = False

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    def line(self) -> str:
        """The decision for people."""
        found = "%s (%s)" % (self.finding.of, self.finding.alert or self.finding.finding)
        if self.action == NOTHING:
            return "%s: nothing is done: %s" % (found, self.why)
        return "%s: %s: %s" % (found, self.action.replace("_", " "), self.why)


def finding_of(raw: Mapping[str, Any]) -> Finding:
    """Read a finding that a person or a rulebook gave: its words, or an alert's labels.

    Raises:
        FindingError: with all that is wrong.
    """
    known = {"finding", "host", "replica", "device", "alert", "over"}
    problems = [
        "trainyard_finding.%s: is no word of a finding: %s" % (name, did_you_mean(str(name), known) or ", ".join(known))
        for name in sorted(set(map(str, raw)) - known)
    ]
    kind, host = raw.get("finding"), raw.get("host")
    if not isinstance(kind, str) or kind not in FINDINGS:
        near = did_you_mean(str(kind), FINDINGS)
        said = "trainyard_finding.finding: %.80r is none of %s" % (kind, ", ".join(FINDINGS))
        problems.append("%s; %s" % (said, near) if near else said)
    if not isinstance(host, str) or not host:
        problems.append("trainyard_finding.host: %.80r is no host's name" % (host,))
    device = _index(raw.get("device"))
    if raw.get("device") not in (None, "") and device is None:
        problems.append("trainyard_finding.device: %.80r is no device's index" % (raw.get("device"),))
    if kind in OF_DEVICES and device is None:
        problems.append("trainyard_finding.device: %s needs one" % kind)
    if kind in OF_REPLICAS and not raw.get("replica"):
        problems.append("trainyard_finding.replica: %s needs one" % kind)
    over = _SWITCH.get(str(raw.get("over", False)).lower())
    if over is None:
        # Taken for false, an alarm that is over would be acted on.
        problems.append("trainyard_finding.over: %.80r is neither true nor false" % (raw["over"],))
    if problems:
        raise FindingError("\n".join(problems))
    replica, alert = (str(raw.get(word) or "") for word in ("replica", "alert"))
    return Finding(str(kind), str(host), replica, device, alert, bool(over))


def _index(value: Any) -> Optional[int]:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if 0 <= value < 1000 else None
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 4 else None


def findings_of(alerts: Iterable[Mapping[str, Any]]) -> Tuple[List[Finding], List[str]]:
    """The findings among the alerts of Alertmanager, the gravest first, and what is wrong with those that are none.

    An alert without the label `finding` asks for nothing, and is left out.

    Args:
        alerts: as its API v2 tells them.
    """
    order = {QUARANTINE: 0, REBOOT: 1, DRAIN: 2, RESTART: 3, LIFT: 4, REPLACE: 5}
    found, problems = [], []
    for alert in alerts:
        labels, status = (alert.get("labels"), alert.get("status") or {}) if isinstance(alert, Mapping) else ({}, {})
        if not isinstance(labels, Mapping) or not isinstance(status, Mapping):
            continue
        # Silenced or inhibited: a person, or a cause that is told already, stands before it.
        if status.get("state", "active") != "active" or "finding" not in labels:
            continue
        words = {name: labels[name] for name in ("finding", "host", "device") if name in labels}
        # The exporter that AWS ships knows a replica by its runtime's tag.
        replica = labels.get("replica") or labels.get("runtime_tag") or ""
        try:
            found.append(finding_of({**words, "replica": replica, "alert": labels.get("alertname", "")}))
        except FindingError as error:
            # Nobody would heal it, and nobody would know: a rule of the user's own misspelt its label.
            named = "%.80r" % (labels.get("alertname", ""),)
            problems += ["alert %s: %s" % (named, line) for line in str(error).splitlines()]
    found = list(dict.fromkeys(found))
    return sorted(found, key=lambda one: (order[one.finding], one.host, one.replica, one.device or 0)), problems


def decide(
    finding: Finding, fleet: Fleet, history: Sequence[Mapping[str, Any]], limits: Limits, now_s: float
) -> Decision:
    """Say what is to be done about a finding.

    Args:
        finding: what was seen.
        fleet: what hosts and routers say.
        history: events of the fleet, in order (`history.read`).
        limits: the budget.
        now_s: seconds since 1970.
    """
    if finding.host not in fleet.hosts:
        return _nothing(finding, "%s is no serving host of the plan" % finding.host)
    wanted = (
        _of_replica(finding, fleet, history)
        if finding.finding in OF_REPLICAS
        else _of_host(finding, fleet, history, now_s)
    )
    if wanted.action == NOTHING:
        return wanted
    refused = _refused(wanted, fleet, history, limits, now_s)
    return wanted if refused is None else refused


def _of_replica(finding: Finding, fleet: Fleet, history: Sequence[Mapping[str, Any]]) -> Decision:
    replica = fleet.of(finding.host, finding.replica)
    if replica is None:
        return _nothing(finding, "the plan has no such replica")
    if finding.finding == DRAIN:
        return _drain(finding, replica, history)
    if finding.over:
        return _nothing(finding, "it is over")
    if replica.well:
        return _nothing(finding, "a false alarm: it generates")
    if replica.active == "activating" and finding.alert != TOO_LONG:
        return _nothing(finding, "it is on its way up")
    if replica.active == "active" and replica.generates is None:
        return _nothing(finding, "nobody asked it, so whether it is true is not known", page=True)
    sick = [index for index in replica.devices if fleet.devices.get((replica.host, index), Device()).sick]
    sick = [index for index in sick if not fleet.devices[(replica.host, index)].out]
    if sick:
        # A restart on the same device would not help.
        cause = Finding(QUARANTINE, finding.host, device=sick[0], alert=finding.alert)
        return _device(cause, fleet)
    said = "its unit is %s" % replica.active if replica.active != "active" else "it answers no completion"
    return _act(RESTART, finding, [replica], said)


def _drain(finding: Finding, replica: Replica, history: Sequence[Mapping[str, Any]]) -> Decision:
    ours = _last(history, replica.id).get("action") == DRAIN
    if finding.over:
        if replica.drained and ours and replica.well:
            return _act(READMIT, finding, [replica], "what it was taken out for is over, and it generates")
        return _nothing(finding, "it is over")
    if replica.drained or not replica.serving:
        return _nothing(finding, "it serves nobody already")
    return _act(DRAIN, finding, [replica], "what it answers may be wrong")


def _of_host(finding: Finding, fleet: Fleet, history: Sequence[Mapping[str, Any]], now_s: float) -> Decision:
    if finding.finding == REPLACE or finding.device is None:
        if finding.over:
            return _nothing(finding, "it is over")
        return _nothing(finding, REPLACING.format(finding.host), page=True)
    device = fleet.devices.get((finding.host, finding.device))
    if device is None:
        return _nothing(finding, "the host shows no such device, or did not answer")
    if finding.finding == LIFT or finding.over:
        return _lift(finding, device, fleet)
    if device.out:
        return _nothing(finding, "it is out of the plan already")
    if not device.sick:
        return _nothing(finding, "a false alarm: the host shows nothing wrong with it")
    if device.repairable and not _rebooted(history, finding.host, now_s):
        there = [one for one in fleet.replicas if one.host == finding.host]
        return _act(REBOOT, finding, there, "a reboot repairs it (%s)" % ", ".join(device.sick))
    return _device(finding, fleet)


def _device(finding: Finding, fleet: Fleet) -> Decision:
    """What is done about a broken device: its replicas go elsewhere, or at least nobody is sent there."""
    if finding.device is None:
        raise AssertionError("a finding of a device names one")
    device = fleet.devices[(finding.host, finding.device)]
    touched = fleet.on(finding.host, finding.device)
    said = ", ".join(device.sick)
    if all(one.room for one in touched):
        return _act(QUARANTINE, finding, touched, "%s. %s" % (said, REPLACING.format(finding.host)))
    serving = [one for one in touched if one.serving]
    stay = ", ".join(one.id for one in touched)
    why = "%s, and no free slice for %s. %s" % (said, stay, REPLACING.format(finding.host))
    return _act(DRAIN, finding, serving, why, page=True) if serving else _nothing(finding, why, page=True)


def _lift(finding: Finding, device: Device, fleet: Fleet) -> Decision:
    if not (device.out or device.replaced):
        return _nothing(finding, "it is over" if finding.over else "it is not out of the plan")
    if device.out and device.sick:
        return _nothing(finding, "it is the same device still, and as broken as before: %s" % ", ".join(device.sick))
    if device.out and not finding.over:
        return _nothing(finding, "it is the same device still, and nobody says that it was a false alarm")
    touched = [one for one in fleet.replicas if one.host == finding.host]
    return _act(LIFT, finding, touched, "it was replaced" if device.replaced else "it was a false alarm")


def _act(action: str, finding: Finding, replicas: Sequence[Replica], why: str, page: bool = False) -> Decision:
    ids = tuple(one.id for one in replicas)
    deployments = tuple(sorted({one.deployment for one in replicas}))
    return Decision(action, why, finding, ids, deployments, page)


def _nothing(finding: Finding, why: str, page: bool = False) -> Decision:
    return Decision(NOTHING, why, finding, page=page)


def _refused(
    wanted: Decision, fleet: Fleet, history: Sequence[Mapping[str, Any]], limits: Limits, now_s: float
) -> Optional[Decision]:
    """Why what would help is not done; None where it may be."""

    def no(why: str) -> Decision:
        return _nothing(wanted.finding, "%s would help, and is not done: %s" % (wanted.action, why), page=True)

    acted = [event for event in history if _counts(event)]
    for name in wanted.deployments:
        recent = [event for event in acted if name in event["deployments"] and now_s - event["at_s"] < HOUR_S]
        if len(recent) >= limits.actions_per_hour:
            said = "%s had %d actions within an hour, and its budget is %d"
            return no(said % (name, len(recent), limits.actions_per_hour))
    names = {one.id: one.served_name for one in fleet.replicas}
    for event in _unfinished(acted, history):
        models = {names.get(one) for one in event["replicas"]} & {names[one] for one in wanted.replicas}
        if models and now_s - event["at_s"] < DAY_S and set(event["replicas"]) != set(wanted.replicas):
            said = "run %s began %s of another replica of the model and did not end it"
            return no(said % (event.get("run", "?"), event["action"]))
    if wanted.action in (LIFT, READMIT):
        return _floor(wanted, fleet, no) if wanted.action == LIFT else None
    about = (wanted.action, wanted.finding.host, wanted.finding.replica, wanted.finding.device)
    for event in acted:
        same = (event["action"], event.get("host"), event.get("replica") or "", event.get("device")) == about
        if same and now_s - event["at_s"] < limits.again_after_s:
            return no("it was done %.0f min ago, and did not help" % ((now_s - event["at_s"]) / 60))
    if wanted.action == REBOOT and wanted.finding.host in fleet.routers:
        return no("%s routes, and a reboot cuts every stream that it carries" % wanted.finding.host)
    return _floor(wanted, fleet, no)


def _floor(wanted: Decision, fleet: Fleet, no: Callable[[str], Decision]) -> Optional[Decision]:
    """Refuse what takes a replica that serves from a model that cannot spare it."""
    leaving = {one.id for one in fleet.replicas if one.id in wanted.replicas and one.serving}
    at_once = wanted.action in (DRAIN, REBOOT)
    for model in sorted({one.served_name for one in fleet.replicas if one.id in leaving}):
        mine = [one for one in fleet.replicas if one.served_name == model]
        going = [one for one in mine if one.id in leaving]
        left = sum(one.serving for one in mine) - (len(going) if at_once else 1)
        # Rolled ones leave one by one; those of a host that is rebooted leave together, and so count as one, with those
        # that are out there already: the reboot is to bring them back.
        together = sum(one.id in wanted.replicas for one in mine)
        floor = max(1, len(mine) - (together if at_once else 1))
        # What does not generate serves nobody, whatever its router thinks.
        if left < floor and any(one.generates is not False for one in going):
            out = ", ".join(one.id for one in mine if not one.serving) or "nobody"
            return no("%s would have %d of %d replicas left, and %s is out" % (model, left, len(mine), out))
    return None


def _counts(event: Mapping[str, Any]) -> bool:
    """Whether an event is an action that was begun, whatever came of it."""
    if (event.get("what"), event.get("state")) != (WHAT, BEGUN) or not isinstance(event.get("action"), str):
        return False
    lists = (event.get("deployments"), event.get("replicas"))
    return all(isinstance(one, list) and all(isinstance(name, str) for name in one) for one in lists)


def _unfinished(acted: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
    """Actions that were begun and of which nobody wrote how they came out."""
    ended = {
        str(event.get("run")) for event in history if event.get("what") == WHAT and event.get("state") in (DONE, FAILED)
    }
    return [event for event in acted if str(event.get("run")) not in ended]


def _last(history: Sequence[Mapping[str, Any]], replica: str) -> Mapping[str, Any]:
    """The last action on a replica."""
    return next((event for event in reversed(history) if _counts(event) and replica in event["replicas"]), {})


def _rebooted(history: Sequence[Mapping[str, Any]], host: str, now_s: float) -> bool:
    """Whether a host was rebooted for a finding within a day."""
    return any(
        _counts(event) and event.get("action") == REBOOT and event.get("host") == host and now_s - event["at_s"] < DAY_S
        for event in history
    )


def event_of(decision: Decision, state: str, run: str, owner: str, now_s: float, more: str = "") -> Dict[str, Any]:
    """A decision as the history has it.

    Args:
        decision: what is done, or not.
        state: one of `BEGUN`, `DONE`, `FAILED`, `TOLD`, `WOULD`.
        run: id of the run.
        owner: who runs it.
        now_s: seconds since 1970.
        more: how it came out, for people.
    """
    return {
        "at_s": round(now_s, 3),
        "what": WHAT,
        "state": state,
        "run": run,
        "who": owner,
        "action": decision.action,
        "finding": decision.finding.finding,
        "alert": decision.finding.alert,
        "host": decision.finding.host,
        "replica": decision.finding.replica,
        "device": decision.finding.device,
        "replicas": list(decision.replicas),
        "deployments": list(decision.deployments),
        "page": decision.page,
        "why": more or decision.why,
    }


def choose(decisions: Sequence[Decision]) -> Optional[Decision]:
    """The one of several decisions that a run carries out: the first that does something, else the first that pages."""
    for wanted in (lambda one: one.action != NOTHING, lambda one: one.page, lambda _one: True):
        for decision in decisions:
            if wanted(decision):
                return decision
    return None
