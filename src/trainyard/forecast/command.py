# SPDX-License-Identifier: Apache-2.0
"""`trainyard forecast`: what deployments and their alternatives will do, with no host reached and none paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from trainyard import extra_vars, vault
from trainyard.forecast.what_if import Asked, forecasts
from trainyard.plan_command import TABLE_COLUMNS, planned_or_exit, read_fleet, refuse, use_vault

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import (  # isort: skip
    Field,
    Schema,
    number,
    optional,
    whole_number,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean  # isort: skip
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import OBJECTIVE, SWEEP_POINTS  # isort: skip
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import FAMILIES  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import (  # isort: skip
    Calibration,
    CalibrationError,
    published,
    read_calibration,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.planned import (  # isort: skip
    NoForecastError,
    deployments_of,
    family_of,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import FIELDS  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective  # isort: skip

#: Short words of `--slo`, and the objective's own.
LIMITS = {
    "ttft_ms": "time_to_first_token_ms",
    "tpot_ms": "time_per_output_token_ms",
    "request_ms": "request_latency_ms",
    "percentile": "percentile",
}
#: Batches that `--what-if` tries.
BATCHES = (1, 4, 8, 16)

_TOKENS = optional(number(1, 1 << 22))

#: What the command's numbers may be.
NUMBERS = Schema(
    "forecast",
    "What is forecast.",
    {
        "price": Field(optional(number(0, 1e6)), about="of one host", unit="US dollars an hour"),
        "input-tokens": Field(_TOKENS, about="of a prompt", unit="tokens"),
        "output-tokens": Field(_TOKENS, about="of an answer", unit="tokens"),
        "streams": Field(optional(whole_number(1, 1_000_000)), about="kept in flight", unit="streams"),
        "rate": Field(optional(number(1e-6, 1e6)), about="of an open loop", unit="requests per second"),
        "start-factor": Field(optional(number(0.01, 100)), about="of starts that were seen, over the forecast"),
        "compile-factor": Field(optional(number(0.01, 100)), about="of compiles that were seen, over the forecast"),
    },
    null_is_unset=True,
)


def objective_of(slo: list[str]) -> tuple[Objective | None, list[str]]:
    """Return the objective that `--slo` gives, and what is wrong with it."""
    given: dict[str, Any] = {}
    wrong = []
    for part in (part.strip() for text in slo for part in text.split(",")):
        word, equals, value = part.partition("=")
        try:
            figure = float(value)
        except ValueError:
            figure = None
        if word not in LIMITS:
            fix = did_you_mean(word, LIMITS) or f"give one of {', '.join(LIMITS)}"
            wrong.append(f"--slo {part}: {word or 'nothing'} is no limit: {fix}")
        elif not equals or figure is None:
            wrong.append(f"--slo {part}: must be {word}=NUMBER")
        elif LIMITS[word] in given:
            wrong.append(f"--slo {part}: {word} is there twice: remove one")
        else:
            given[LIMITS[word]] = figure
    if not given:
        return None, wrong
    values, problems = OBJECTIVE.read(given, "--slo")
    wrong += [str(one) for one in problems]
    return (None, wrong) if wrong else (Objective(**values), [])


def grid_of(tries: list[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """Return the fields that `--try` varies, and what is wrong with them."""
    grid: dict[str, list[Any]] = {}
    wrong = []
    for text in tries:
        word, _, values = text.partition("=")
        try:
            found = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            found = None
        if word not in FIELDS:
            fix = did_you_mean(word, FIELDS) or "name a field of the deployment"
            wrong.append(f"--try {text}: {word or 'nothing'} is no field of a deployment: {fix}")
        elif word in ("name", "served_name", "port"):
            wrong.append(f"--try {text}: {word} changes nothing that is forecast: remove it")
        elif not isinstance(found, list) or not 1 <= len(found) <= 100:
            wrong.append(f"--try {text}: must be {word}=VALUE,VALUE,... with 1 to 100 of them")
        elif word in grid:
            wrong.append(f"--try {text}: {word} is there twice: write its values after one")
        else:
            grid[word] = found
    count = 1
    for values_of in grid.values():
        count *= len(values_of)
    if count > SWEEP_POINTS:
        wrong.append(f"--try makes {count} combinations, and at most {SWEEP_POINTS} are forecast: take some away")
    return grid, wrong


def numbers_wrong(**given: Any) -> list[str]:
    """Return what is wrong with the command's numbers, lists of them taken one by one."""
    problems: list[Problem] = []
    for name, values in given.items():
        for value in values if isinstance(values, list) else [values]:
            problems += NUMBERS.read({name.replace("_", "-"): value}, "--")[1]
    return [str(one).replace("--.", "--") for one in problems]


