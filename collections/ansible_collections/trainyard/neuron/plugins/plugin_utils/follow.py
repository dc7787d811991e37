# SPDX-License-Identifier: Apache-2.0
"""Work that goes on by itself on a host: its module is run again until it has ended, and how far it is is printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import Fenced
from ansible_collections.trainyard.neuron.plugins.plugin_utils.screen import harmless

#: Seconds that one module run waits on the host: short at first so that what is quick ends quickly, then long, as each
#: run costs the host about 0.3 s of CPU time.
WAITS_S = (5, 10, 15, 30)


def wait_s(turn: int) -> int:
    """How long the module waits in its run of this number, from 0, in seconds."""
    return WAITS_S[min(turn, len(WAITS_S) - 1)]


def lines(host: str, running: list[Mapping[str, Any]]) -> list[str]:
    """The units that are on their way: their host, their names without what all have, how far they are.

    Units that are equally far share a line, in the order of the first of them.
    """
    alike: dict[str, list[str]] = {}
    for row in running:
        alike.setdefault(str(row["progress"]), []).append(str(row["name"]).removesuffix(".service"))
    return [harmless(f"  {host}: {', '.join(names)}: {progress}") for progress, names in alike.items()]


def with_states(result: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """A first result with the states that the units came to later; what was done, and why, stays as it was."""
    now = {row["name"]: row for row in later.get("units") or []}
    return {**result, "units": [{**row, **now.get(row["name"], {})} for row in result.get("units") or []]}


def failed_later(result: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The result of units that were told to start and failed: as if one module run had found so."""
    if "laid_out" not in result:
        return dict(later)
    laid_out = {key: value for key, value in result.items() if key not in ("units", "daemon_reload", "laid_out")}
    msg = f"{later.get('msg', '')}\n({result['laid_out']})"
    return {**laid_out, **later, "changed": result["changed"], "msg": msg}


class FollowsUnits(Fenced):
    """Goes on where a module left units on their way."""

    def follow(
        self, result: dict[str, Any], limits: Mapping[str, Any], task_vars: dict[str, Any] | None
    ) -> dict[str, Any]:
        """Return the result once no unit is on its way any more.

        Args:
            result: of the module's first run; where nothing is on its way it is the answer.
            limits: ``allowed_restarts`` and ``journal_lines`` of the task, where it has them.
            task_vars: of the task.
        """
        host = str((task_vars or {}).get("inventory_hostname", "host"))

        def again(pending: Any, wait_s: int) -> dict[str, Any]:
            given = {"units": [], "pending": pending, "wait_s": wait_s}
            given |= {key: limits[key] for key in ("allowed_restarts", "journal_lines") if key in limits}
            later: dict[str, Any] = self._execute_module(
                module_name="trainyard.neuron.units", module_args=given, task_vars=task_vars
            )
            return later

        return followed(result, again, lambda running: [self._display.display(line) for line in lines(host, running)])


def followed(
    result: dict[str, Any], again: Callable[[Any, int], dict[str, Any]], say: Callable[[list[Mapping[str, Any]]], Any]
) -> dict[str, Any]:
    """Run a module again while it leaves units on their way.

    Args:
        result: of its first run.
        again: runs it for what is pending, for so many seconds at most.
        say: prints how far units are.
    """
    turn = 1
    pending = result.pop("pending", None)
    running = result.pop("running", [])
    while pending:
        say(running)
        later = again(pending, wait_s(turn))
        if later.get("failed"):
            return failed_later(result, later)
        result = with_states(result, later)
        pending, running, turn = later.get("pending"), later.get("running", []), turn + 1
    result.pop("laid_out", None)
    return result


def moved(
    moves: list[dict[str, Any]],
    run: Callable[[list[dict[str, Any]], int], dict[str, Any]],
    say: Callable[[list[Mapping[str, Any]]], Any],
) -> dict[str, Any]:
    """Replace replicas, running the module again for those that are still starting.

    Args:
        moves: what the module is to do, a dictionary for each replica.
        run: runs the module for some of them, waiting for starts so many seconds at most.
        say: prints how far replicas are.

    Returns:
        What one run of the module would have returned that had waited for all of them.
    """
    answer = run(moves, wait_s(0))
    rows: dict[str, dict[str, Any]] = {row["id"]: row for row in answer.get("replicas") or []}
    turn, lost = 1, bool(answer.get("lock_lost"))
    while begun := {name: row["begun_s"] for name, row in rows.items() if "begun_s" in row}:
        say(
            [
                {"name": f"vllm@{row['name']}", "progress": row["progress"]}
                for row in rows.values()
                if row["id"] in begun
            ]
        )
        later = run([{**move, "begun_s": begun[move["id"]]} for move in moves if move["id"] in begun], wait_s(turn))
        found = {row["id"]: row for row in later.get("replicas") or []}
        if not set(begun) <= set(found):
            # The module could not begin, as where the lock is another run's: of these nothing more is known.
            return {**answer, **later, "replicas": [row for row in rows.values() if row["id"] not in begun]}
        rows |= {name: _moved_on(rows[name], found[name]) for name in begun}
        turn, lost = turn + 1, lost or bool(later.get("lock_lost"))
    if turn == 1:
        return answer
    errors = [f"{row['name']}: {row['error']}" for row in rows.values() if row.get("error")]
    ended = {"failed": True, "msg": "\n".join(errors)} if errors else {}
    return {**answer, **ended, **({"lock_lost": True} if lost else {}), "replicas": list(rows.values())}


def _moved_on(row: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """What is known of a replica after a further run: what came before its start stays as it was."""
    before = {key: value for key, value in row.items() if key not in ("begun_s", "progress")}
    seconds = {**(row.get("seconds") or {}), **(later.get("seconds") or {})}
    notes = [*(row.get("notes") or []), *(later.get("notes") or [])]
    return {**before, **later, "changed": True, "cut_off": row.get("cut_off", 0), "seconds": seconds, "notes": notes}
