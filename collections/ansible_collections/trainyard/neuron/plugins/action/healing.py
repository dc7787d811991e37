# SPDX-License-Identifier: Apache-2.0
"""Decides what is done about findings, and writes it down; the documentation is the module's of the same name."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.action.roll_plan import identity, reported
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import parse_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import HEAL
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import TopologyError, parse_topology
from ansible_collections.trainyard.neuron.plugins.plugin_utils import heal, history, run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.placement import (
    Slice,
    cores_of_devices,
    room_elsewhere,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import read_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Fleet as Rolled
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError, Seat

REPLICAS, DEVICES = "trainyard_replicas", "trainyard_devices"
FINDINGS, ANSWERS = "trainyard_findings", "trainyard_answers"
"""Variables in which hosts have what they said."""
READY = "ready"
ALERT, DRY_ALERT = "HealingNeedsYou", "WouldHeal"
"""Alerts that healing itself gives: somebody has to act, or what would be done."""


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs on the controller alone; what is decided is carried out by the playbook."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do one of the four parts of healing."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": ["found", "decided", "placed", "ended"], "required": True},
                "finding": {"type": "dict", "default": {}},
                "alerts": {"type": "list", "elements": "dict", "default": []},
                "findings": {"type": "list", "elements": "dict", "default": []},
                "hosts": {"type": "list", "elements": "str", "default": []},
                "routers": {"type": "list", "elements": "str", "default": []},
                "settings": {"type": "dict", "default": {}},
                "roll": {"type": "dict", "default": {}},
                "dry": {"type": "bool", "default": False},
                "healing": {"type": "dict", "default": {}},
                "failed": {"type": "bool", "default": False},
                "why": {"type": "str", "default": ""},
            }
        )
        variables = task_vars or {}
        try:
            found: dict[str, Any] = getattr(self, f"_{arguments['state']}")(arguments, variables)
        except (heal.FindingError, history.HistoryError, RollError, run_plan.RunPlanError, TopologyError) as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        return {"changed": False, **found}

    def _found(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Say what was found, and what hosts are to be asked about it."""
        del variables
        given = arguments["finding"]
        findings, unread = ([heal.finding_of(given)], []) if given else heal.findings_of(arguments["alerts"])
        for line in unread:
            self._display.warning(f"nothing is done about {line}")
        plan = run_plan.current()
        parts = plan.hosts({one.host for one in findings})
        asked: dict[str, list[dict[str, str]]] = {}
        for one in findings:
            for row in parts.get(one.host, {}).get("replicas", ()):
                if row["name"] == one.replica:
                    target = {"url": row["url"], "model": row["served_name"], "name": row["name"]}
                    if target not in asked.setdefault(one.host, []):
                        asked[one.host].append(target)
        return {
            "findings": [vars(one) for one in findings],
            "hosts": sorted(parts),
            "asked": asked,
            "msg": f"{len(findings)} findings: {', '.join(one.of for one in findings) or 'nothing is wrong'}",
        }

    def _decided(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Say what is done, and write that it begins."""
        findings = [heal.Finding(**one) for one in arguments["findings"]]
        limits, deadline_s = limits_of(arguments["settings"])
        file = self._file(variables)
        events = history.read(file)
        now_s = time.time()
        fleet = self._fleet(findings, arguments, variables["hostvars"])
        decisions = [heal.decide(one, fleet, events, limits, now_s) for one in findings]
        chosen = heal.choose(decisions)
        lines = [decision.line() for decision in decisions] or ["Nothing is to be healed."]
        for line in lines:
            self._display.display(line)
        told = [decision for decision in decisions if decision.page and decision.action == heal.NOTHING]
        dry = arguments["dry"] or bool(self._task.check_mode)
        acts = chosen is not None and chosen.action != heal.NOTHING
        if not self._task.check_mode:
            who = identity("heal")
            for decision in told:
                history.add(file, heal.event_of(decision, heal.TOLD, who["run"], who["owner"], now_s))
            if chosen is not None and acts:
                state = heal.WOULD if dry else heal.BEGUN
                history.add(file, heal.event_of(chosen, state, who["run"], who["owner"], now_s))
        if chosen is None or not acts or dry:
            would = [chosen] if dry and acts and chosen is not None else []
            return {"action": heal.NOTHING, "msg": lines, "tell": notices(told, would)}
        rows = run_plan.current().host(chosen.finding.host)["replicas"]
        return {
            "action": chosen.action,
            "decision": chosen.to_dict(),
            "host": chosen.finding.host,
            "device": chosen.finding.device,
            "why": chosen.why,
            "replicas": list(chosen.replicas),
            "units": [row["unit"] for row in rows],
            "unit_rows": [{"unit": row["unit"]} for row in rows],
            "found": found_of(rows, (reported(variables["hostvars"], chosen.finding.host, REPLICAS) or {})),
            "only": dict.fromkeys(chosen.replicas, chosen.why) if chosen.action == heal.RESTART else {},
            "roll": roll_settings(arguments["roll"], chosen.action, deadline_s),
            "msg": lines,
            "tell": notices(told, []),
        }

    def _placed(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Say which replicas the new plan puts elsewhere."""
        del variables
        healing = arguments["healing"]
        rows = run_plan.current().host(healing["host"])["replicas"]
        mine = healing["replicas"]
        only = {row["id"]: "" for row in rows if row["id"] in mine and moves(row, healing["found"].get(row["id"], {}))}
        stay = [
            row["id"]
            for row in rows
            if healing["action"] == heal.QUARANTINE and healing["device"] in row["devices"] and row["id"] not in only
        ]
        if stay:
            why = f"{', '.join(stay)} stay on the device: their deployment names its cores"
            return {"failed": True, "msg": why, "only": only}
        names = ", ".join(f"{row['id']} to cores {row['cores']}" for row in rows if row["id"] in only)
        return {"only": only, "msg": f"The plan moves {names or 'nobody'}."}

    def _ended(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Write how it came out."""
        raw = arguments["healing"]["decision"]
        decision = heal.Decision(
            **{**raw, "finding": heal.Finding(**raw["finding"])},
        )
        who, state = identity("heal"), heal.FAILED if arguments["failed"] else heal.DONE
        event = heal.event_of(decision, state, who["run"], who["owner"], time.time(), arguments["why"])
        if not self._task.check_mode:
            history.add(self._file(variables), event)
        self._display.display(f"{decision.finding.of}: {decision.action.replace('_', ' ')}: {state}")
        failed = [heal.Decision(heal.NOTHING, f"{decision.action} failed: {arguments['why']}", decision.finding)]
        return {"event": event, "tell": notices(failed if arguments["failed"] else [], [])}

    def _file(self, variables: Mapping[str, Any]) -> Path:
        words = {name: variables.get(name) for name in (history.VARIABLE, "ansible_inventory_sources")}
        return history.path_of({name: self._templar.template(word) for name, word in words.items() if word})

    def _fleet(self, findings: Sequence[heal.Finding], arguments: dict[str, Any], hostvars: Any) -> heal.Fleet:
        plan = run_plan.current()
        answers = {name: reported(hostvars, name, REPLICAS) for name in arguments["hosts"]}
        routers = {name: reported(hostvars, name, REPLICAS) for name in arguments["routers"]}
        parts = plan.hosts(answers)
        rolled = read_fleet(
            {"hosts": parts},
            {name: answer and answer["replicas"] for name, answer in answers.items()},
            {name: answer and answer["servers"] for name, answer in routers.items()},
        )
        about = {one.host for one in findings}
        devices: dict[tuple[str, int], heal.Device] = {}
        generates: dict[str, bool] = {}
        for host in about & set(parts):
            seen = hostvars[host].get(DEVICES) or {}
            for index, row in (seen.get("devices") or {}).items():
                words = {name: row[name] for name in ("repairable", "out", "replaced")}
                devices[(host, int(index))] = heal.Device(sick=tuple(row["sick"]), **words)
            asked = (hostvars[host].get(FINDINGS) or {}).get("asked", {}).get(host, ())
            generates |= answered(host, [row["name"] for row in asked], hostvars[host].get(ANSWERS) or {})
        room = self._room(findings, parts, devices)
        replicas = tuple(
            replica_of(row, host, rolled, generates, room) for host, part in parts.items() for row in part["replicas"]
        )
        return heal.Fleet(replicas, devices, tuple(parts), tuple(arguments["routers"]))

    def _room(
        self,
        findings: Sequence[heal.Finding],
        parts: Mapping[str, Any],
        devices: Mapping[tuple[str, int], heal.Device],
    ) -> dict[str, bool]:
        """Whether there is a slice elsewhere, for each replica on a device that is broken and in the plan."""
        found: dict[str, bool] = {}
        for host in {one.host for one in findings} & set(parts):
            said = (run_plan.reports().read([host]).get(host) or {}).get("topology")
            if not said or not said.get("devices"):
                continue
            topology, part = parse_topology(said), parts[host]
            broken = {index for (name, index), seen in devices.items() if name == host and (seen.sick or seen.out)}
            touched = [row for row in part["replicas"] if broken & set(row["devices"])]
            taken = {core for row in part["replicas"] for core in parse_ranges(row["cores"])}
            taken |= set(parse_ranges(part["reserved_cores"])) if part["reserved_cores"] else set()
            shunned = cores_of_devices(topology, broken)
            cores = [parse_ranges(row["cores"]) for row in touched]
            order = sorted(range(len(touched)), key=lambda index: -len(cores[index]))
            slices = [Slice(cores[index][0], len(cores[index])) for index in order]
            for index, free in zip(order, room_elsewhere(topology, slices, taken, shunned), strict=True):
                found[touched[index]["id"]] = free
        return found


def found_of(rows: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Cores and release that replicas have now, by id; what runs on none has no cores."""
    seen = answer.get("replicas") or {}
    return {row["id"]: {word: (seen.get(row["name"]) or {}).get(word) for word in ("cores", "current")} for row in rows}


def moves(row: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether the plan puts a replica on other cores than it has; of one that does not run, its release tells it."""
    cores = parse_ranges(row["cores"])
    if found.get("cores"):
        return [cores[0], cores[-1]] != list(found["cores"])
    return bool(found.get("current") != row["release"])


def limits_of(raw: Mapping[str, Any]) -> tuple[heal.Limits, float]:
    """The budget, and how long requests may take to end, in seconds.

    Raises:
        FindingError: settings that are none.
    """
    values, problems = HEAL.read(raw)
    if problems:
        raise heal.FindingError("\n".join(str(problem) for problem in problems))
    limits = heal.Limits(int(values["actions_per_hour"]), float(values["again_after_s"]))
    return limits, float(values["drain_deadline_s"])


def answered(host: str, asked: Sequence[str], result: Mapping[str, Any]) -> dict[str, bool]:
    """Which replicas of a host generated when they were asked, by id; nothing where the host could not ask them."""
    if "targets" not in result:
        return {}
    well = {str(row["name"]) for row in result["targets"]}
    return {f"{host}:{name}": name in well for name in asked}


def replica_of(
    row: Mapping[str, Any], host: str, rolled: Rolled, generates: Mapping[str, bool], room: Mapping[str, bool]
) -> heal.Replica:
    """A replica of the plan with what is known of it."""
    target = next(one for one in rolled.targets if one.id == row["id"])
    seats: Mapping[str, Seat] = rolled.seats_of(target)
    return heal.Replica(
        id=row["id"],
        host=host,
        name=row["name"],
        deployment=row["deployment"],
        served_name=row["served_name"],
        devices=tuple(row["devices"]),
        active=rolled.seen(target).active,
        serving=rolled.in_rotation(target),
        drained=any(seat.state != READY for seat in seats.values()),
        generates=generates.get(row["id"]),
        room=room.get(row["id"]),
    )


def roll_settings(raw: Mapping[str, Any], action: str, deadline_s: float) -> dict[str, Any]:
    """How replicas are rolled for healing: one by one, compared with nobody, on the release that all have."""
    policy = "abort" if action == heal.RESTART else "fail"
    more = {"strategy": "rolling", "at_once": 1, "canary_s": 0, "soak_s": 0}
    return {**raw, **more, "drain_deadline_s": deadline_s, "drain_policy": policy}


def notices(told: Sequence[heal.Decision], would: Sequence[heal.Decision]) -> list[dict[str, Any]]:
    """Alerts for Alertmanager: what a person has to do, and what a dry run would have done."""
    rows = [(ALERT, "page", decision) for decision in told] + [(DRY_ALERT, "info", decision) for decision in would]
    return [
        {
            "labels": {
                "alertname": name,
                "severity": severity,
                "host": decision.finding.host,
                **({"replica": decision.finding.replica} if decision.finding.replica else {}),
                **({"device": str(decision.finding.device)} if decision.finding.device is not None else {}),
            },
            "annotations": {"summary": decision.line(), "do": "playbooks/status.yml; `trainyard events`"},
        }
        for name, severity, decision in rows
    ]
