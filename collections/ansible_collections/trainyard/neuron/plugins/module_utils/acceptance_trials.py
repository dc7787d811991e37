# SPDX-License-Identifier: Apache-2.0
"""What a host does with a compiler and servers of its own: the evidence of acceptance's stages that are no mere look.

Everything runs in a directory of its own, as the user that serves, on cores that nobody holds, and is gone afterwards.
What a server logs is read here; of it only the runtime's known words leave the host.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance import SYSFS, evidence
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_load import Load
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import agreement, exposition, phases
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.probe import Client, ProbeError
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import ServingError
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.slices import holders, read_devices
from ansible_collections.trainyard.neuron.plugins.module_utils.watch.devices import folders, reset_failures

#: Stages that use cores; `fault` also breaks what it has started, `roll` replaces it under load.
TRIED = ("compile", "serve", "fault", "roll")

LOG_BYTES = 8 << 20
#: How long a request may take, a server to notice what it has to, a stream to go on; seconds.
ANSWER_S, NOTICE_S, HANG_S = 60.0, 30.0, 3.0
#: Tokens of a stream that is cut, and of a completion that is counted.
LONG_TOKENS, FEW_TOKENS = 800, 7
#: Of each stream of a roll's load, and the most clients that a server is given.
ROLL_TOKENS, MOST_CLIENTS = 100, 66
#: What a start takes of the host's memory beside the weights: interpreters and their libraries, bytes.
INTERPRETERS_BYTES = 1 << 30
#: Settings of NxDI that are its own word for a change: one that no artifact's graphs depend on.
OVERRIDE = {"override_neuron_config": {"async_mode": False}}
_LOOK_S = 0.05
#: What is said of a start that neither ended nor answered in its time.
SILENT = "it does not answer"
#: Metrics that a roll, the probe and a benchmark read.
READ = (exposition.RUNNING, exposition.WAITING, exposition.PROMPT_TOKENS, exposition.GENERATION_TOKENS)

#: Refusals of vLLM itself, which the classifier of running servers does not need to know one by one.
WORDS: Mapping[str, str] = {
    "heads": r"Total number of attention heads",
    "positional": r"provide the model as a positional argument",
    "blocks": r"block_size must be set",
    "length": r"max_model_len",
    "weights path": r"Incorrect path_or_model_id",
    "cut weights": r"SafetensorError|MetadataIncompleteBuffer",
    "cut graphs": r"PytorchStreamReader",
    "ignored": r"override_neuron_config will be ignored",
    "forbidden": r"VLLM_NEURON_DISABLE_WARMUP_COMPILE",
}


@dataclass(frozen=True)
class Deployment:
    """What is tried: a replica and an artifact of the plan.

    Attributes:
        generation: the plan's word.
        serve: the server's command; `environment` is its own.
        compile: the command that compiles; `compile_environment` is its own.
        model: directory of the checkpoint.
        artifact: directory of the artifact that both commands name.
        compiled: settings that the artifact has to have.
        degree: logical cores of the replica.
        cores_variable, artifact_variable: what names them in the environment.
        hbm_bytes: the plan's estimate of its device memory, None where nobody knows.
        load_bytes: the plan's estimate of what a load takes of the host's memory, None likewise.
    """

    generation: str
    serve: Tuple[str, ...]
    environment: Mapping[str, str]
    compile: Tuple[str, ...]
    compile_environment: Mapping[str, str]
    model: str
    artifact: str
    served_name: str
    compiled: Mapping[str, Any]
    degree: int
    cores_variable: str
    artifact_variable: str
    hbm_bytes: Optional[int] = None
    load_bytes: Optional[int] = None

    @property
    def nxdi(self) -> bool:
        """Whether artifacts are NxDI's."""
        return self.generation in agreement.COMPILED_GENERATIONS


def with_option(argv: Sequence[str], name: str, value: Optional[str]) -> List[str]:
    """Return a command line with an option of that value, None for one without the option."""
    found, skip = [], False
    for index, word in enumerate(argv):
        if skip:
            skip = False
            continue
        if word == name:
            skip = index + 1 < len(argv) and not argv[index + 1].startswith("--")
            continue
        found.append(word)
    return found if value is None else [*found, name, value]


