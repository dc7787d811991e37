# SPDX-License-Identifier: Apache-2.0
"""The checks of acceptance's trials: what compilers and servers did on a host, held to what the product relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.acceptance_check import (
    Check,
    DifferenceError,
    NotJudgedError,
)

#: Bit of the one capability that a container keeps.
CAP_DAC_OVERRIDE = 1 << 1

Judge = Callable[[Mapping[str, Any]], str]

#: Of the host's memory: how far the device memory that neuron-monitor tells may be from the plan's estimate.
LEAST_OF_PLANNED, MOST_OF_PLANNED = 0.4, 1.25


def _trial(evidence: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what a trial saw.

    Raises:
        NotJudgedError: it was not made; says why.
    """
    trials = evidence.get("trials")
    if not trials:
        raise NotJudgedError("nothing was tried")
    found = trials.get(name)
    if found is None:
        raise NotJudgedError(trials.get("no_room") or f"not of a {trials['generation']} deployment")
    if "skipped" in found:
        raise NotJudgedError(found["skipped"])
    if "failed" in found:
        raise NotJudgedError(f"it could not be tried: {found['failed']}")
    return dict(found)


def _refused(name: str, *, cause: str = "", word: str = "", status: int | None = None) -> Judge:
    """A start that has to end by itself, of a cause that our classifier names or with words that are known."""

    def judge(evidence: Mapping[str, Any]) -> str:
        found = _trial(evidence, name)
        if found["ready"]:
            raise DifferenceError("it started")
        if found.get("compiles"):
            raise DifferenceError("it compiled")
        if found["status"] is None:
            raise DifferenceError("it had neither started nor ended")
        if found["status"] == 0 or (status is not None and found["status"] != status):
            raise DifferenceError(f"it ended with status {found['status']}")
        if cause and cause not in found["cause"]:
            raise DifferenceError(f"it ended, of: {found['cause'] or 'nothing that is known'}")
        if word and word not in found["words"]:
            raise DifferenceError(f"it ended without the known words; of: {found['cause'] or 'nothing that is known'}")
        return f"it ended with status {found['status']}{': ' + found['cause'] if found['cause'] else ''}"

    return judge


def _recompiled(name: str) -> Judge:
    """A start that has to compile instead of loading."""

    def judge(evidence: Mapping[str, Any]) -> str:
        found = _trial(evidence, name)
        if not found["compiles"]:
            raise DifferenceError("it started" if found["ready"] else f"it ended: {found['cause'] or 'no known cause'}")
        return "it said that it compiles, and did"

    return judge


def _is(name: str, key: str, wanted: Any, shown: str) -> Judge:
    """A trial that has to have seen just this."""

    def judge(evidence: Mapping[str, Any]) -> str:
        found = _trial(evidence, name)
        for word in key.split("."):
            found = found[word]
        if found != wanted:
            raise DifferenceError(f"{key.rpartition('.')[2].replace('_', ' ')}: {found}")
        return shown

    return judge


def _compile_order(evidence: Mapping[str, Any]) -> str:
    files = _trial(evidence, "compile")["files"]
    if "neuron_config.json" not in files or "model.pt" not in files:
        raise DifferenceError(f"there is {', '.join(files[:5]) or 'nothing'}")
    if files.index("neuron_config.json") > files.index("model.pt"):
        raise DifferenceError("model.pt was there first")
    return "neuron_config.json, then model.pt"


def _compile_settings(evidence: Mapping[str, Any]) -> str:
    wrong = _trial(evidence, "compile")["settings"]
    if wrong:
        raise DifferenceError("; ".join(wrong))
    return "as they were asked for"


def _compile_ranks(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "compile")
    if "ranks" not in found:
        raise NotJudgedError("weights are not sharded ahead")
    wanted = {f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in range(found["ranks"])}
    there = {name for name in found["files"] if name.startswith("weights/")}
    if wanted != there:
        raise DifferenceError(f"{len(there)} files, not one for each of {len(wanted)} ranks")
    return f"{len(there)} files"


def _compile_failure(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "compile")["without_model"]
    if found["status"] in (0, None) or "model.pt" in found["files"]:
        raise DifferenceError(f"status {found['status']}, files: {', '.join(found['files'][:5]) or 'none'}")
    return f"status {found['status']}, no model.pt"


