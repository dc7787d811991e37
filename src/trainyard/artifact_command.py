# SPDX-License-Identifier: Apache-2.0
"""`trainyard artifact`: the compiled artifacts of a fleet, in its store and on its hosts: list, verify, remove."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from trainyard.paths import ROOT  # isort: skip - makes the collection importable

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest, names, progress, store

from trainyard import vault
from trainyard.plan_command import open_inventory, plan_or_exit, use_vault

app = typer.Typer(help="Compiled artifacts: what each is for, its size, who uses it.", no_args_is_help=True)

Inventory = Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")]

#: Where an artifact can be, beside the names of hosts.
STORE = "store"


class ArtifactError(Exception):
    """A command cannot be carried out; nothing was removed."""


@dataclass
class Artifact:
    """One digest, over all the places where it is."""

    digest: str
    size_bytes: int = 0
    inputs: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    #: Places that hold it: `store`, names of hosts.
    places: list[str] = field(default_factory=list)
    #: What needs it: deployments of the inventory, releases on hosts.
    used_by: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The model that it serves."""
        return str(self.inputs.get("weights", {}).get("repo", "?"))

    @property
    def what(self) -> str:
        """SDK release and shape."""
        settings = self.inputs.get("settings", {})
        parts = [f"SDK {self.inputs.get('sdk', {}).get('release', '?')}"]
        parts += [f"{name} {settings[key]}" for key, name in _SHAPE.items() if key in settings]
        return ", ".join(parts)

    def age_days(self, now: datetime.datetime) -> float:
        """Days since it was compiled; 0 where it does not say."""
        try:
            return (now - datetime.datetime.fromisoformat(self.made["finished"])).total_seconds() / 86400
        except (KeyError, ValueError, TypeError):
            return 0.0


_SHAPE = {"tp_degree": "TP", "batch_size": "batch", "seq_len": "length"}


@dataclass
class Fleet:
    """Where a fleet keeps artifacts, and who of it needs which."""

    store_uri: str
    store_endpoint: str
    environment: dict[str, str]
    artifacts_dir: str
    #: Deployments by digest, from the plan.
    wanted: dict[str, list[str]]
    inventory: list[str]

    def open_store(self) -> Any:
        """Return the fleet's store, None where it has none."""
        if not self.store_uri:
            return None
        from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import store

        os.environ.update(self.environment)
        return store.open_store(self.store_uri, self.store_endpoint)


def fleet_of(inventory: list[str]) -> Fleet:
    """Return what an inventory says of a fleet's artifacts.

    Raises:
        typer.Exit: the inventory cannot be read or planned; it is told why.
        ArtifactError: hosts name different stores.
    """
    plan = plan_or_exit(inventory)
    wanted: dict[str, set[str]] = {}
    for host in plan["hosts"].values():
        for artifact in host["artifacts"]:
            wanted.setdefault(artifact["digest"], set()).update(artifact["deployments"])
    variables = [_host_variables(inventory, name) for name in plan["hosts"]]
    stores = {
        (entry.get("model_compile_store") or "", entry.get("model_compile_store_endpoint") or "") for entry in variables
    }
    if len(stores) > 1:
        raise ArtifactError(f"hosts name different stores: {', '.join(sorted(uri or 'none' for uri, _ in stores))}")
    uri, endpoint = stores.pop() if stores else ("", "")
    first = variables[0] if variables else {}
    environment = {key: str(value) for key, value in (first.get("trainyard_aws_environment") or {}).items()}
    folder = str(first.get("model_compile_dir") or f"{first.get('trainyard_data_dir') or '/data'}/artifacts")
    used = {digest: sorted(names) for digest, names in wanted.items()}
    return Fleet(uri, endpoint, environment, folder, used, inventory)


def _host_variables(sources: list[str], host: str) -> dict[str, Any]:
    """Return a host's variables about artifacts, templated as a role would see them."""
    variables = open_inventory(tuple(sources))[1][host]
    names = ("model_compile_store", "model_compile_store_endpoint", "model_compile_dir", "trainyard_aws_environment")
    return {name: variables[name] for name in (*names, "trainyard_data_dir") if name in variables}