@dataclass
class Server:
    """A server that was started here."""

    process: "subprocess.Popen[bytes]"
    log: Path
    port: int
    key: str
    early: List[int] = field(default_factory=list)
    peak_bytes: int = 0

    def lines(self) -> List[str]:
        """What it has logged."""
        with self.log.open("rb") as file:
            return file.read(LOG_BYTES).decode("utf-8", "replace").splitlines()

    def client(self, key: Optional[str] = None) -> Client:
        """A client with its key, or another one."""
        return Client("http://127.0.0.1:%d" % self.port, self.key if key is None else key, timeout_s=ANSWER_S)

    def ended(self, seconds: float) -> Optional[int]:
        """Its exit status, waited for; None where it goes on."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def family(self) -> List[int]:
        """Processes of it that live, itself included."""
        numbers = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return sorted(int(pid) for pid in numbers if _session(pid) == self.process.pid)

    def engines(self) -> List[int]:
        """Those of them that are not the server."""
        return [pid for pid in self.family() if pid != self.process.pid]


def _session(pid: str) -> int:
    try:
        fields = Path("/proc/%s/stat" % pid).read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[3])


def _resident(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = Path("/proc/%d/status" % pid).read_text(encoding="utf-8")
            found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
            total += int(found.group(1)) * 1024 if found else 0
    return total


def as_user(user: str, directory: Path, work: Callable[[], Dict[str, Any]]) -> Dict[str, Any]:
    """Do something as another user, for good and in a process of its own, in a directory that is made and removed.

    Root looks at nothing that it makes: what is returned came as JSON.

    Args:
        user: who; nobody where there is none of that name.
        directory: will be the user's, and be gone.
        work: returns what JSON can say.

    Raises:
        OSError: the directory cannot be made, or the process ended without an answer.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        entry = pwd.getpwnam("nobody")
    shutil.rmtree(str(directory), ignore_errors=True)
    directory.mkdir(parents=True, mode=0o755)
    os.chown(str(directory), entry.pw_uid, entry.pw_gid)
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(readable)
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            said = json.dumps(work()).encode("utf-8")
            with os.fdopen(writable, "wb") as pipe:
                pipe.write(said)
            status = 0
        os._exit(status)
    os.close(writable)
    try:
        with os.fdopen(readable, "rb") as answers:
            answer = answers.read(LOG_BYTES)
        os.waitpid(child, 0)
    finally:
        shutil.rmtree(str(directory), ignore_errors=True)
    if not answer:
        raise OSError("the trials of %s ended without an answer" % entry.pw_name)
    return dict(json.loads(answer.decode("utf-8")))