def default_grid(plan: dict[str, Any], name: str) -> dict[str, list[Any]]:
    """Return what `--what-if` tries: the host's degrees, as many replicas as fit, some batches."""
    host = next(h for h in plan["hosts"].values() if any(r["deployment"] == name for r in h["replicas"]))
    try:
        degrees = list(FAMILIES[family_of(host["instance_type"])].legal_tensor_parallel)
    except NoForecastError:
        return {}
    return {"tensor_parallel_size": degrees, "data_parallel_size": ["fill"], "max_num_seqs": list(BATCHES)}


def calibration_or_exit(path: Path | None) -> Calibration:
    """Return the constants of a file, the published ones without it; typer.Exit with 2 where it is none."""
    try:
        return published() if path is None else read_calibration(path)
    except CalibrationError as error:
        raise refuse(str(error)) from error


def command(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    deployment: Annotated[
        list[str] | None, typer.Option("--deployment", "-d", help="Only this deployment; may be given several times.")
    ] = None,
    slo: Annotated[
        list[str] | None, typer.Option(help="Limits of a request, such as ttft_ms=2000,tpot_ms=50,percentile=90.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="USD an hour of one host, for USD per million tokens.")] = None,
    tries: Annotated[
        list[str] | None, typer.Option("--try", help="FIELD=VALUE,... of the deployment: forecast each combination.")
    ] = None,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Try the host's tensor parallel degrees and some batches.")
    ] = False,
    input_tokens: Annotated[list[float] | None, typer.Option(help="Length of the prompts; several are tried.")] = None,
    output_tokens: Annotated[list[float] | None, typer.Option(help="Length of the answers.")] = None,
    streams: Annotated[int | None, typer.Option(help="Requests kept in flight; else one for each sequence.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second that come by chance, instead.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Constants that `trainyard calibrate` wrote; else the published ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the forecasts as JSON.")] = False,
    model_configs: Annotated[
        Path | None, typer.Option(help="Directory with <repo>/<revision>/config.json of models.")
    ] = None,
    hub: Annotated[str, typer.Option(help="Fetch missing config.json files from this model hub.")] = "",
    variables: extra_vars.ExtraVars = None,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Forecast latency, tokens/s, the rate within an objective, USD per million tokens, memory and times of starts."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    extra_vars.use(variables)
    constants = calibration_or_exit(calibration)
    objective, wrong = objective_of(slo or [])
    grid, bad = grid_of(tries or [])
    wrong += bad
    wrong += numbers_wrong(
        price=price, input_tokens=input_tokens, output_tokens=output_tokens, streams=streams, rate=rate
    )
    if streams is not None and rate is not None:
        wrong.append("--streams and --rate are two kinds of load: give one")
    if what_if and tries:
        wrong.append("--what-if tries its own fields: give it or --try")
    if wrong:
        raise refuse("\n       ".join(wrong))
    known, plan = planned_or_exit(lambda: read_fleet(inventory, "neuron", "router", model_configs, hub), inventory)
    names = deployments_of(plan)
    for name in deployment or []:
        if name not in names:
            raise refuse(f"--deployment {name}: {did_you_mean(name, names) or 'the plan has ' + ', '.join(names)}")
    found = []
    for name in deployment or names:
        asked = Asked(
            grid=default_grid(plan, name) if what_if else grid,
            input_tokens=input_tokens or (),
            output_tokens=output_tokens or (),
            streams=streams,
            rate_per_s=rate,
            objective=objective,
            price_per_host_hour_usd=price,
        )
        found += list(forecasts(known, plan, name, asked, constants))
    if as_json:
        answer = {
            "called": "forecast",
            "provenance": constants.provenance,
            "fitted_to": constants.fitted_to,
            "errors": constants.errors.model_dump(),
            "forecasts": found,
        }
        typer.echo(json.dumps(answer, indent=2))
        return
    show(Console(highlight=False), found, constants)


FIGURES = (
    ("TTFT p50 ms", "time_to_first_token_p50_ms"),
    ("TTFT p90 ms", "time_to_first_token_p90_ms"),
    ("token ms", "time_per_output_token_p50_ms"),
    ("tokens/s", "output_tokens_per_s"),
    ("requests/s within the objective", "highest_rate_within_objective_per_s"),
    ("USD/1M tokens", "usd_per_million_output_tokens"),
    ("USD/1M within the objective", "usd_per_million_output_tokens_within_objective"),
    ("start s", "start_s"),
    ("compile s", "compile_s"),
)


def figure_text(value: float) -> str:
    """Return a figure with three digits that count."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"


def ranged(figure: dict[str, float] | None) -> str:
    """Return a figure for people: what is forecast, and the range in parentheses."""
    if figure is None:
        return "-"
    return f"{figure_text(figure['value'])} ({figure_text(figure['low'])} to {figure_text(figure['high'])})"


def label(one: dict[str, Any]) -> str:
    """Return what a forecast is of, in one line."""
    changes = " ".join(
        f"{name}={value}"
        for name, value in one["changes"].items()
        if name not in ("tensor_parallel_size", "data_parallel_size", "max_num_seqs")
    )
    if "tensor_parallel_size" not in one:
        return " ".join(f"{name}={value}" for name, value in one["changes"].items()) or one["deployment"]
    shape = f"TP {one['tensor_parallel_size']} x DP {one['data_parallel_size']}, batch {one['max_num_seqs']}"
    lengths = f"{one['input_tokens']:g} in, {one['output_tokens']:g} out"
    return ", ".join(filter(None, (shape, changes, lengths)))


def show(console: Console, found: list[dict[str, Any]], constants: Calibration) -> None:
    """Print forecasts for people: the deployment as planned in lines, its alternatives in a table."""
    errors = constants.errors
    for name in dict.fromkeys(one["deployment"] for one in found):
        mine = [one for one in found if one["deployment"] == name]
        console.print(f"[bold]{name}[/]: forecast, {constants.provenance}; nothing of it is measured")
        for one in (one for one in mine if not one["changes"]):
            _show_one(console, one)
        others = [one for one in mine if one["changes"]]
        if others:
            possible = best_first([one for one in others if "refused" not in one])
            if console.width >= 2 * TABLE_COLUMNS:
                console.print(_table(possible))
            else:
                for one in possible:
                    _show_one(console, one)
            for one in (one for one in others if "refused" in one):
                console.print(f"  out: {label(one)}: {one['refused']}", soft_wrap=True, markup=False)
        console.print()
    console.print(
        f"Ranges are the model's own errors: first tokens by a factor of {errors.prefill_factor:.3g}, tokens by "
        f"{errors.decode_factor:.3g} (worst point: {errors.worst_point}).",
        soft_wrap=True,
        markup=False,
    )


def _show_one(console: Console, one: dict[str, Any]) -> None:
    if "refused" in one:
        console.print(f"  no forecast: {one['refused']}", soft_wrap=True, markup=False)
        return
    console.print(f"  {label(one)}", soft_wrap=True, markup=False)
    for title, name in FIGURES:
        if one[name] is not None:
            console.print(f"    {title:32}{ranged(one[name])}", soft_wrap=True, markup=False)
    console.print(f"    {'HBM GiB a replica':32}{_memory(one)}", soft_wrap=True, markup=False)


def _memory(one: dict[str, Any]) -> str:
    needed = "-" if one["hbm_bytes_needed"] is None else f"~{one['hbm_bytes_needed'] / 2**30:.0f}"
    return f"{needed}/{one['hbm_bytes_available'] / 2**30:.0f}"


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    shown = [(title, name) for title, name in FIGURES if any(one[name] is not None for one in found)]
    table.add_column("FORECAST OF", overflow="fold")
    for title, _name in shown:
        table.add_column(title, overflow="fold")
    table.add_column("HBM GiB", overflow="fold")
    for one in found:
        table.add_row(label(one), *(ranged(one[name]) for _title, name in shown), _memory(one))
    return table


def best_first(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return forecasts by the rate within the objective where there is one, else by tokens/s, the best first."""

    def merit(one: dict[str, Any]) -> tuple[float, float]:
        rate = one["highest_rate_within_objective_per_s"]
        tokens = 0.0 if rate is None else rate["value"] * one["output_tokens"]
        return tokens, one["output_tokens_per_s"]["value"]

    return sorted(found, key=merit, reverse=True)