def ask_hosts(fleet: Fleet, **arguments: Any) -> dict[str, dict[str, Any]]:
    """Run module `artifacts` on every serving host; return its result by host.

    Raises:
        ArtifactError: a host does not answer: what it uses is not known, so nothing may be concluded from the others.
    """
    import ansible_runner

    with tempfile.TemporaryDirectory(prefix="trainyard-artifact-") as private:
        run = ansible_runner.run(
            private_data_dir=private,
            project_dir=str(ROOT),
            host_pattern="neuron",
            module="trainyard.neuron.artifacts",
            module_args=json.dumps({"path": fleet.artifacts_dir, **arguments}),
            cmdline=" ".join(["--become", *(f"-i {Path(source).resolve()}" for source in fleet.inventory)]),
            # The runner's own callback builds on the operator's, and some of those keep the events to themselves.
            envvars={"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default"},
            quiet=True,
            suppress_env_files=True,
        )
        answers, silent = {}, {}
        for event in run.events:
            data = event.get("event_data", {})
            if event["event"] == "runner_on_ok":
                answers[data["host"]] = data["res"]
            elif event["event"] in ("runner_on_failed", "runner_on_unreachable"):
                silent[data["host"]] = data["res"].get("msg", "no answer")
    if silent or not answers:
        told = "; ".join(f"{host}: {message}" for host, message in sorted(silent.items()))
        raise ArtifactError(told or "no host answered")
    return answers


def survey(fleet: Fleet, *, verify: bool = False) -> dict[str, Artifact]:
    """Return every artifact of the store and of all hosts, by digest."""
    found: dict[str, Artifact] = {}

    def at(digest: str) -> Artifact:
        return found.setdefault(digest, Artifact(digest, used_by=list(fleet.wanted.get(digest, []))))

    shared = fleet.open_store()
    if shared is not None:
        for digest in shared.digests():
            artifact = at(digest)
            artifact.places.append(STORE)
            try:
                described = shared.manifest(digest)
            except manifest.ManifestError as error:
                artifact.problems.append(f"{STORE}: {error}; what it is cannot be told, and nothing of it was removed")
                continue
            if described is None:  # removed since it was listed
                artifact.places.remove(STORE)
                continue
            artifact.inputs, artifact.made = described["inputs"], described["made"]
            artifact.size_bytes = sum(entry["size"] for entry in described["files"])
            if verify:
                artifact.problems += [f"{STORE}: {problem}" for problem in _verify_stored(shared, digest, described)]
    for host, answer in sorted(ask_hosts(fleet, verify=verify).items()):
        for entry in answer["artifacts"]:
            artifact = at(entry["digest"])
            artifact.places.append(host)
            artifact.inputs, artifact.made = artifact.inputs or entry["inputs"], artifact.made or entry["made"]
            artifact.size_bytes = artifact.size_bytes or entry["size_bytes"]
            artifact.used_by += [f"{host}: {user}" for user in entry["used_by"]]
            artifact.problems += [f"{host}: {problem}" for problem in entry["problems"]]
    return found


def _verify_stored(shared: Any, digest: str, described: dict[str, Any]) -> list[str]:
    """Return what is wrong with an artifact in the store, file by file; each is fetched, summed and thrown away."""
    problems = []
    with tempfile.TemporaryDirectory(prefix="trainyard-verify-") as folder:
        target = Path(folder) / "file"
        for entry in described["files"]:
            try:
                shared.get(digest, entry["path"], target, lambda _count: None)
            except (OSError, store.StoreError, names.BadNameError) as error:
                problems.append(f"{entry['path']}: cannot be read ({error})")
                continue
            found = manifest.hash_file(target)
            if found != entry["sha256"]:
                problems.append(f"{entry['path']}: SHA-256 {found}, manifest says {entry['sha256']}")
    return problems


def chosen(found: dict[str, Artifact], prefixes: list[str]) -> list[Artifact]:
    """Return the artifacts that digests, or their beginnings, name.

    Raises:
        ArtifactError: a beginning that fits none, or several.
    """
    picked = []
    for prefix in prefixes:
        fitting = [artifact for digest, artifact in found.items() if digest.startswith(prefix)]
        if len(fitting) != 1:
            names = ", ".join(artifact.digest[:16] for artifact in fitting) or "none"
            raise ArtifactError(f"{prefix!r} must fit one artifact, it fits {names}")
        picked += fitting
    return picked


def unused(found: dict[str, Artifact], older_than_days: float, now: datetime.datetime) -> list[Artifact]:
    """Return the artifacts that no deployment and no release needs, and that are old enough to go."""
    return [
        artifact for artifact in found.values() if not artifact.used_by and artifact.age_days(now) >= older_than_days
    ]


