# SPDX-License-Identifier: Apache-2.0
"""Plans a roll on the controller, from what the hosts and routers reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import block_end
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import GOLDEN, HOOK_KINDS, HOOKS
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import LEASE_S
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times, block_watch, run_lock, run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import (
    default_model_configs,
    read_model_configs,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.orders import RollOrder, Terms
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import (
    RollPlan,
    cannot_leave,
    in_rotation,
    not_in_one_roll,
    out_of_rotation,
    plan_roll,
    read_fleet,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import ELSEWHERE, Fleet, RollError, Settings
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.waves import Peer

VERBS = ("redeploy", "rollback", "status", "check", "leave")
LONGEST_WAIT_S = 86400.0
"""How long a drain with the policy to wait is taken to last; where it lasts longer, a lock may end meanwhile."""


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Read every host's report and plan; nothing runs on any host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the roll, and print it for people."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "hosts": {"type": "list", "elements": "str", "required": True},
                "routers": {"type": "list", "elements": "str", "default": []},
                "reports": {"type": "str", "default": "trainyard_replicas"},
                "verb": {"type": "str", "choices": list(VERBS), "default": "redeploy"},
                "leaving": {"type": "list", "elements": "str", "default": []},
                "beside": {"type": "list", "elements": "str", "default": []},
                "settings": {"type": "dict", "default": {}},
                "thresholds": {"type": "dict", "default": {}},
                "golden": {"type": "list", "elements": "str", "default": list(GOLDEN)},
                "hooks": {"type": "dict", "default": {}},
                "drained_elsewhere": {"type": "raw", "default": []},
                "staged": {"type": "bool", "default": True},
                "only": {"type": "dict", "default": {}},
            }
        )
        variables = task_vars or {}
        try:
            return self._planned(arguments, variables["hostvars"], variables["inventory_hostname"])
        except (RollError, run_plan.RunPlanError, block_times.EndError) as error:
            return {"failed": True, "changed": False, "msg": str(error)}

    def _planned(self, arguments: dict[str, Any], hostvars: Any, here: str) -> dict[str, Any]:
        reports = {name: reported(hostvars, name, arguments["reports"]) for name in arguments["hosts"]}
        routers = {name: reported(hostvars, name, arguments["reports"]) for name in arguments["routers"]}
        hooks = files(arguments["hooks"])
        fleet = read_fleet(
            wanted({"hosts": run_plan.current().hosts(reports)}, reports, arguments["verb"]),
            {name: None if answer is None else answer["replicas"] for name, answer in reports.items()},
            {name: None if answer is None else answer["servers"] for name, answer in routers.items()},
            elsewhere(hooks, named(arguments["drained_elsewhere"]), reports),
        )
        if arguments["verb"] == "check":
            problems = not_in_one_roll(fleet)
            if problems:
                raise RollError(problems)
            return {"changed": False}
        if arguments["verb"] == "status":
            told = overview(fleet, {**routers, **reports})
            blocks = block_times.blocks_of(hostvars, arguments["hosts"])
            told = with_blocks(told, blocks, block_times.now_utc(), watched_at(hostvars[here]))
            for line in told["msg"]:
                self._display.display(line)
            return {"changed": False, **told}
        settings = Settings.from_dict(arguments["settings"])
        if arguments["verb"] == "leave":
            problems = cannot_leave(fleet, arguments["leaving"], settings)
            if problems:
                raise RollError(problems)
            return {"changed": False}
        Thresholds.from_dict(arguments["thresholds"])
        beside = self._peers_elsewhere(arguments, hostvars, fleet)
        spares = arguments["verb"] == "redeploy"
        only = {str(name): str(why) for name, why in arguments["only"].items()} or None
        loads = forecast_loads(settings.calibration, run_plan.current().hosts(reports))
        staged = arguments["staged"]
        plan = plan_roll(fleet, settings, staged, beside, require_spares=spares, only=only, loads=loads)
        refuse_late(plan, hostvars, block_times.now_utc())
        order = ordered(plan, fleet, settings, {**arguments, "hooks": hooks, "lead": here}, identity(arguments["verb"]))
        for line in plan.lines():
            self._display.display(line)
        return {"changed": False, "msg": plan.lines(), "roll": order.to_dict()}

    def _peers_elsewhere(self, arguments: dict[str, Any], hostvars: Any, fleet: Fleet) -> list[Peer]:
        """Replicas that serve on hosts which have no part; one that does not answer has none to compare with."""
        names = [name for name in arguments["beside"] if name not in arguments["hosts"]]
        reports = {name: reported(hostvars, name, arguments["reports"]) for name in names}
        seen = {name: answer["replicas"] for name, answer in reports.items() if answer}
        others = read_fleet(wanted({"hosts": run_plan.current().hosts(seen)}, seen, "redeploy"), seen, {})
        return in_rotation(replace(others, seats=fleet.seats))


def forecast_loads(file: str | None, hosts: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return what starts are forecast to take by a file of constants, by replica's id; nothing without a file.

    Raises:
        RollError: the file is none of constants.
    """
    if file is None:
        return {}
    # Only here: a roll without a file needs no pydantic.
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import (
        CalibrationError,
        read_calibration,
    )
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.starts import loads_of, models_in

    try:
        constants = read_calibration(Path(file))
        return loads_of(hosts, constants, read_model_configs(default_model_configs(), models_in(hosts)))
    except (CalibrationError, PlanError) as error:
        raise RollError([f"trainyard_redeploy.calibration: {error}; nothing was rolled"]) from error


