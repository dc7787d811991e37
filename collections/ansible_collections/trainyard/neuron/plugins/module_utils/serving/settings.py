# SPDX-License-Identifier: Apache-2.0
"""One replica as a host knows it: the plan's dictionary and the gate's settings, read from its release directory."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from . import layout, shape, trusted
from .judge import Limits
from .replica import FurtherWeights, ReplicaPlan

LEAVING = Path("/run/trainyard-host/leaving")
"""While this file is there, the host is on its way out of service: its text is the reason that routers are told. Root
writes it, so its directory is root's alone."""
CONFIGURATION, RUNTIME = layout.CONFIGURATION, layout.RUNTIME
CREDENTIAL = "api-key"
SCRATCH_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "BASE_COMPILE_WORK_DIR")
"""Variables that name directories of a replica's own, which a start makes anew."""
NEEDED = ("name", "argv", "url", "cores", "served_name")
"""Words without which there is no replica."""
LISTS = tuple(word.name for word in fields(ReplicaPlan) if str(word.type).startswith("Tuple["))
STARTED = "replica.json"
"""The configuration that a replica was started with, in its run-time directory."""


class ServingError(Exception):
    """A replica that cannot start or does not serve: the cause and the next command, for the journal."""


@dataclass(frozen=True)
class Gate:
    """What a replica has to show before it counts as ready.

    Attributes:
        prompt: text to complete.
        max_tokens: tokens to ask for.
        completions: how often; all must give the same text, since they are greedy.
        ttft_s: limit of the last completion's time to first token, in seconds; the first one may warm up.
        per_token_s: limit of the last completion's mean time per further token, in seconds.
        timeout_s: how long loading may take, in seconds.
    """

    prompt: str = "The capital of France is"
    max_tokens: int = 8
    completions: int = 2
    ttft_s: float = 60.0
    per_token_s: float = 5.0
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class Replica(ReplicaPlan):
    """One vLLM server of a host: what is planned of it, and what role `vllm_endpoint` tells the host beside that.

    Attributes:
        container_engine: what runs its container.
        container_cpus: CPUs of its container, as ranges; empty where it is not pinned.
        needs_key: it asks for the API key that systemd hands it.
        neuron_ls: the program that says who holds its devices.
        settle_timeout_s: how long its cores may take to become free, in seconds.
        loads_at_once: replicas of this host that may load at the same time; 0 is all of them.
        gate: what it has to show before it counts as ready.
        probe: when the standing probe ends it.
    """

    container_engine: str = "podman"
    container_cpus: str = ""
    needs_key: bool = False
    neuron_ls: str = "/opt/aws/neuron/bin/neuron-ls"
    settle_timeout_s: float = 120.0
    loads_at_once: int = 0
    gate: Gate = field(default_factory=Gate)
    probe: Limits = field(default_factory=Limits)

    @property
    def listens_on(self) -> Tuple[str, int]:
        """Host and port that the server listens on."""
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    @property
    def scratch(self) -> Path:
        """Directory of this replica's run-time state; systemd makes it and removes it with the service."""
        return RUNTIME / self.name


def parse(text: str, where: str = "the replica's configuration") -> Replica:
    """A replica from the JSON of its release.

    What is not understood is refused: a word that nobody reads would leave its setting as if it had not been said.

    Args:
        text: the JSON.
        where: the file that it is from.

    Raises:
        ServingError: not JSON, a word that is not known or of another kind, or one that is missing.
    """
    said = "{0} is not usable: {1}; run the serve playbook for this host"
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ServingError(said.format(where, "it is no JSON ({0})".format(error))) from error
    if not isinstance(raw, dict):
        raise ServingError(said.format(where, "it holds no settings by name"))
    found = shape.problems(Replica, raw, NEEDED)
    if raw.get("runtime") == "container" and not raw.get("image"):
        found.append("image is missing, which a container runs")
    if isinstance(raw.get("url"), str) and not _is_address(raw["url"]):
        found.append("url is {0!r:.80}, wanted is http://HOST:PORT".format(raw["url"]))
    nested: Dict[str, Any] = {}
    for word, kind in (("gate", Gate), ("probe", Limits)):
        given = raw.get(word) if raw.get(word) is not None else {}
        if not isinstance(given, dict):
            found.append("{0} is {1!r:.80}, wanted are settings by name".format(word, given))
            continue
        slips = shape.problems(kind, given, within=word + ".")
        found += slips
        if not slips:
            nested[word] = kind(**{key: value for key, value in given.items() if value is not None})
    for index, row in enumerate(raw["more_weights"] if isinstance(raw.get("more_weights"), list) else ()):
        if isinstance(row, dict):
            found += shape.problems(FurtherWeights, row, within="more_weights[{0}].".format(index))
    if found:
        raise ServingError(said.format(where, "; ".join(found)))
    known = {key: raw[key] for key in Replica.__dataclass_fields__ if raw.get(key) is not None}
    lists = {word: tuple(known.get(word, ())) for word in LISTS}
    return Replica(**{**known, **lists, **nested})


def _is_address(url: str) -> bool:
    """Whether an URL can be taken apart into a host and a port that there is."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def load(name: str) -> Replica:
    """The replica as it is configured now.

    Raises:
        ServingError: it is not configured on this host, or its file is broken.
    """
    path = CONFIGURATION / (name + layout.ENTRY)
    try:
        # A link of root's in a directory of root's, to a file of root's.
        with path.open("rb") as file:
            text = file.read(trusted.CONFIGURATION_LIMIT).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        next_step = "ask as root" if isinstance(error, PermissionError) else "run the serve playbook for this host"
        raise ServingError("{0}: {1}; {2}".format(path, words(error), next_step)) from error
    return parse(text, str(path))


def load_started(name: str) -> Replica:
    """The replica as it was configured when it was started, which a redeploy may have changed since.

    The programs that are run for it are those of the release on disk, which is root's, wherever it is still there.

    Raises:
        ServingError: neither the record of the start nor the configuration can be used.
    """
    path = RUNTIME / name / STARTED
    try:
        started = parse(trusted.read_text(path, trusted.CONFIGURATION_LIMIT), str(path))
    except (OSError, UnicodeDecodeError, ServingError):
        # What is left is what a start would use now: the same, unless a release was switched in between.
        return load(name)
    try:
        now = load(name)
    except ServingError:
        return started
    return replace(started, container_engine=now.container_engine, neuron_ls=now.neuron_ls)


def words(error: Exception) -> str:
    """Why a file could not be used, for people."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is no text" if isinstance(error, UnicodeDecodeError) else "it is not what was written there"


def configured() -> List[str]:
    """Names of all replicas that this host is to serve, sorted."""
    return sorted(path.stem for path in CONFIGURATION.glob("*" + layout.ENTRY))


def api_key(replica: Replica, environment: Optional[Mapping[str, str]] = None) -> Optional[str]:
    """The key that the server asks for, from systemd's credential directory; None if it asks for none.

    Raises:
        ServingError: it is to ask for one that cannot be read. It must not be served without.
    """
    if not replica.needs_key:
        return None
    directory = (os.environ if environment is None else environment).get("CREDENTIALS_DIRECTORY", "")
    try:
        key = (Path(directory) / CREDENTIAL).read_text(encoding="utf-8").strip()
    except OSError as error:
        said = "the API key of {0} cannot be read ({1}: {2}), and it is not served without"
        raise ServingError(said.format(replica.name, directory or "no credentials", error.strerror)) from error
    if not key:
        raise ServingError("the API key of {0} is empty, and it is not served without".format(replica.name))
    return key