def _silent(evidence: Mapping[str, Any]) -> str:
    early = _trial(evidence, "sound")["early"]
    if early:
        raise DifferenceError(f"it answered {', '.join(map(str, early))} before")
    return "nothing answered before"


def _phases(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")["phases"]
    loads = {"loading weights", "sharding weights"} & set(found)
    if evidence["trials"]["generation"] == "native":
        loads = {"compiling"} & set(found)
    if not loads or "serving" not in found:
        raise DifferenceError(f"phases: {', '.join(found)}")
    return ", ".join(found)


def _loaded(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")
    if evidence["trials"]["generation"] == "native":
        raise NotJudgedError("the native engine's cache is judged by itself")
    if found["compiled"] or found["artifact_changed"]:
        raise DifferenceError("it compiled" if found["compiled"] else "the artifact's files are others")
    return "it was loaded, and is as it was"


def _memory(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")
    seen, allowed = found["peak_bytes"] / 2**30, found["allowed_bytes"] / 2**30
    if seen > allowed:
        raise DifferenceError(f"{seen:.1f} GiB at its most, where {allowed:.1f} are counted with")
    return f"{seen:.1f} GiB at its most, of {allowed:.1f}"


def _apart(evidence: Mapping[str, Any]) -> str:
    up = _trial(evidence, "apart")["ready"]
    if not all(up):
        raise DifferenceError(f"{sum(up)} of 2 came up")
    return "both came up"


def _slice(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")["slice"]
    missing = sorted(set(found["own"]) - set(found["listed"]))
    if missing:
        raise DifferenceError(f"not listed at device {', '.join(map(str, missing))}")
    return f"listed at each of {len(found['own'])} devices"


def _monitor_memory(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")["monitor"]
    if found["bytes"] is None:
        raise NotJudgedError("neuron-monitor names no runtime of the server")
    if not found["planned"]:
        raise NotJudgedError("the plan has no estimate for this model")
    share = found["bytes"] / found["planned"]
    if not LEAST_OF_PLANNED <= share <= MOST_OF_PLANNED:
        raise DifferenceError(f"{found['bytes']} bytes, {share:.2f} of the plan's {found['planned']}")
    return f"{share:.2f} of what was planned"


def _health(evidence: Mapping[str, Any]) -> str:
    status = _trial(evidence, "sound")["health"]
    if status != 200:
        raise DifferenceError(f"/health answered {status}")
    return "200"


def _models(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")["models"]
    wanted = evidence["trials"]["served_name"]
    if wanted not in found:
        raise DifferenceError(f"{', '.join(found)[:200]}")
    return "it is there"


def _metric_names(evidence: Mapping[str, Any]) -> str:
    missing = _trial(evidence, "sound")["missing_metrics"]
    if missing:
        raise DifferenceError(f"no {', '.join(missing)}")
    return "running, waiting, prompt and generated tokens"


def _counts(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")
    if found["counted"]["finished"] != 4:
        raise DifferenceError(f"{found['counted']['finished']:g} requests where 4 were answered")
    return "4 requests, as were answered"


def _left(evidence: Mapping[str, Any]) -> str:
    if _trial(evidence, "sound")["missing_metrics"]:
        raise NotJudgedError("the metrics do not say it")
    found = _trial(evidence, "sound")["left"]
    if found["after"]:
        raise DifferenceError("the request went on")
    return "the request ended"


def _stream(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")["stream"]
    if not (found["done"] and found["usage"]):
        raise DifferenceError("no usage" if found["done"] else "no [DONE]")
    return "usage, then [DONE]"


def _streams_at_stop(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "sound")["stop"]
    if found["stream_ended"] != found["drains"]:
        raise DifferenceError("the stream went on to its end" if found["stream_ended"] else "the stream was cut")
    return "it was let end" if found["drains"] else "it was cut"


def _crooked(evidence: Mapping[str, Any]) -> str:
    if not str(evidence.get("instance_type") or "trn2").startswith(("trn2", "trn3")):
        raise NotJudgedError("a rule of trn2")
    found = _trial(evidence, "crooked")
    native = evidence["trials"]["generation"] == "native"
    if found["ready"] and (native or found["answered"] == 200):
        raise DifferenceError("it started" if native else "it answered")
    if "does not fit the topology" not in found["cause"]:
        raise DifferenceError(f"it ended, of: {found['cause'] or 'nothing that is known'}")
    return "its start failed" if native else "its first request ended it"


def _of(generations: tuple[str, ...], judge: Judge) -> Judge:
    """A check of some generations alone."""

    def judged(evidence: Mapping[str, Any]) -> str:
        trials = evidence.get("trials") or {}
        if trials and trials["generation"] not in generations:
            raise NotJudgedError(f"not of a {trials['generation']} deployment")
        return judge(evidence)

    return judged


def _empty(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "empty_artifact")
    v0 = evidence["trials"]["generation"] == "nxdi_v0"
    if found["below_model"] is v0 or not found["compiles"]:
        raise DifferenceError("it compiled below the model" if found["below_model"] else "it did not compile there")
    return "as set" if v0 else "as unset"


def _ended(name: str, which: str) -> Judge:
    """A server whose engine died: that it ends, or with which status."""

    def judge(evidence: Mapping[str, Any]) -> str:
        status = _trial(evidence, name)["status"]
        if status is None:
            if which == "status":
                raise NotJudgedError("it did not end")
            raise DifferenceError("it went on")
        if which == "status" and status != 0:
            raise DifferenceError(f"status {status}")
        return "status 0" if which == "status" else "it ended"

    return judge


def _long_request(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "long_request")
    if found["status"] is None and found["engine"]:
        raise DifferenceError("the engine went on")
    return "the engine ended"


def _killed_server(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "killed_server")
    if not (found["engines"] and found["held"]):
        raise DifferenceError("the engine ended with it")
    return "the engine went on, and held its cores"


def _hang(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "hang")
    if found["answered"] or found["health"] != 200:
        raise DifferenceError("a completion came" if found["answered"] else f"/health answered {found['health']}")
    return "/health 200, no token"


def _container(evidence: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a container saw, where the deployment is one."""
    if "container" not in (evidence.get("trials") or {"container": None}):
        raise NotJudgedError("the deployment runs in no container")
    return _trial(evidence, "container")


def _container_devices(evidence: Mapping[str, Any]) -> str:
    found = _container(evidence)
    if "devices" not in found:
        raise DifferenceError(f"it said nothing, and ended with status {found['status']}")
    closed = sorted(f"{path}: {error}" for path, error in found["devices"].items() if error)
    if closed or not found["devices"]:
        raise DifferenceError("; ".join(closed[:20]) or "the host has no device")
    return f"it opened each of {len(found['devices'])} devices"


def _container_rights(evidence: Mapping[str, Any]) -> str:
    found = _container(evidence)
    if "devices" not in found:
        raise NotJudgedError("it said nothing")
    more = int(found["capabilities"], 16) & ~CAP_DAC_OVERRIDE
    if more or found["no_new_privileges"] != "1":
        raise DifferenceError(f"capabilities {more:#x} more" if more else "it may gain rights")
    return "no more than DAC_OVERRIDE, and it may gain none"


def _resets(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "killed_engine")
    before, after = found["resets"]
    if not found["again"]:
        raise DifferenceError("the next start on its cores did not come up")
    if before is None or after is None:
        raise NotJudgedError("the driver counts no resets")
    if after > before:
        raise DifferenceError(f"{after - before} resets more that failed")
    return "the next start on its cores came up, and no reset failed"


def _drained(evidence: Mapping[str, Any]) -> str:
    left = _trial(evidence, "roll")["left"]
    if not all(empty for empty, _ in left):
        raise NotJudgedError("its clients did not get their answers in time")
    if any(any(counts) for _, counts in left):
        said = "; ".join(f"{running:g} running, {waiting:g} waiting" for _, (running, waiting) in left)
        raise DifferenceError(f"after its last answer: {said}")
    return f"0 running, 0 waiting at each of {len(left)} replicas"


def _neighbours(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "roll")
    if not found["sent"]:
        raise NotJudgedError("nothing was asked")
    if found["answered"] != found["sent"]:
        raise DifferenceError(
            f"{found['sent'] - found['answered']} of {found['sent']} requests were not answered whole"
        )
    return f"{found['sent']} requests, each answered whole"


def _same(evidence: Mapping[str, Any]) -> str:
    found = _trial(evidence, "roll")
    if not found["steady"]:
        raise NotJudgedError("a server does not give the same text twice")
    if found["texts"] != 1:
        raise DifferenceError(f"{found['texts']} texts to the same question")
    return "the same text by each"


def _overrides(evidence: Mapping[str, Any]) -> str:
    if "ignored" not in _trial(evidence, "overrides")["words"]:
        raise DifferenceError("it did not say so")
    return "it said that it ignores them"


_NXDI = ("nxdi_v0", "nxdi_v1")
_LOADER, _NXDI_SOURCE, _RUNTIME, _VLLM = "model loaders", "NxDI application_base.py", "runtime guide", "vLLM"
_AGREEMENT = "plugins/module_utils/serving/agreement.py"
_TABLES = "plugins/plugin_utils/plan/generation_tables.py"
_PHASES, _PROBE = "plugins/module_utils/serving/phases.py", "plugins/module_utils/serving/probe.py"
_SLICES, _SERVING = "plugins/module_utils/serving/slices.py", "plugins/module_utils/serving/cli.py"
_JOB, _JUDGE = "plugins/module_utils/jobs/artifact.py", "plugins/module_utils/serving/judge.py"
_EXPOSITION = "plugins/module_utils/serving/exposition.py"
_MISSING = (_AGREEMENT, "def missing(")

TRIED_CHECKS: tuple[Check, ...] = (
    Check("compile-status", "compile", _NXDI_SOURCE, "a compile that succeeds ends with status 0",
          (_JOB, "if status != 0:"), _is("compile", "status", 0, "status 0")),
    Check("compile-order", "compile", _NXDI_SOURCE, "neuron_config.json is written first, model.pt when it is whole",
          (_AGREEMENT, "The configuration is written first of all"), _compile_order),
    Check("compile-settings", "compile", "NxDI models/config.py", "neuron_config.json has the settings of the command",
          (_AGREEMENT, "def differences("), _compile_settings),
    Check("compile-ranks", "compile", _NXDI_SOURCE, "weights that are sharded ahead are one file a rank",
          (_AGREEMENT, "weights/tp{0}_sharded_checkpoint.safetensors"), _compile_ranks),
    Check("compile-failure", "compile", "inference_demo",
          "a compile that fails has another status than 0, and no model.pt",
          (_JOB, "the compiler ended with status"), _compile_failure),
    Check("compile-options", "compile", "inference_demo", "an option that the release lacks is status 2",
          (_TABLES, "DEMO_FLAGS"), _is("compile", "unknown_option", 2, "status 2")),
    Check("silent-start", "serve", "vllm#50282", "nothing answers before the engine is up",
          (_PROBE, "an open port belongs to a server"), _silent),
    Check("start-log", "serve", "logs of NxDI and vLLM", "the log names loading and serving",
          (_PHASES, "PHASES = ("), _phases),
    Check("artifact-is-loaded", "serve", _LOADER, "a complete artifact is loaded, and nothing is compiled",
          (_PHASES, "def compiles("), _loaded),
    Check("load-memory", "serve", "NxDI weights guide", "a start takes no more of the host's memory than is planned",
          ("plugins/plugin_utils/plan/memory.py", "def host_memory("), _memory),
    Check("side-by-side", "serve", "disaggregation tutorial",
          "two engines that start at once on their own slices come up",
          ("plugins/module_utils/serving/turns.py", "def take("), _apart),
    Check("slice-is-held", "serve", "neuron-ls guide", "a process is listed at every device of its cores",
          (_SLICES, "def holders("), _slice),
    Check("monitor-tag", "serve", "neuron-monitor guide", "a runtime is named by NEURON_PROCESS_TAG",
          (_TABLES, '"NEURON_PROCESS_TAG"'), _is("sound", "monitor.tag", True, "by its tag")),
    Check("monitor-memory", "serve", "neuron-monitor guide", "device memory is about what the plan counts with",
          ("plugins/plugin_utils/plan/memory.py", "def memory_problems("), _monitor_memory),
    Check("health", "serve", _VLLM, "a server that is up answers /health with 200",
          (_PROBE, "def status("), _health),
    Check("served-name", "serve", _VLLM, "/v1/models has the served name",
          (_PROBE, "def models("), _models),
    Check("api-key", "serve", _VLLM, "below /v1 the key is needed",
          (_PROBE, '"Authorization"'), _is("sound", "without_key", 401, "401 without it")),
    Check("token-count", "serve", _VLLM, "usage counts the tokens that were asked for",
          (_PROBE, "by the server's own count"), _is("sound", "completion.tokens", 7, "7 of 7")),
    Check("greedy", "serve", _VLLM, "temperature 0 gives the same text each time",
          ("plugins/plugin_utils/roll/canary.py", "def "), _is("sound", "greedy_texts", 1, "the same text twice")),
    Check("stream-end", "serve", _VLLM, "a stream ends with its usage and [DONE]",
          (_PROBE, "include_usage"), _stream),
    Check("metric-names", "serve", "vLLM metrics", "running, waiting and token counters have the names that are read",
          (_EXPOSITION, "RUNNING = "), _metric_names),
    Check("metric-counts", "serve", "vLLM metrics", "the counters count what was answered",
          ("plugins/module_utils/roll/metrics.py", "FINISHED = "), _counts),
    Check("left-client", "serve", _VLLM, "a request whose client leaves is ended",
          ("plugins/module_utils/roll/metrics.py", "RUNNING = "), _left),
    Check("cores-busy", "serve", _RUNTIME, "a core belongs to one process; another one ends, with the known text",
          (_PHASES, "nrt_allocate_neuron_cores"), _refused("same_cores", cause="in use by another process")),
    Check("port-taken", "serve", _VLLM, "a port that is taken ends the start, with the known text",
          (_SERVING, "def _check_port("), _refused("same_port", cause="the port is taken")),
    Check("sigterm-streams", "serve", "vLLM #36666", "SIGTERM cuts streams, but with --shutdown-timeout",
          ("plugins/module_utils/roll/host.py", "def "), _streams_at_stop),
    Check("stop-status", "serve", "vLLM launcher.py", "a server that is told to stop ends with status 0",
          (_SERVING, "def settle("), _is("sound", "stop.status", 0, "status 0")),
    Check("stop-frees", "serve", "driver", "a server that has ended holds no core",
          (_SLICES, "def wait_free("), _is("sound", "stop.free", True, "its cores are free")),
    Check("cores-outside", "serve", _RUNTIME, "cores that the instance lacks end the start, with the known text",
          (_PHASES, "Could not find VNC id"), _refused("outside", cause="cores that the process does not see")),
    Check("cores-gap", "serve", "configuration guide", "cores with a gap end the start, with the known text",
          (_PHASES, "not contiguous"), _refused("gap", cause="cores that the process does not see")),
    Check("slice-start", "serve", "disaggregation tutorial; of NxDI derived",
          "a slice that does not start at a multiple of its size fails: native at its start, NxDI at its first request",
          ("plugins/plugin_utils/plan/placement.py", "aligned slices nest"), _crooked),
    Check("heads-divide", "serve", _VLLM, "V0 and native refuse heads that do not divide",
          ("plugins/plugin_utils/plan/fit.py", "Generations whose engine adds query heads"),
          _of(("nxdi_v0", "native"), _refused("degree", word="heads"))),
    Check("topology-degree", "serve", "optimum-neuron#619", "a degree that the topology lacks ends the start",
          ("plugins/module_utils/plan/topology.py", "legal_tensor_parallel"),
          _of(("nxdi_v1",), _refused("degree", cause="does not fit the topology"))),
    Check("serve-options", "serve", _VLLM, "an option that the release lacks is status 2",
          ("plugins/plugin_utils/plan/flags.py", "def flags_of("), _refused("option", status=2)),
    Check("model-is-positional", "serve", _VLLM, "vllm serve refuses the model as an option",
          (_TABLES, '"serve"'), _of(("nxdi_v1", "native"), _refused("positional", word="positional"))),
    Check("prefix-needs-blocks", "serve", "plugin platform.py",
          "the plugin refuses prefix caching without a block size",
          (_TABLES, "prefix_follows_blocks=True"), _of(("nxdi_v1",), _refused("blocks", word="blocks"))),
    Check("model-length", "serve", _VLLM, "V0 and native refuse a longer sequence than the model's",
          ("plugins/plugin_utils/plan/fit.py", "max_positions"),
          _of(("nxdi_v0", "native"), _refused("length", word="length"))),
    Check("wrong-artifact", "serve", _LOADER, "a path without an artifact is compiled into, in silence",
          (_AGREEMENT, "The NxDI engines load any artifact"), _of(_NXDI, _recompiled("missing_artifact"))),
    Check("no-artifact-variable", "serve", _LOADER, "without the variable a start compiles below the model",
          (_TABLES, '"{artifact_variable}"'), _of(_NXDI, _recompiled("unset_artifact"))),
    Check("empty-artifact-variable", "serve", _LOADER, "an empty variable is set for V0, and unset for the plugin",
          (_TABLES, '"{artifact_variable}"'), _of(_NXDI, _empty)),
    Check("artifact-without-graphs", "serve", _LOADER, "an artifact without model.pt is compiled again",
          _MISSING, _of(_NXDI, _recompiled("headless_artifact"))),
    Check("cut-artifact", "serve", "torch", "a cut model.pt ends the start; it is not compiled again",
          _MISSING, _of(_NXDI, _refused("cut_artifact", word="cut graphs"))),
    Check("moved-weights", "serve", "NxDI checkpoint_loader_fn", "an artifact remembers the path of its weights",
          ("plugins/plugin_utils/plan/host_parts.py", "weights_path"),
          _of(_NXDI, _refused("moved_weights", word="weights path"))),
    Check("too-few-cores", "serve", "NRT status 9", "an artifact for more cores than are visible ends the start",
          (_PHASES, "status=9"), _of(_NXDI, _refused("few_cores", cause="cores that the process does not see"))),
    Check("ignored-overrides", "serve", "plugin's loader", "the plugin ignores overrides on an artifact, and says so",
          (_AGREEMENT, "The NxDI engines load any artifact"), _of(("nxdi_v1",), _overrides)),
    Check("long-request", "serve", "NxDI model_wrapper.py", "a request longer than the compiled length ends the engine",
          (_AGREEMENT, '("max-model-len", "seq_len"'), _of(_NXDI, _long_request)),
    Check("graphs-are-kept", "serve", "native plugin's guide", "a graph that is compiled is marked so",
          (_AGREEMENT, "def _cache_problems("),
          _of(("native",), _is("graphs", "complete", True, ".compilation_complete"))),
    Check("forbidden-compile", "serve", "native plugin's guide",
          "the engine ends rather than compile, where it is told to",
          (_TABLES, "VLLM_CACHE_ROOT"), _of(("native",), _refused("forbidden", word="forbidden"))),
    Check("container-devices", "serve", "podman and docker", "a container that is given the devices opens each of them",
          ("plugins/module_utils/serving/container.py", '"--device"'), _container_devices),
    Check("container-rights", "serve", "podman and docker",
          "a container has no more of root's rights than it is given, and may gain none",
          ("plugins/module_utils/serving/oci.py", '"--cap-drop"'), _container_rights),
    Check("hanging-engine", "fault", "vllm#24207", "/health is 200 while the engine hangs, and no token comes",
          (_PROBE, "answers 200 on a dead device"), _hang),
    Check("engine-death", "fault", "vLLM launcher.py", "a server whose engine died ends",
          (_JUDGE, "def look("), _ended("killed_engine", "end")),
    Check("death-status", "fault", "vLLM launcher.py", "it ends with status 0, which calls nobody",
          (_JUDGE, "def _restart("), _ended("killed_engine", "status")),
    Check("killed-server", "fault", "vllm#55510", "the engine of a server that was killed goes on, and holds its cores",
          (_SLICES, "def holders("), _killed_server),
    Check("reset-failures", "fault", "neuron-sysfs guide",
          "cores of an engine that was killed are reset and take the next start, and no failed reset is counted",
          ("plugins/module_utils/watch/quarantine.py", "failures = devices.reset_failures("), _resets),
    Check("drain-ends", "roll", "vLLM metrics", "a server that gets nothing more has 0 running and waiting in the end",
          ("plugins/module_utils/roll/metrics.py", "RUNNING = "), _drained),
    Check("neighbour-streams", "roll", "runtime guide",
          "streams of a replica go on while its neighbour ends and starts: each request of a roll is answered whole",
          ("plugins/plugin_utils/roll/orders.py", "def "), _neighbours),
    Check("same-after-restart", "roll", _VLLM, "temperature 0 gives the same text at each replica, and after a restart",
          ("plugins/plugin_utils/roll/canary.py", "def "), _same),
    Check("cut-weights", "fault", "safetensors", "a cut checkpoint ends the start",
          ("plugins/module_utils/jobs/checkpoint.py", "def "), _refused("cut_weights", word="cut weights")),
)  # fmt: skip