def files(raw: dict[str, Any]) -> dict[str, list[str]]:
    """The user's task files of each kind.

    Raises:
        RollError: a kind that does not exist, something that is no list of files, or a drain that nothing takes back.
    """
    values, problems = HOOKS.read(raw)
    if problems:
        raise RollError([str(problem) for problem in problems])
    return {name: list(values[name]) for name in HOOK_KINDS}


def elsewhere(hooks: dict[str, list[str]], asked: list[str], reports: dict[str, Any]) -> list[str] | None:
    """Replicas drained at routers that trainyard does not run; None where there are none such.

    Where nobody can be asked, what an unfinished roll took out and did not bring back counts as drained.
    """
    if not hooks["drain"]:
        return None
    if hooks["is_drained"]:
        return asked
    return [
        f"{host}:{name}"
        for host, answer in reports.items()
        for name, row in (answer or {}).get("replicas", {}).items()
        if (row.get("pending") or {}).get("admitted")
    ]


def named(raw: Any) -> list[str]:
    """Replicas that hooks found drained: a list of ids, or what a task registered with such a list as ``out``.

    Raises:
        RollError: it is neither; what is not understood must not pass for "none is drained".
    """
    rows = raw.get("results", [raw]) if isinstance(raw, dict) else [{"out": raw}]
    names: list[str] = []
    for row in rows:
        found = row.get("out")
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise RollError(
                [f"trainyard_drained_elsewhere is {raw!r}, not a list of replica ids, nor a result with `out`"]
            )
        names += found
    return names


def reported(hostvars: Any, name: str, register: str) -> Any:
    """What a host registered; None if it was not reached or its report failed."""
    answer = hostvars[name].get(register) if name in hostvars else None
    if not answer or answer.get("unreachable") or answer.get("failed") or "replicas" not in answer:
        return None
    return answer


def wanted(fleet: dict[str, Any], reports: dict[str, Any], verb: str) -> dict[str, Any]:
    """The plan's hosts that take part, and their replicas; for a rollback, at the release that each had before."""
    taking_part = {host: entry for host, entry in fleet["hosts"].items() if host in reports}
    if verb != "rollback":
        return {"hosts": taking_part}
    hosts: dict[str, Any] = {}
    for host, entry in taking_part.items():
        known = (reports.get(host) or {}).get("replicas", {})
        hosts[host] = {"memory": entry.get("memory")}
        for kind in ("replicas", "spares"):
            hosts[host][kind] = [
                {**item, "release": before(known.get(item["name"], {}))}
                for item in entry.get(kind, [])
                if before(known.get(item["name"], {}))
            ]
    return {"hosts": hosts}


def before(report: dict[str, Any]) -> str:
    """The release to go back to: the previous one, or, where there is none, the one that is current."""
    return str(report.get("previous") or report.get("current") or "")


def identity(verb: str) -> dict[str, Any]:
    """Who runs this: the run's id, user and controller, and the process that lives as long as the run."""
    claim = run_lock.claim_of(verb)
    return {"run": claim.run, "owner": claim.owner, "pid": claim.pid, "verb": verb}