class Trials:
    """The trials of one host, in an order in which one that fails leaves room for the next.

    Args:
        deployment: what is tried.
        directory: where everything of it lies, empty.
        tools: directory of the Neuron tools.
        devices: directory of the device files.
        timeout_s: how long a start or a compile may take.
        sysfs: where the kernel shows its devices.
    """

    def __init__(
        self,
        deployment: Deployment,
        directory: Path,
        tools: Path,
        devices: Path,
        timeout_s: float,
        sysfs: Path = SYSFS,
    ) -> None:
        self.of, self.directory, self.tools, self.devices = deployment, directory, tools, devices
        self.timeout_s, self.sysfs = timeout_s, sysfs
        self.found: Dict[str, Any] = {}
        self._servers: List[Server] = []
        self._artifact = Path(deployment.artifact)

    # -- the place ----------------------------------------------------------------------------------------------------

    def run(self, stages: Sequence[str]) -> Dict[str, Any]:
        """Return the evidence of some stages; whatever was started has ended."""
        self.found = {"generation": self.of.generation, "served_name": self.of.served_name}
        try:
            self._make("work", "logs")
            self._link_model()
            if "compile" in stages:
                self.attempt("compile", self.compile)
            if {"serve", "fault", "roll"} & set(stages):
                self._choose_slices()
            if "serve" in stages and self.slices:
                self.serve()
            if "fault" in stages and self.slices:
                self.fault()
            if "roll" in stages and self.slices:
                self.roll()
        finally:
            for server in self._servers:
                self.end(server)
        return self.found

    def _make(self, *names: str) -> None:
        for name in names:
            (self.directory / name).mkdir(exist_ok=True)

    def _link_model(self) -> None:
        """Make a directory of links to the checkpoint, whose path may be taken away."""
        self._make("model", "artifacts")
        for entry in sorted(Path(self.of.model).iterdir()):
            (self.directory / "model" / entry.name).symlink_to(entry)

    def _choose_slices(self) -> None:
        """Find cores that nobody holds: slices of the degree, one beside the other where there are two."""
        self.slices: List[str] = []
        self.crooked = ""
        try:
            devices = read_devices(str(self.tools / "neuron-ls"))
            count = sum(int(device["nc_count"]) for device in devices)
            free = [core for core in range(count) if not holders(devices, frozenset([core]))]
        except (ServingError, KeyError, TypeError, ValueError, OverflowError) as error:
            self.found["no_room"] = "neuron-ls does not say which cores are free: %s" % str(error)[:200]
            return
        degree, room = self.of.degree, set(free)
        self.core_count = count
        whole = [first for first in range(0, count, degree) if room >= set(range(first, first + degree))]
        self.slices = ["%d-%d" % (first, first + degree - 1) for first in whole[:2]]
        for first in range(count - degree + 1):
            if first % degree and room >= set(range(first, first + degree)):
                self.crooked = "%d-%d" % (first, first + degree - 1)
                break
        if not self.slices:
            self.found["no_room"] = "no free slice of %d cores: another process holds them" % degree

    def attempt(self, name: str, trial: Callable[[], Dict[str, Any]]) -> None:
        """Note what a trial saw, or why it could not be done."""
        try:
            self.found[name] = trial()
        except (OSError, ProbeError, ServingError, ValueError, http.client.HTTPException) as error:
            self.found[name] = {"failed": "%s: %s" % (type(error).__name__, str(error)[:200])}

    # -- processes ----------------------------------------------------------------------------------------------------

    def _start(self, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        beside = str(Path(argv[0]).parent)
        whole = {
            **kept,
            **environment,
            "HOME": str(self.directory / "work"),
            "BASE_COMPILE_WORK_DIR": str(self.directory / "work/nxd"),
            "PATH": os.pathsep.join([beside, str(self.tools), kept.get("PATH", os.defpath)]),
        }
        with log.open("wb") as output:
            return subprocess.Popen(
                list(argv), env=whole, cwd=str(self.directory / "work"), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def server(
        self,
        cores: str,
        artifact: Optional[str] = None,
        *,
        options: Optional[Mapping[str, Optional[str]]] = None,
        more: Sequence[str] = (),
        argv: Optional[Sequence[str]] = None,
        port: int = 0,
        environment: Optional[Mapping[str, Optional[str]]] = None,
    ) -> Server:
        """Start the deployment's server, changed as a trial wants it; it is not waited for."""
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
        words = [self._placed(word) for word in (self.of.serve if argv is None else argv)]
        for name, value in {"--host": "127.0.0.1", "--port": str(port), **(options or {})}.items():
            words = with_option(words, name, value)
        key = secrets.token_hex(16)
        tag = "accept-%d" % len(self._servers)
        given: Dict[str, Optional[str]] = {
            **{name: self._placed(value) for name, value in self.of.environment.items()},
            self.of.cores_variable: cores,
            self.of.artifact_variable: str(self._artifact) if artifact is None else artifact,
            "NEURON_PROCESS_TAG": tag,
            "PROMETHEUS_MULTIPROC_DIR": str(self.directory / "work" / tag),
            "VLLM_API_KEY": key,
            **(environment or {}),
        }
        (self.directory / "work" / tag).mkdir(exist_ok=True)
        log = self.directory / "logs" / tag
        kept = {name: value for name, value in given.items() if value is not None}
        made = Server(self._start([*words, *more], kept, log), log, port, key)
        self._servers.append(made)
        return made

    def _placed(self, word: str) -> str:
        return str(self.directory / "model") if word == self.of.model else word

    def ready(self, server: Server, compiling: str = "") -> bool:
        """Wait until a server answers, ends, or says that it compiles into a directory; whether it answers."""
        until = time.monotonic() + self.timeout_s
        client = server.client()
        while time.monotonic() < until and server.process.poll() is None:
            server.peak_bytes = max(server.peak_bytes, _resident(server.family()))
            status = client.status("/health")
            if status == 200 or (status and self._answers_so(server, status)):
                return True
            if status and status not in server.early:
                server.early.append(status)
            if compiling and self.compiles(server, compiling):
                return False
            time.sleep(_LOOK_S)
        return False

    def _answers_so(self, server: Server, status: int) -> bool:
        """Whether a server that answers /health otherwise than with 200 says that it is up, and still answers so."""
        time.sleep(_LOOK_S)  # its log may be a moment behind
        return self._phase(server) == "serving" and server.client().status("/health") == status

    @staticmethod
    def _phase(server: Server) -> str:
        """Where a start is, by the server's own log."""
        progress = phases.Progress()
        for line in server.lines():
            progress = phases.follow(progress, line)
        return progress.phase

    def why(self, server: Server) -> str:
        """Return why a server that was waited for is not up, in words of ours, and end it."""
        said = phases.diagnose(server.lines())
        ended = server.process.poll() is not None
        self.end(server)
        return said.cause if said and said.cause else "it ended" if ended else SILENT

    @staticmethod
    def compiles(server: Server, into: str) -> bool:
        """Whether a server says that it compiles into a directory, or below it where that ends with a slash."""
        for line in server.lines():
            named = re.search(r"(?:artifacts from|model from) (\S*?)[.,]? +Recompiling", line + " ")
            if named and (named.group(1).startswith(into) if into.endswith("/") else phases.compiles(line, into)):
                return True
        return False

    def end(self, server: Server) -> None:
        """End a server and all that it started."""
        with contextlib.suppress(OSError):
            os.killpg(server.process.pid, signal.SIGCONT)
            os.killpg(server.process.pid, signal.SIGKILL)
        for pid in server.family():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        server.ended(ANSWER_S)

    def outcome(self, server: Server, compiling: str = "") -> Dict[str, Any]:
        """Return what became of a start, in words of ours, and end it."""
        ready = self.ready(server, compiling)
        lines = server.lines()
        said = phases.diagnose(lines)
        found = {
            "ready": ready,
            "status": server.process.poll(),
            "compiles": bool(compiling) and self.compiles(server, compiling),
            "cause": said.cause if said else "",
            "words": sorted(name for name, text in WORDS.items() if any(re.search(text, line) for line in lines)),
        }
        self.end(server)
        return found

    # -- compile ------------------------------------------------------------------------------------------------------

    def _compile(self, target: Path, model: Optional[Path] = None, more: Sequence[str] = ()) -> Dict[str, Any]:
        names = {self.of.artifact: str(target), self.of.model: str(model or self.directory / "model")}
        argv = [names.get(word, word) for word in self.of.compile]
        environment = {name: names.get(value, value) for name, value in self.of.compile_environment.items()}
        log = self.directory / "logs" / ("compile-" + target.name)
        began = time.monotonic()
        process = self._start([*argv, *more], environment, log)
        try:
            status: Optional[int] = process.wait(self.timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        files = sorted((path for path in target.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
        return {
            "status": status,
            "seconds": round(time.monotonic() - began, 3),
            "files": [str(path.relative_to(target)) for path in files][:4096],
        }

    def compile(self) -> Dict[str, Any]:
        """Compile as the plan would, into a directory of the trial's own."""
        if not self.of.nxdi:
            return {"skipped": "the native engine compiles while it starts"}
        target = self.directory / "artifacts" / "made"
        found = self._compile(target)
        try:
            made = json.loads((target / "neuron_config.json").read_text(encoding="utf-8"))
            wanted = agreement.differences(made, self.of.compiled)
            found["settings"] = ["%s is %s, asked for was %s" % row for row in wanted][:20]
            settings = agreement.settings_of(made)
            if settings.get("save_sharded_checkpoint"):
                found["ranks"] = int(settings["local_ranks_size"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            found["settings"] = ["neuron_config.json cannot be read: %s" % type(error).__name__]
        self._make("empty")
        found["without_model"] = self._compile(self.directory / "artifacts" / "none", self.directory / "empty")
        found["unknown_option"] = self._compile(
            self.directory / "artifacts" / "refused", more=["--no-such-option-of-trainyard", "1"]
        )["status"]
        if (target / "model.pt").is_file():
            self._artifact = target
        return found

    # -- serve --------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Start servers, ask them, end them."""
        if not self._has_artifact():
            return
        first = self.slices[0]
        self.attempt("sound", lambda: self._sound(first))
        if self.found["sound"].get("failed") == SILENT:
            # Each further one would be waited for as long.
            self.found["no_room"] = "the deployment's own start did not answer within %g s" % self.timeout_s
            self.slices = []
            return
        self.attempt("apart", self._two_at_once)
        self._refusals(first)
        if self.of.nxdi:
            self._artifacts(first)
            self.attempt("long_request", lambda: self._long_request(first))
        else:
            self._native(first)

    def _has_artifact(self) -> bool:
        if not self.of.nxdi:
            # The native engine fills its cache at its first start.
            self._artifact = self.directory / "artifacts" / "cache"
            return True
        if (self._artifact / "model.pt").is_file():
            return True
        self.found["no_room"] = "no artifact at %s: compile first, or name the stage compile" % self._artifact
        return False

    def _sound(self, cores: str) -> Dict[str, Any]:
        """A server as the plan has it, from its start to its end."""
        before, began = self._stamp(), time.monotonic()
        server = self.server(cores)
        if not self.ready(server):
            return {"failed": self.why(server)}
        took = time.monotonic() - began
        seen = []
        progress = phases.Progress()
        for line in server.lines():
            progress = phases.follow(progress, line)
            seen.append(progress.phase)
        found: Dict[str, Any] = {
            "start_s": round(took, 3),
            "load_bytes": self._checkpoint_bytes(),
            "presharded": self.of.nxdi and not self._shards_on_load(),
            "early": server.early,
            "phases": sorted(set(seen)),
            "compiled": self.compiles(server, str(self._artifact)),
            "artifact_changed": self.of.nxdi and before != self._stamp(),
            "peak_bytes": server.peak_bytes,
            "allowed_bytes": self._allowed_bytes(),
            "health": server.client().status("/health"),
        }
        found.update(self._asked(server))
        found["evidence"] = evidence(["look", "device"], self.tools, self.devices, None, _pids)
        found["slice"] = self._held(server, cores)
        found["monitor"] = self._monitored(server, found["evidence"])
        self.attempt("same_cores", lambda: self.outcome(self.server(cores)))
        if len(self.slices) > 1:
            self.attempt("same_port", lambda: self._same_port(server.port))
        found["stop"] = self._stopped(server)
        return found

    def _same_port(self, port: int) -> Dict[str, Any]:
        """Start a server on a port that another one has; by that port only the other one could be asked."""
        server = self.server(self.slices[1], port=port)
        until = time.monotonic() + self.timeout_s
        serves = False
        while server.process.poll() is None and not serves and time.monotonic() < until:
            serves = self._phase(server) == "serving"
            time.sleep(_LOOK_S)
        said = phases.diagnose(server.lines())
        found: Dict[str, Any] = {
            "ready": serves,
            "status": server.process.poll(),
            "cause": said.cause if said else "",
            "words": [],
        }
        self.end(server)
        return found

    def _stamp(self) -> List[Tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in self._artifact.rglob("*") if path.is_file())

    def _allowed_bytes(self) -> int:
        return max(self.of.load_bytes or 0, 2 * self._checkpoint_bytes()) + INTERPRETERS_BYTES

    def _checkpoint_bytes(self) -> int:
        return sum(file.stat().st_size for file in Path(self.of.model).glob("*.safetensors"))

    def _asked(self, server: Server) -> Dict[str, Any]:
        """Ask a server what clients, the gate, the router and the benchmark ask."""
        client = server.client()
        found: Dict[str, Any] = {"models": client.models()}
        found["without_key"] = server.client("").status("/v1/models")
        page = client.text("/metrics") or ""
        before = exposition.totals(page)
        found["missing_metrics"] = [metric for metric in READ if metric not in before]
        status, text = self._post(server, {"max_tokens": FEW_TOKENS})
        found["completion"] = {"status": status, "tokens": json.loads(text)["usage"]["completion_tokens"]}
        texts = {json.loads(self._post(server, {"max_tokens": FEW_TOKENS})[1])["choices"][0]["text"] for _ in "ab"}
        found["greedy_texts"] = len(texts)
        streamed = {"max_tokens": FEW_TOKENS, "stream": True, "stream_options": {"include_usage": True}}
        _, stream = self._post(server, streamed)
        events: List[str] = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
        usage = [json.loads(event).get("usage") for event in events if event != "[DONE]"]
        found["stream"] = {
            "done": bool(events) and events[-1] == "[DONE]",
            "usage": bool(usage and usage[-1] and usage[-1].get("completion_tokens") == FEW_TOKENS),
        }
        after = exposition.totals(client.text("/metrics") or "")
        grown = {metric: after.get(metric, 0.0) - before.get(metric, 0.0) for metric in after}
        finished = sum(grown.get(metric, 0.0) for metric in ("vllm:request_success_total", "vllm:request_success"))
        found["counted"] = {"tokens": grown.get(exposition.GENERATION_TOKENS), "finished": finished}
        found["left"] = self._left(server)
        return found

    def _post(self, server: Server, body: Mapping[str, Any]) -> Tuple[int, str]:
        """One completion; its status and the text of its answer."""
        with self._open(server, body) as answer:
            return answer.status, answer.read(LOG_BYTES).decode("utf-8", "replace")

    @contextlib.contextmanager
    def _open(
        self, server: Server, body: Mapping[str, Any], timeout_s: float = ANSWER_S
    ) -> Iterator[http.client.HTTPResponse]:
        asked = {"model": self.of.served_name, "prompt": "The first answer is", "temperature": 0, "ignore_eos": True}
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
        headers = {"Content-Type": "application/json", "Authorization": "Bearer " + server.key, "Connection": "close"}
        try:
            connection.request("POST", "/v1/completions", json.dumps({**asked, **body}), headers)
            # Its own end of the socket has to go as well, or the server never sees the client leave.
            with connection.getresponse() as answer:
                yield answer
        finally:
            connection.close()

    def _running(self, server: Server) -> float:
        page = exposition.totals(server.client().text("/metrics") or "")
        return page.get(exposition.RUNNING, 0.0)

    def _left(self, server: Server) -> Dict[str, Any]:
        """Leave in the middle of a stream, and see how long the request stays."""
        with self._open(server, {"max_tokens": self._long(), "stream": True}) as answer:
            answer.readline()
            begun = self._running(server)
        until = time.monotonic() + min(2.0, HANG_S)
        while self._running(server) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return {"begun": begun, "after": self._running(server)}

    def _long(self) -> int:
        longest = int(agreement.flags(self.of.serve).get("max-model-len") or 0) or LONG_TOKENS * 2
        return min(LONG_TOKENS, longest // 2)

    def _held(self, server: Server, cores: str) -> Dict[str, Any]:
        """Which devices list a process of the server, and which have its cores."""
        family, first, last = set(server.family()), *(int(end) for end in cores.split("-"))
        listed, own, number = [], [], 0
        for device in read_devices(str(self.tools / "neuron-ls")):
            count = int(device["nc_count"])
            if first < number + count and number <= last:
                own.append(int(device["neuron_device"]))
            if any(process["pid"] in family for process in device["neuron_processes"]):
                listed.append(int(device["neuron_device"]))
            number += count
        return {"listed": listed, "own": own}

    def _monitored(self, server: Server, seen: Mapping[str, Any]) -> Dict[str, Any]:
        """What neuron-monitor says of the server's runtime."""
        family = set(server.family())
        report = json.loads(seen["monitor"]["out"])
        for runtime in report["neuron_runtime_data"]:
            if runtime.get("pid") in family:
                used = runtime["report"]["memory_used"]["neuron_runtime_used_bytes"]["neuron_device"]
                tag = runtime.get("neuron_runtime_tag") == "accept-%d" % self._servers.index(server)
                return {"tag": tag, "bytes": int(used), "planned": self.of.hbm_bytes}
        return {"tag": False, "bytes": None, "planned": self.of.hbm_bytes}

    def _stopped(self, server: Server) -> Dict[str, Any]:
        """Tell a server to stop while it sends, as systemd does."""
        first, last = (int(end) for end in self.slices[0].split("-"))
        cores = frozenset(range(first, last + 1))
        ended = False
        with self._open(server, {"max_tokens": self._long(), "stream": True}) as answer:
            answer.readline()
            server.process.send_signal(signal.SIGTERM)
            try:
                rest = answer.read(LOG_BYTES)
                ended = b"[DONE]" in rest or b'"finish_reason":"length"' in rest
            except (OSError, http.client.HTTPException):
                ended = False
        status = server.ended(NOTICE_S)
        free = not self._wait_free(cores)
        self.end(server)
        drains = float(agreement.flags(self.of.serve).get("shutdown-timeout") or 0) > 0
        return {"stream_ended": ended, "drains": drains, "status": status, "free": free}

    def _wait_free(self, cores: "frozenset[int]") -> bool:
        """Whether somebody holds some of the cores after the time that an end may take."""
        until = time.monotonic() + 5.0
        while True:
            left = holders(read_devices(str(self.tools / "neuron-ls")), cores)
            if not left or time.monotonic() > until:
                return bool(left)
            time.sleep(_LOOK_S)

    def _two_at_once(self) -> Dict[str, Any]:
        """Start two servers on slices of their own in the same moment."""
        if len(self.slices) < 2:
            return {"skipped": "there is room for one slice only"}
        both = [self.server(cores) for cores in self.slices]
        up = [self.ready(server) for server in both]
        for server in both:
            self.end(server)
        return {"ready": up}

    def _refusals(self, cores: str) -> None:
        """Starts that are refused before or while the runtime begins."""
        degree, count = self.of.degree, self.core_count
        self.attempt("outside", lambda: self.outcome(self.server("%d-%d" % (count - 1, count + degree - 2))))
        first = int(cores.split("-")[0])
        if degree > 1:
            last = "%d" % first if degree == 2 else "%d-%d" % (first, first + degree - 2)
            gap = "%s,%d" % (last, first + degree)
            self.attempt("gap", lambda: self.outcome(self.server(gap)))
        if self.crooked:
            self.attempt("crooked", self._crooked)
        odd = {"--tensor-parallel-size": "3"}
        self.attempt("degree", lambda: self.outcome(self.server(cores, options=odd)))
        self.attempt("option", lambda: self.outcome(self.server(cores, more=["--no-such-option-of-trainyard", "1"])))
        if self.of.generation != "nxdi_v0":
            as_option = [word for word in self.of.serve if word != self.of.model] + ["--model", self.of.model]
            self.attempt("positional", lambda: self.outcome(self.server(cores, argv=as_option)))
        if self.of.generation == "nxdi_v1":
            off = ("--no-enable-prefix-caching", "--enable-prefix-caching")
            plain = [word for word in self.of.serve if word not in off]
            words = with_option(with_option(plain, "--block-size", None), "--num-gpu-blocks-override", None)
            self.attempt("blocks", lambda: self.outcome(self.server(cores, argv=[*words, "--enable-prefix-caching"])))
        else:
            positions = self._positions()
            if positions:
                longer = {"--max-model-len": str(positions + 1)}
                self.attempt("length", lambda: self.outcome(self.server(cores, options=longer)))

    def _positions(self) -> int:
        try:
            config = json.loads((Path(self.of.model) / "config.json").read_text(encoding="utf-8"))
            return int(config.get("max_position_embeddings") or 0)
        except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError):
            return 0

    def _crooked(self) -> Dict[str, Any]:
        """A slice that begins where none of its size may: what its start does, and its first request."""
        server = self.server(self.crooked)
        if not self.ready(server):
            return self.outcome(server)
        status = 0
        with contextlib.suppress(OSError, http.client.HTTPException), self._open(server, {"max_tokens": 1}) as answer:
            status = answer.status
            answer.read(LOG_BYTES)
        found = {"answered": status, "status": server.ended(NOTICE_S if status != 200 else 0.5)}
        said = phases.diagnose(server.lines())
        self.end(server)
        return {"ready": True, **found, "cause": said.cause if said else "", "words": []}

    def _artifacts(self, cores: str) -> None:
        """Starts on artifacts that are not what they should be."""
        nothing = str(self.directory / "artifacts" / "nothing")
        self.attempt("missing_artifact", lambda: self.outcome(self.server(cores, nothing), nothing))
        self.attempt("unset_artifact", lambda: self._unset(cores))
        self.attempt("empty_artifact", lambda: self._empty(cores))
        self.attempt("headless_artifact", lambda: self._headless(cores))
        self.attempt("cut_artifact", lambda: self._cut(cores))
        if self._shards_on_load() and self._artifact == self.directory / "artifacts" / "made":
            self.attempt("moved_weights", lambda: self._moved(cores))
        if self.of.degree > 1:
            first = int(cores.split("-")[0])
            half = "%d-%d" % (first, first + self.of.degree // 2 - 1)
            self.attempt("few_cores", lambda: self.outcome(self.server(half)))
        if self.of.generation == "nxdi_v1" and "additional-config" not in agreement.flags(self.of.serve):
            more = ["--additional-config", json.dumps(OVERRIDE)]
            self.attempt("overrides", lambda: self.outcome(self.server(cores, more=more)))

    @property
    def _below_model(self) -> str:
        """Where a start without an artifact compiles."""
        return "%s/neuron-compiled-artifacts/" % (self.directory / "model")

    def _unset(self, cores: str) -> Dict[str, Any]:
        server = self.server(cores, environment={self.of.artifact_variable: None})
        return self.outcome(server, self._below_model)

    def _empty(self, cores: str) -> Dict[str, Any]:
        server = self.server(cores, "")
        self.ready(server, self._below_model)
        compiles = any("Recompiling" in line for line in server.lines())
        found = {"below_model": self.compiles(server, self._below_model), "compiles": compiles}
        self.end(server)
        return found

    def _copied(self, name: str) -> Path:
        target = self.directory / "artifacts" / name
        shutil.copytree(str(self._artifact), str(target))
        return target

    def _headless(self, cores: str) -> Dict[str, Any]:
        target = self._copied("headless")
        (target / "model.pt").unlink()
        return self.outcome(self.server(cores, str(target)), str(target))

    def _cut(self, cores: str) -> Dict[str, Any]:
        target = self._copied("cut")
        os.truncate(str(target / "model.pt"), (target / "model.pt").stat().st_size // 2)
        return self.outcome(self.server(cores, str(target)), str(target))

    def _moved(self, cores: str) -> Dict[str, Any]:
        model, elsewhere = self.directory / "model", self.directory / "elsewhere"
        model.rename(elsewhere)
        try:
            argv = [str(elsewhere) if word == self.of.model else word for word in self.of.serve]
            return self.outcome(self.server(cores, argv=argv))
        finally:
            elsewhere.rename(model)

    def _shards_on_load(self) -> bool:
        try:
            made = json.loads((self._artifact / "neuron_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return not agreement.settings_of(made).get("save_sharded_checkpoint")

    def _long_request(self, cores: str) -> Dict[str, Any]:
        """A server that was told of more tokens than were compiled, and a request of that length."""
        made = json.loads((self._artifact / "neuron_config.json").read_text(encoding="utf-8"))
        compiled = int(agreement.settings_of(made)["max_context_length"])
        if self._positions() and self._positions() < 2 * compiled:
            return {"skipped": "the model takes no longer sequence"}
        options: Dict[str, Optional[str]] = {"--max-model-len": str(2 * compiled)}
        if "num-gpu-blocks-override" in agreement.flags(self.of.serve):
            options["--num-gpu-blocks-override"] = None
        server = self.server(cores, options=options)
        if not self.ready(server):
            return {"failed": self.why(server)}
        asked = {"prompt": [1] * (compiled + 8), "max_tokens": 1}
        with contextlib.suppress(OSError, http.client.HTTPException), self._open(server, asked) as answer:
            answer.read(LOG_BYTES)
        status = self._noticed(server)
        engine = status is None and bool(server.engines())
        self.end(server)
        return {"status": status, "engine": engine}

    def _noticed(self, server: Server) -> Optional[int]:
        """Ask a server whose engine is dead, as a router's check does, until it ends; its exit status."""
        until = time.monotonic() + min(NOTICE_S, 12.0)
        while server.process.poll() is None and time.monotonic() < until:
            server.client().status("/health")
            time.sleep(5 * _LOOK_S)
        return server.process.poll()

    def _native(self, cores: str) -> None:
        """What the native engine does with its cache."""

        def kept() -> Dict[str, Any]:
            graphs = self._artifact / "neuron" / "compile_cache"
            return {"complete": any(graphs.glob("*/.compilation_complete"))}

        def forbidden() -> Dict[str, Any]:
            away = {"VLLM_NEURON_DISABLE_WARMUP_COMPILE": "1"}
            return self.outcome(self.server(cores, str(self.directory / "artifacts" / "none"), environment=away))

        self.attempt("graphs", kept)
        self.attempt("forbidden", forbidden)

    # -- fault --------------------------------------------------------------------------------------------------------

    def fault(self) -> None:
        """Break what was started here, and nothing else."""
        if not self._has_artifact():
            return
        first = self.slices[0]
        self.attempt("hang", lambda: self._hang(first))
        self.attempt("killed_engine", lambda: self._killed_engine(first))
        self.attempt("killed_server", lambda: self._killed_server(first))
        if self._shards_on_load() or not self.of.nxdi:
            self.attempt("cut_weights", lambda: self._cut_weights(first))

    def _up(self, cores: str) -> Server:
        server = self.server(cores)
        if not self.ready(server):
            raise ServingError(self.why(server))
        return server

    def _hang(self, cores: str) -> Dict[str, Any]:
        server = self._up(cores)
        for pid in server.engines():
            os.kill(pid, signal.SIGSTOP)
        answered = True
        try:
            with self._open(server, {"max_tokens": 1}, HANG_S) as answer:
                answer.read(LOG_BYTES)
        except (OSError, http.client.HTTPException):
            answered = False
        health = server.client().status("/health")
        self.end(server)
        return {"answered": answered, "health": health}

    def _killed_engine(self, cores: str) -> Dict[str, Any]:
        before = self._reset_failures()
        server = self._up(cores)
        for pid in server.engines():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = self._noticed(server)
        self.end(server)
        again = self.server(cores)
        found = {"status": status, "again": self.ready(again), "resets": [before, self._reset_failures()]}
        self.end(again)
        return found

    def _reset_failures(self) -> Optional[int]:
        """Resets that the driver counts as failed, of all devices; None where it counts none."""
        counted = [reset_failures(folder) for _, folder in folders(self.sysfs)]
        return None if not counted or None in counted else sum(count or 0 for count in counted)

    def _killed_server(self, cores: str) -> Dict[str, Any]:
        server = self._up(cores)
        server.process.kill()
        server.ended(ANSWER_S)
        time.sleep(1.0)
        held = self._held(server, cores)
        found = {
            "engines": len(server.engines()),
            "held": bool(held["listed"]),
            "port": server.client().status("/health"),
        }
        self.end(server)
        return found

    def _cut_weights(self, cores: str) -> Dict[str, Any]:
        """Serve from a checkpoint whose largest file lacks its end."""
        model = self.directory / "model"
        files = sorted(model.glob("*.safetensors"), key=lambda path: path.stat().st_size)
        if not files:
            return {"skipped": "the checkpoint has no such files"}
        source = files[-1].resolve()
        files[-1].unlink()
        try:
            shutil.copy(str(source), str(files[-1]))
            os.truncate(str(files[-1]), source.stat().st_size // 2)
            return self.outcome(self.server(cores), str(self._artifact))
        finally:
            files[-1].unlink()
            files[-1].symlink_to(source)

    # -- roll ---------------------------------------------------------------------------------------------------------

    def roll(self) -> None:
        """Replace servers one by one under load, as a roll does replicas."""
        if self._has_artifact():
            self.attempt("roll", self._roll)

    def _roll(self) -> Dict[str, Any]:
        """Two servers under more clients than they have slots; each is drained, ended and started again in its turn."""
        if len(self.slices) < 2:
            return {"skipped": "there is room for one slice only"}
        slots = int(agreement.flags(self.of.serve).get("max-num-seqs") or 1)
        servers = [self._up(cores) for cores in self.slices]
        answers = [self._greedy(server) for server in servers]
        load = Load(servers, self._open, min(ROLL_TOKENS, self._long()), 2 * min(slots + 2, MOST_CLIENTS))
        load.start()
        left = []
        try:
            for server, cores in zip(servers, self.slices):  # noqa: B905 (Python 3.9)
                empty = load.take_out(server, 2 * ANSWER_S)
                left.append([empty, self._unfinished(server)])
                server.process.send_signal(signal.SIGTERM)
                server.ended(NOTICE_S)
                self.end(server)
                fresh = self._up(cores)
                answers.append(self._greedy(fresh))
                load.put_in(fresh)
        finally:
            load.end(2 * ANSWER_S)
        steady = all(len(texts) == 1 for texts in answers)
        texts = len({text for texts in answers for text in texts})
        return {"sent": load.sent, "answered": load.answered, "left": left, "steady": steady, "texts": texts}

    def _greedy(self, server: Server) -> List[str]:
        """What a server answers without sampling, asked twice."""
        asked = [self._post(server, {"max_tokens": FEW_TOKENS})[1] for _ in "ab"]
        return sorted({str(json.loads(text)["choices"][0]["text"]) for text in asked})

    def _unfinished(self, server: Server) -> List[float]:
        """Requests that a server says it runs and has waiting, once its last client has its answer."""
        until = time.monotonic() + HANG_S
        while True:
            page = exposition.totals(server.client().text("/metrics") or "")
            found = [page.get(exposition.RUNNING, 0.0), page.get(exposition.WAITING, 0.0)]
            if not any(found) or time.monotonic() > until:
                return found
            time.sleep(_LOOK_S)


def _pids(listed: str) -> List[Any]:
    """Return the processes that `neuron-ls --json-output` names, none where it is no such list."""
    try:
        return sorted({process["pid"] for device in json.loads(listed) for process in device["neuron_processes"]})
    except (ValueError, RecursionError, TypeError, KeyError):
        return []