def remove(fleet: Fleet, artifacts: list[Artifact]) -> None:
    """Remove artifacts from the hosts and from the store.

    Raises:
        ArtifactError: one is in use, or a host refuses; then the store is untouched.
    """
    used = [
        f"{artifact.digest[:12]} is used by {', '.join(artifact.used_by)}" for artifact in artifacts if artifact.used_by
    ]
    if used:
        raise ArtifactError("; ".join(used))
    digests = [artifact.digest for artifact in artifacts]
    if digests:
        ask_hosts(fleet, remove=digests)  # the hosts look again: a release may have come in between
    shared = fleet.open_store()
    for artifact in artifacts:
        if shared is not None and STORE in artifact.places:
            shared.remove(artifact.digest)


def table(artifacts: list[Artifact]) -> Table:
    """Return the artifacts as a table for the terminal."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("DIGEST", "MODEL", "MADE FOR", "SIZE", "COMPILED", "WHERE", "USED BY"):
        shown.add_column(title, no_wrap=title == "DIGEST", overflow="fold")
    for artifact in sorted(artifacts, key=lambda entry: (entry.model, entry.digest)):
        compiled = f"{artifact.made.get('finished', '?')} on {artifact.made.get('host', '?')}"
        used = "\n".join(artifact.used_by) or "nothing"
        where = ", ".join(artifact.places)
        size = progress.human_bytes(artifact.size_bytes)
        shown.add_row(artifact.digest[:12], artifact.model, artifact.what, size, compiled, where, used)
        for problem in artifact.problems:
            shown.add_row("", f"[red]{problem}[/]")
    return shown


def _run(inventory: list[str], *, verify: bool = False) -> tuple[Fleet, dict[str, Artifact]]:
    """Return fleet and artifacts for a command; ends it with a message where that cannot be done."""
    try:
        fleet = fleet_of(inventory)
        return fleet, survey(fleet, verify=verify)
    except (ArtifactError, store.StoreError) as error:
        raise _exit_of(error) from error


def _exit_of(error: Exception) -> typer.Exit:
    Console(stderr=True, highlight=False).print(f"[red]error[/]: {error}", soft_wrap=True)
    return typer.Exit(1)


AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def _print(artifacts: list[Artifact], as_json: bool, none: str) -> None:
    """Print artifacts, for programs or for people."""
    if as_json:
        typer.echo(json.dumps([asdict(artifact) for artifact in artifacts], indent=1))
    else:
        Console(highlight=False).print(table(artifacts) if artifacts else none)


@app.command("ls")
def ls(
    inventory: Inventory,
    as_json: AsJson = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """List the artifacts of the store and of all hosts."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    _fleet, found = _run(inventory)
    _print(list(found.values()), as_json, "no artifact yet")


@app.command("verify")
def verify(
    inventory: Inventory,
    digest: Annotated[list[str] | None, typer.Argument(help="All, when none is given.")] = None,
    as_json: AsJson = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Compare the SHA-256 of every file, in the store and on the hosts; fails when one differs."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    _fleet, found = _run(inventory, verify=True)
    try:
        looked = chosen(found, digest) if digest else list(found.values())
    except ArtifactError as error:
        raise _exit_of(error) from error
    _print(looked, as_json, "no artifact yet")
    if any(artifact.problems for artifact in looked):
        raise typer.Exit(1)


@app.command("rm")
def rm(
    inventory: Inventory,
    digest: Annotated[list[str], typer.Argument(help="Digests, or their beginnings.")],
    as_json: AsJson = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Remove artifacts from the store and from all hosts. What a deployment or a release needs is refused."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    fleet, found = _run(inventory)
    try:
        doomed = chosen(found, digest)
        remove(fleet, doomed)
    except ArtifactError as error:
        raise _exit_of(error) from error
    if as_json:
        typer.echo(json.dumps({"removed": [artifact.digest for artifact in doomed]}, indent=2))
    else:
        typer.echo(f"removed {', '.join(artifact.digest[:12] for artifact in doomed)}")


@app.command("gc")
def gc(
    inventory: Inventory,
    older_than_days: Annotated[float, typer.Option(help="Keep what was compiled within so many days.")] = 7.0,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove; without it the command only says what it would do.")
    ] = False,
    as_json: AsJson = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Remove all artifacts that no deployment of the inventory and no release on a host needs."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    fleet, found = _run(inventory)
    doomed = unused(found, older_than_days, datetime.datetime.now(datetime.UTC))
    _print(doomed, as_json, "nothing to remove")
    if not doomed:
        return
    if not yes:
        typer.echo(f"would remove {len(doomed)} of {len(found)}; with --yes it does", err=as_json)
        return
    try:
        remove(fleet, doomed)
    except ArtifactError as error:
        raise _exit_of(error) from error
    typer.echo(f"removed {len(doomed)} of {len(found)}", err=as_json)