def lease_s(settings: Settings) -> float:
    """How long a host's lock holds after a wave begins: as long as the longest wave may take, with the way back."""
    drain = LONGEST_WAIT_S if settings.drain_policy == "wait" else settings.drain_deadline_s
    # The routers' drain and the engine's; on the way back they are drained once more.
    replacement = 2 * drain + settings.stop_timeout_s + settings.start_timeout_s
    return max(LEASE_S, 2 * replacement + max(settings.canary_s, settings.soak_s))


def overview(fleet: Fleet, answers: Mapping[str, Any]) -> dict[str, Any]:
    """What serves and what does not, for people and for programs; who holds hosts, and whose journal is unreadable."""
    out = out_of_rotation(fleet)
    rows = []
    for target in fleet.targets:
        seen = fleet.seen(target)
        state = f"out: {out[target.id]}" if target.id in out else "in rotation"
        drift = "" if seen.running in ("", target.release) else f", wanted {target.release}"
        rows.append(f"{target.id}  {seen.active}  release {seen.running or 'none'}{drift}  {state}")
    for spare in fleet.spares:
        seen = fleet.seen(spare)
        if seen.running:
            rows.append(
                f"{spare.id}  {seen.active}  release {seen.running}  stands in for others until the next redeploy"
            )
    rows += held(answers)
    rows += [f"{name}: {answer['problem']}" for name, answer in answers.items() if answer and answer.get("problem")]
    return {
        "msg": [*rows, f"{len(fleet.targets) - len(out)} of {len(fleet.targets)} replicas are in rotation."],
        "out": out,
        "silent": list(fleet.silent),
    }


def watched_at(variables: Any) -> Path:
    """Where the watch over capacity blocks remembers: beside the first inventory of the run."""
    source = Path(str((variables.get("ansible_inventory_sources") or ["."])[0]))
    return (source if source.is_dir() else source.parent) / block_watch.NAME


def with_blocks(
    told: dict[str, Any], blocks: list[block_times.Block], now: datetime, watched: Path | None = None
) -> dict[str, Any]:
    """The overview, with how long hosts of capacity blocks stay, what they have cost, and whether somebody watches."""
    if not blocks:
        return told
    lines = [block.line(now) for block in blocks]
    lines += block_watch.lines(watched, blocks, now) if watched else []
    return {**told, "msg": [*told["msg"], *lines], "blocks": [block.to_dict(now) for block in blocks]}


def refuse_late(plan: RollPlan, hostvars: Any, now: datetime) -> None:
    """Refuse a roll of hosts that leave before it would be over.

    Raises:
        RollError: with the time that there is.
    """
    hosts = sorted({move.target.host for wave in plan.waves for move in wave.moves})
    end = block_times.first_end(hostvars, hosts)
    late = block_end.too_late(f"the roll of {len(hosts)} hosts", plan.seconds, now, end) if end else None
    if late:
        raise RollError([late])


def held(answers: Mapping[str, Any]) -> list[str]:
    """A line for each run that holds hosts: which ones, and who it is."""
    hosts: dict[str, list[str]] = {}
    words: dict[str, str] = {}
    for name, answer in answers.items():
        if answer and answer.get("held"):
            run = answer["holder"]["run"]
            hosts.setdefault(run, []).append(name)
            words.setdefault(run, answer["held"])
    return [f"{', '.join(names)}: held by {words[run]}" for run, names in hosts.items()]


def ordered(
    plan: RollPlan, fleet: Fleet, settings: Settings, arguments: dict[str, Any], run: dict[str, Any]
) -> RollOrder:
    """The plan with all that the playbook looks up: per wave, what each host and router has to do in it.

    The lead is the play's first host, so that its answer to a task that is done one host at a time comes before all
    others'.

    Raises:
        RollError: thresholds that make no sense.
    """
    seats = {router: tuple(servers) for router, servers in fleet.seats.items() if servers and router != ELSEWHERE}
    terms = Terms(
        **run,
        lease_s=lease_s(settings),
        lead=arguments["lead"],
        hosts=tuple(arguments["hosts"]),
        routers=tuple(seats),
        waves=len(plan.waves),
        settings=settings,
        thresholds=Thresholds.from_dict(arguments["thresholds"]),
        golden=tuple(arguments["golden"]),
        hooks={kind: tuple(names) for kind, names in arguments["hooks"].items()},
    )
    return RollOrder.of(plan, seats, terms)
