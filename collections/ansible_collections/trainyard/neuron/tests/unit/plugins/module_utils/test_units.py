# SPDX-License-Identifier: Apache-2.0
"""Decisions over what systemd reports, with a stand-in that moves its units as systemd does."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import units
from ansible_collections.trainyard.neuron.plugins.module_utils.units import Status, Wanted

RELEASE_2 = Wanted("a.service", expected_environment={"R": "2"})


def status(name: str = "a.service", active: str = "active", **given: object) -> Status:
    base = Status(name, "loaded", active, "running", "enabled", False, 11, "success", "0", 0, "Mon", "")
    return replace(base, **given)  # type: ignore[arg-type]


class FakeSystemd(units.Systemd):
    """Units move one state further each time they are looked at."""

    def __init__(self, *, scripts: dict[str, list[Status]]) -> None:
        self.scripts = scripts
        self.calls: list[str] = []

    def call(self, *arguments: str) -> str:
        self.calls.append(" ".join(word for word in arguments if word != "--"))
        return ""

    def show(self, names: Sequence[str]) -> list[Status]:
        return [self.scripts[name].pop(0) if len(self.scripts[name]) > 1 else self.scripts[name][0] for name in names]

    def journal(self, name: str, lines: int) -> list[str]:
        return ["an older line", f"{name} said this", "nrt_init failed"][-lines:]


def settings(**given: object) -> units.Settings:
    clock = iter(range(10_000))
    return replace(units.Settings(sleep=lambda _: None, clock=lambda: float(next(clock))), **given)  # type: ignore[arg-type]


def step(want: Wanted, found: Status, *paths: str) -> units.Step:
    return units.plan([want], [found], list(paths))[0]


def test_a_unit_that_runs_what_is_wanted_is_left_alone() -> None:
    want = Wanted("a.service", enabled=True, expected_environment={"R": "1"}, restart_on=("/etc/a/*",))
    found = status(environment={"R": "1", "OTHER": "x"})
    assert not step(want, found, "/etc/b/x").changes


@pytest.mark.parametrize(
    ("want", "found", "paths", "did", "why"),
    [
        (
            Wanted("a.service", expected_environment={"R": "2"}),
            status(environment={"R": "1"}),
            [],
            "restarted",
            "R 1 -> 2",
        ),
        (Wanted("a.service", expected_environment={"R": "2"}), status(), [], "restarted", "R (unset) -> 2"),
        (Wanted("a.service", restart_on=("/e/*",)), status(), ["/e/x"], "restarted", "/e/x changed"),
        (Wanted("a.service", reload_on=("/e/*",)), status(), ["/e/x"], "reloaded", "/e/x changed"),
        (Wanted("a.service"), status(drift="the table is gone"), [], "reloaded", "the table is gone"),
        (Wanted("a.service"), status(active="failed"), [], "started", "failed"),
        (Wanted("a.service", state="stopped"), status(), [], "stopped", "active"),
    ],
)
def test_what_is_done_and_why(want: Wanted, found: Status, paths: list[str], did: str, why: str) -> None:
    made = step(want, found, *paths)
    assert made.did() == [did]
    assert made.reasons == (why,)


def test_a_unit_on_its_way_up_with_the_old_release_is_restarted_not_waited_for() -> None:
    assert step(RELEASE_2, status(active="activating", environment={"R": "1"})).verb == "restart"
    assert step(RELEASE_2, status(active="activating", environment={"R": "2"})).verb == "start"


def test_enable_and_disable_are_changes_of_their_own() -> None:
    assert step(Wanted("a.service", enabled=True), status(file_state="disabled")).did() == ["enabled"]
    assert step(Wanted("a.service", "stopped", False), status(active="inactive")).did() == ["disabled"]
    assert not step(Wanted("a.service", enabled=True), status(file_state="static")).changes


def test_carrying_out_waits_for_the_restart_to_finish() -> None:
    want = Wanted("a.service", restart_on=("*",))
    before = status()
    systemd = FakeSystemd(
        scripts={
            "a.service": [
                status(busy=True),  # the restart job is queued and the old process still there
                status(active="deactivating", busy=True),
                status(active="activating", sub="start-post", busy=True, main_pid=12),
                status(main_pid=12),
            ]
        }
    )
    final = units.carry_out(systemd, units.plan([want], [before], ["x"]), True, settings())
    assert systemd.calls == ["daemon-reload", "restart --no-block a.service"]
    assert final[0].main_pid == 12


def test_none_starts_before_those_that_share_with_it_have_stopped() -> None:
    """TP 64 becomes TP 32: the new replica's cores are the old one's until that has stopped."""
    old, new, other = Wanted("vllm@0.service", restart_on=("x",)), Wanted("vllm@1.service"), Wanted("probe.service")
    steps = units.plan(
        [old, new, other],
        [status(old.name), status(new.name, "inactive"), status(other.name, "inactive")],
        ["x"],
    )
    systemd = FakeSystemd(
        scripts={
            old.name: [
                status(old.name, "deactivating", busy=True),
                status(old.name, "deactivating", busy=True),
                status(old.name, "inactive"),
                status(old.name),
            ],
            new.name: [status(new.name)],
            other.name: [status(other.name)],
        }
    )
    units.carry_out(systemd, steps, False, settings(stop_before_start=("vllm@*.service",)))
    assert systemd.calls == [
        "stop --no-block vllm@0.service",
        "start --no-block vllm@0.service",
        "start --no-block vllm@1.service",
        "start --no-block probe.service",
    ]
    assert systemd.scripts[old.name] == [status(old.name)]  # it was looked at until it was down, and then up


def test_one_that_will_not_stop_is_named_and_the_others_start_all_the_same() -> None:
    stuck, gone = Wanted("vllm@0.service", "stopped", timeout_s=5), Wanted("vllm@1.service")
    systemd = FakeSystemd(
        scripts={stuck.name: [status(stuck.name, "deactivating", busy=True)], gone.name: [status(gone.name)]}
    )
    steps = units.plan([stuck, gone], [status(stuck.name), status(gone.name, "inactive")], [])
    with pytest.raises(units.UnitError, match=r"vllm@0\.service is still deactivating"):
        units.carry_out(systemd, steps, False, settings(stop_before_start=("vllm@*",)))
    assert "start --no-block vllm@1.service" in systemd.calls


@pytest.mark.parametrize(
    "wanted",
    [
        [Wanted("vllm@0.service", restart_on=("x",))],
        [Wanted("vllm@0.service", restart_on=("x",)), Wanted("probe.service", restart_on=("x",))],
    ],
)
def test_one_that_restarts_alone_simply_restarts(wanted: list[Wanted]) -> None:
    found = [status(want.name) for want in wanted]
    systemd = FakeSystemd(scripts={row.name: [row] for row in found})
    units.carry_out(systemd, units.plan(wanted, found, ["x"]), False, settings(stop_before_start=("vllm@*",)))
    assert systemd.calls == [f"restart --no-block {want.name}" for want in wanted]


def test_a_unit_that_dies_while_starting_is_reported_with_its_last_words() -> None:
    dead = status(active="activating", sub="auto-restart", result="exit-code", exit_status="3", main_pid=0)
    systemd = FakeSystemd(scripts={"a.service": [status(active="activating", busy=True), dead]})
    with pytest.raises(units.UnitError) as caught:
        units.carry_out(systemd, [step(Wanted("a.service"), status(active="failed"))], False, settings())
    message = str(caught.value)
    assert "a.service died while starting (exit code 3)" in message
    assert "nrt_init failed" in message
    assert "Next: journalctl -u a.service" in message
    assert systemd.calls[0] == "reset-failed a.service"


def test_allowed_restarts_let_a_unit_recover_on_its_own() -> None:
    dying = status(active="activating", sub="auto-restart", result="signal", main_pid=0)
    systemd = FakeSystemd(scripts={"a.service": [dying, status(restarts=1)]})
    steps = [step(Wanted("a.service"), status(active="inactive"))]
    assert units.carry_out(systemd, steps, False, settings(allowed_restarts=1))[0].active == "active"


def test_the_deadline_is_kept_and_every_late_unit_is_named() -> None:
    late = {"busy": True, "sub": "start-post"}
    systemd = FakeSystemd(
        scripts={name: [status(name, "activating", **late)] for name in ("a.service", "b.service")}  # type: ignore[arg-type]
    )
    steps = [step(Wanted(name, timeout_s=5), status(name, "inactive")) for name in ("a.service", "b.service")]
    with pytest.raises(units.UnitError) as caught:
        units.carry_out(systemd, steps, False, settings())
    assert "a.service is still activating/start-post after 6 s" in str(caught.value)
    assert "b.service is still activating/start-post" in str(caught.value)


LOADING = {"active": "activating", "sub": "start-post", "busy": True, "text": "loading 3/8, 5 s of about 10 s (50 %)"}
DEAD = {"active": "failed", "sub": "failed", "exit_status": "3", "result": "exit-code"}


def test_what_is_still_on_its_way_is_left_to_a_later_call() -> None:
    loading = status(**LOADING)  # type: ignore[arg-type]
    systemd = FakeSystemd(scripts={"a.service": [loading]})
    limits = settings(wait_s=5)
    told = units.begin(systemd, [step(Wanted("a.service"), status(active="inactive"))], False, limits)
    left = units.wait(systemd, told, limits)
    assert [row.name for row in left.waits] == ["a.service"]
    assert units.Pending.of(json.loads(json.dumps(asdict(left)))) == left
    assert units.on_the_way(systemd, left, 9.0) == [{"name": "a.service", "progress": loading.text}]
    systemd.scripts["a.service"] = [status()]
    assert units.wait(systemd, left, limits).waits == ()
    assert systemd.calls == ["start --no-block a.service"], "waiting tells nobody anything"


@pytest.mark.parametrize("wait_s", [0, 1, 2, 3, 7, 50, None])
@pytest.mark.parametrize("end", [{}, DEAD, LOADING])
def test_waiting_in_pieces_comes_to_what_one_wait_comes_to(wait_s: float | None, end: dict[str, object]) -> None:
    """One dies at once, the other after some time, or never arrives: both are told of, at the same time."""

    class World(FakeSystemd):
        """Units whose state is a matter of time, as the clock has it."""

        now = 0.0

        def show(self, names: Sequence[str]) -> list[Status]:
            over = status(**end) if self.now >= 12 or end == LOADING else status(**LOADING)  # type: ignore[arg-type]
            rows = {"a.service": status(**DEAD), "b.service": over}  # type: ignore[arg-type]
            return [replace(rows[name], name=name) for name in names]

    def ended(limit_s: float | None) -> tuple[str, float]:
        systemd = World(scripts={})

        def sleep(seconds: float) -> None:
            systemd.now += seconds

        limits = units.Settings(sleep=sleep, clock=lambda: systemd.now, wait_s=limit_s)
        wanted = [Wanted(name, timeout_s=40) for name in ("a.service", "b.service")]
        steps = [step(want, status(want.name, "inactive")) for want in wanted]
        pending = units.begin(systemd, steps, False, limits)
        with pytest.raises(units.UnitError) as caught:
            while True:
                pending = units.wait(systemd, pending, limits)
                systemd.now += 0.7  # what it takes to run the module again
        return re.sub(r"\d+ s", "N s", str(caught.value)), systemd.now

    whole, pieces = ended(None), ended(wait_s)
    assert pieces[0] == whole[0]
    assert "a.service is failed (exit code 3)" in whole[0]
    assert ("b.service is still activating/start-post after N s" in whole[0]) == (end == LOADING)
    assert abs(pieces[1] - whole[1]) <= 4, "no piece begins the time anew"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (LOADING, "loading 3/8, 5 s of about 10 s (50 %)"),
        ({**LOADING, "text": ""}, "activating (start-post), 12 s"),
        ({**LOADING, "text": "\x1b[2J" + "x" * 999}, "?[2J" + "x" * 196),
        ({"active": "deactivating", "sub": "stop-post", "text": "ready after 9 s"}, "deactivating (stop-post), 12 s"),
        (
            {"active": "activating", "sub": "auto-restart", "text": "cores 0-3 are held"},
            "died (cores 0-3 are held), and systemd starts it again",
        ),
    ],
)
def test_how_far_a_unit_is_in_one_line(given: dict[str, object], line: str) -> None:
    assert units.progress(status(**given), 12.3) == line  # type: ignore[arg-type]


def test_a_start_that_a_boot_began_anew_has_its_whole_time() -> None:
    pending = units.Pending((units.Wait("a.service", "start", 30.0),), began_s=1e6)
    systemd = FakeSystemd(scripts={"a.service": [status(**LOADING)]})  # type: ignore[arg-type]
    assert units.wait(systemd, pending, settings(wait_s=3)).began_s == 0.0


def test_a_reload_is_waited_for_where_it_stands() -> None:
    names = ("a.service", "b.service", "c.service")
    systemd = FakeSystemd(scripts={name: [status(name)] for name in names})
    steps = [
        step(Wanted("a.service"), status("a.service", "inactive")),
        step(Wanted("b.service", reload_on=("*",)), status("b.service"), "x"),
        step(Wanted("c.service"), status("c.service", "inactive")),
    ]
    units.carry_out(systemd, steps, False, settings())
    assert systemd.calls == ["start --no-block a.service", "reload b.service", "start --no-block c.service"]


def test_a_daemon_reload_is_due_for_changed_unit_files_only() -> None:
    assert units.needs_daemon_reload([status(needs_reload=True)], [])
    assert units.needs_daemon_reload([status()], ["/etc/systemd/system/a.service.d/x.conf"])
    assert not units.needs_daemon_reload([status()], ["/etc/haproxy/haproxy.cfg"])


@pytest.mark.parametrize(
    ("command", "reasons"),
    [
        (("true",), ()),
        (("sh", "-c", "echo no >&2; echo the table is gone >&2; exit 1"), ("the table is gone",)),
        (("sh", "-c", "exit 3"), ("sh -c exit 3 failed",)),
        # Check mode may come before the files that the command is one of.
        (("/nowhere/fence",), ("/nowhere/fence: [Errno 2] No such file or directory: '/nowhere/fence'",)),
    ],
)
@pytest.mark.parametrize("check_mode", [True, False])
def test_what_a_unit_set_up_is_asked_for_and_set_up_again(
    command: tuple[str, ...], reasons: tuple[str, ...], check_mode: bool
) -> None:
    systemd = FakeSystemd(scripts={"a.service": [status()]})
    row = {"name": "a.service", "state": "started", "enabled": None, "expected_environment": {}, "timeout_s": None}
    params = {
        "units": [{**row, "restart_on": [], "reload_on": [], "reload_unless": list(command)}],
        "changed_paths": [],
        "prune": [],
        "timeout_s": 5,
        "allowed_restarts": 0,
        "journal_lines": 5,
        "daemon_reload_on": [],
        "stop_before_start": [],
        "wait_s": None,
    }
    done = units.converge(systemd, params, check_mode, diff=False)
    assert (done["changed"], tuple(done["units"][0]["reasons"])) == (bool(reasons), reasons)
    assert ("reload a.service" in systemd.calls) == (bool(reasons) and not check_mode)
