# SPDX-License-Identifier: Apache-2.0
"""What it costs to find that the serving state has nothing to change: the roles, pyinfra, a plain fine-grained role.

Serving state is what `vllm_endpoint` and `load_balancer` leave on a host: the user, the package, directories, files,
links, and units that run and start at boot. The roles make it once on stand-in hosts; then it is read back from them.
pyinfra does the same work with its own operations: it renders the roles' templates from the values that they name (the
roles find out those themselves, and check their arguments besides) and copies the programs. Beside it, for the record,
pyinfra with every file given as it is to be, with nothing to render, and the plain role, which is given the same. The
replicas are small stand-in servers, so that sixteen hosts fit on one machine. Hosts and controller share its
processors: compare the columns of processor time.

Then the whole `site.yml` without its benchmark, which always sends load, over stand-in hosts that it has made before:
how many modules each host ran, by the lines that they leave in its journal, and what the run took. `--hosts` without a
number leaves the serving state out, `--site` without one the whole run.

    python bench/control_plane.py --hosts 1 4 8 16 [--site 1 16] [--rounds 3] [--plain 1 4] [--json FILE]

Exits 1 where pyinfra did the same work cheaper, or where `site.yml` took more than it may.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "collections"))

from ansible_collections.trainyard.neuron.plugins.plugin_utils.rendering import Renderer

from bench.peers import from_pypi
from tests.roles.render import replica, variables
from tests.stand_in import Lab, stand_in
from trainyard.lab import state
from trainyard.lab.commands import podman_here
from trainyard.lab.inventory import control_path_dir
from trainyard.paths import ROOT

MODEL = "bench/stand-in"
SERVER = "/usr/local/bin/bench-server"
#: Everything below these is the roles' own.
TREES = ("/usr/local/lib/trainyard", "/etc/vllm", "/etc/haproxy/trainyard", "/etc/systemd/system/haproxy.service.d")
SINGLE = (
    "/etc/haproxy/haproxy.cfg",
    "/etc/systemd/system/vllm@.service",
    "/etc/systemd/system/trainyard-probe.service",
)
READ_BACK = f"""
import glob, json, os, pwd, grp, stat
roots = {[*TREES, *SINGLE]!r} + glob.glob("/etc/systemd/system/vllm@*.service.d")
rows = []
for root in roots:
    for path in [root] + [os.path.join(at, n) for at, ds, fs in os.walk(root) for n in ds + fs]:
        if "__pycache__" in path: continue
        info = os.lstat(path)
        row = dict(path=path, user=pwd.getpwuid(info.st_uid).pw_name, group=grp.getgrgid(info.st_gid).gr_name)
        if stat.S_ISLNK(info.st_mode): row.update(kind="link", target=os.readlink(path))
        elif stat.S_ISDIR(info.st_mode): row.update(kind="directory", mode="%04o" % stat.S_IMODE(info.st_mode))
        else: row.update(kind="file", mode="%04o" % stat.S_IMODE(info.st_mode), content=open(path).read())
        rows.append(row)
print(json.dumps(rows))
"""
PLAY = {"hosts": "neuron", "gather_facts": False, "become": True}
ROLES = PLAY | {
    "roles": [
        {"role": "vllm_endpoint", "vllm_endpoint_replicas": "{{ bench_replicas }}"},
        {"role": "load_balancer", "load_balancer_models": "{{ bench_models }}"},
    ]
}
OWNED = {"dest": "{{ item.path }}", "owner": "{{ item.user }}", "group": "{{ item.group }}"}


def each(kind: str, module: str, **arguments: str) -> dict[str, Any]:
    """A task of the plain role over everything of a kind."""
    rows = "{{ bench_tree | selectattr('kind', 'equalto', '" + kind + "') }}"
    return {module: OWNED | arguments, "loop": rows, "loop_control": {"label": "{{ item.path }}"}}


USER = {"name": "vllm", "system": True, "home": "/var/lib/vllm", "shell": "/usr/sbin/nologin", "create_home": False}
PLAIN = PLAY | {
    "tasks": [
        {"ansible.builtin.user": USER},
        {"ansible.builtin.apt": {"name": "haproxy"}},
        each("directory", "ansible.builtin.file", state="directory", mode="{{ item.mode }}"),
        each("file", "ansible.builtin.copy", content="{{ item.content }}", mode="{{ item.mode }}"),
        each("link", "ansible.builtin.file", state="link", src="{{ item.target }}", follow="false"),
        {
            "ansible.builtin.systemd_service": {"name": "{{ item }}", "state": "started", "enabled": True},
            "loop": "{{ bench_units }}",
        },
    ]
}
EMPTY = PLAY | {"tasks": [{"ansible.builtin.meta": "noop"}]}
FILE_TREE = "trainyard.neuron.file_tree"
DEPLOY = """
import json, re
from jinja2 import FileSystemLoader
from jinja2.ext import Extension
from pyinfra import host
from pyinfra.operations import apt, files, server, systemd
class AsInAnsible(Extension):
    def __init__(self, environment):
        super().__init__(environment)
        environment.filters |= dict(
            combine=lambda first, then: first | then,
            to_json=json.dumps,
            to_nice_json=lambda value, **options: json.dumps(value, indent=4, **options),
            regex_replace=lambda text, pattern, by: re.sub(pattern, by, text),
        )
        environment.tests["search"] = lambda text, pattern: re.search(pattern, text) is not None
server.user(user="vllm", system=True, home="/var/lib/vllm", shell="/usr/sbin/nologin", ensure_home=False)
apt.packages(packages=["haproxy"])
for row in host.data.tree:
    name, who = row["path"], dict(user=row["user"], group=row["group"])
    if row["kind"] == "directory":
        files.directory(path=name, mode=row["mode"], **who)
    elif row["kind"] == "link":
        files.link(path=name, target=row["target"], **who)
    elif "template" in row:
        blocks = dict(trim_blocks=True, lstrip_blocks=True)
        rules = blocks | dict(extensions=[AsInAnsible], loader=FileSystemLoader(row["search"]))
        data = host.data.named | dict(item=row["item"], ansible_managed=row["managed"])
        files.template(src=row["template"], dest=name, mode=row["mode"], jinja_env_kwargs=rules, **who, **data)
    else:
        files.put(src=row["source"], dest=name, mode=row["mode"], **who)
for unit in host.data.units:
    systemd.service(service=unit, running=True, enabled=True)
"""


#: What a `site.yml` that has nothing to do may take: modules on a host, seconds at one host, and for each of many.
SITE_RUNS, SITE_ONE_S, SITE_EACH_S, SITE_MANY = 10, 6.0, 2.5, 16


class Fleet:
    """Stand-in hosts and their processor time."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.names = list(lab.inventory["neuron"]["hosts"])
        known = state.load(lab.name)
        assert known
        self.known = known
        podman = podman_here()
        groups = {}
        for name in self.names:
            pid = podman.run("inspect", "--format", "{{.State.Pid}}", known.container(name)).strip()
            line = next(row for row in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if row.startswith("0::"))
            # systemd moved itself into a group below the container's.
            groups[name] = unified() / line[3:].strip("/").removesuffix("/init.scope")
        self.groups = groups

    def cpu_s(self, count: int) -> float:
        """Processor time of the first hosts since they came up, in seconds."""
        return sum(_cpu_s(self.groups[name]) for name in self.names[:count])

    def masters_s(self) -> float:
        """Processor time of the SSH connections that Ansible keeps open, in seconds."""
        where, total = control_path_dir(self.known), 0
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if where.encode() in (entry / "cmdline").read_bytes():
                    cells = (entry / "stat").read_text().rpartition(")")[2].split()
                    total += int(cells[11]) + int(cells[12])
            except OSError:
                continue
        return total / os.sysconf("SC_CLK_TCK")


class Hosts(Fleet):
    """The stand-in hosts and what is served on them."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder)
        self.trees: dict[str, list[dict[str, Any]]] = {}
        #: As `trees`, with the template in the place of what was rendered; and the values that the templates name.
        self.rendered: dict[str, list[dict[str, Any]]] = {}
        self.named: dict[str, Any] = {}

    @staticmethod
    def variables() -> dict[str, Any]:
        """The replicas of a host and the models of its router, as a plan would give them."""
        rows = []
        for index in range(2):
            port = str(8000 + index)
            rows.append(
                replica(
                    index,
                    address="127.0.0.1",
                    url=f"http://127.0.0.1:{port}",
                    served_name=MODEL,
                    artifact_path="",
                    weights_path="/data",
                    argv=[
                        "/usr/bin/python3",
                        SERVER,
                        "--ports",
                        port,
                        "--model",
                        MODEL,
                        "--ttft-ms",
                        "5",
                        "--itl-ms",
                        "1",
                    ],
                    environment={},
                )
            )
        servers = [{key: row[key] for key in ("id", "address", "port", "agent_port", "max_num_seqs")} for row in rows]
        units = [row["unit"] for row in rows] + ["trainyard-probe.service", "haproxy.service"]
        return {"bench_replicas": rows, "bench_models": [{"name": MODEL, "servers": servers}], "bench_units": units}

    def write(self, count: int) -> None:
        """Inventories of the first hosts, for Ansible and for pyinfra: files all of them, and what each way needs."""
        shared = {key: value for key, value in self.lab.inventory["all"]["vars"].items() if key.startswith("ansible_")}
        shared |= self.stand_in_variables()
        units = self.variables()["bench_units"]
        for way, own in (
            ("roles", lambda _: self.variables()),
            ("empty", lambda _: self.variables()),
            ("plain", lambda name: {"bench_tree": self.trees.get(name, []), "bench_units": units}),
        ):
            rows = {name: {"ansible_host": self.lab.address(name)} | own(name) for name in self.names[:count]}
            inventory = {"all": {"vars": shared}, "neuron": {"hosts": rows}}
            (self.folder / f"{way}-hosts.json").write_text(json.dumps(inventory))
        files = state.paths(self.lab.name)
        common = {
            "ssh_user": "ubuntu",
            "ssh_key": str(files.key),
            "ssh_known_hosts_file": str(files.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "_sudo": True,
        }
        for file, trees in (("rendering.py", self.rendered), ("finished.py", self.trees)):
            told = [
                (
                    self.lab.address(name),
                    common | {"tree": self.files_of(trees[name]), "units": units, "named": self.named},
                )
                for name in self.names[:count]
                if name in trees
            ]
            (self.folder / file).write_text(f"hosts = {told!r}\n")
        for name, text in (
            ("roles.yml", json.dumps([ROLES])),
            ("plain.yml", json.dumps([PLAIN])),
            ("empty.yml", json.dumps([EMPTY])),
            ("deploy.py", DEPLOY),
        ):
            (self.folder / name).write_text(text)

    def read_back(self) -> None:
        """What the roles left on each host."""
        (self.folder / "read_back.py").write_text(READ_BACK)
        script = f"python3 - <<'EOF'\n{READ_BACK}\nEOF"
        self.trees = {name: json.loads(self.lab.on(name, script)) for name in self.names}
        told = self.variables()
        given = {"vllm_endpoint_replicas": told["bench_replicas"], "load_balancer_models": told["bench_models"]}
        sources, self.named = templates(given | self.stand_in_variables())
        rows = {row["name"]: row for row in told["bench_replicas"]}
        self.rendered = {name: [as_rendered(row, sources, rows) for row in tree] for name, tree in self.trees.items()}

    def files_of(self, tree: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The tree with the content of its files in files of this machine."""
        found = []
        for row in tree:
            if "content" in row:
                source = self.folder / hashlib.sha256(row["content"].encode()).hexdigest()
                source.write_text(row["content"])
                row = {key: value for key, value in row.items() if key != "content"} | {"source": str(source)}
            found.append(row)
        return found

    @staticmethod
    def stand_in_variables() -> dict[str, Any]:
        """What the role needs where something stands in for devices."""
        found: dict[str, Any] = yaml.safe_load((ROOT / "inventory/lab/group_vars/all/serving.yml").read_text())
        return found


def templates(given: dict[str, Any]) -> tuple[list[tuple[re.Pattern[str], Path]], dict[str, Any]]:
    """Which paths the roles render from which template, and the values that the templates ask for."""
    paths: list[tuple[re.Pattern[str], Path]] = []
    named: dict[str, Any] = {}
    for role in ("vllm_endpoint", "load_balancer"):
        home, known = ROOT / "roles" / role, variables(role, **given)
        del known["ansible_managed"]
        templar = Templar(loader=DataLoader(), variables=known)

        def resolve(name: str, templar: Templar = templar, known: dict[str, Any] = known) -> Any:
            named[name] = templar.template(known[name])
            return named[name]

        renderer = Renderer([home / "templates", ROOT / "templates"], frozenset(known), resolve)
        for task in DataLoader().load_from_file(str(home / "tasks/configure.yml"), trusted_as_template=True):
            names = templar.template(task.get(FILE_TREE, {}).get("names", {}))
            for item in task.get(FILE_TREE, {}).get("items", []):
                if "template" not in item or item["path"].startswith("{path}"):
                    continue  # a pair's, which these hosts are not
                path = re.escape(templar.template(item["path"]))
                for name, value in names.items():
                    path = path.replace(re.escape(f"{{{name}}}"), re.escape(value))
                pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", path)
                paths.append((re.compile(pattern), home / "templates" / item["template"]))
                if item.get("each") != "choosers":
                    renderer.render(item["template"], item=given["vllm_endpoint_replicas"][0], ansible_managed="")
    return paths, json.loads(json.dumps(named))


def as_rendered(
    row: dict[str, Any], sources: list[tuple[re.Pattern[str], Path]], replicas: dict[str, Any]
) -> dict[str, Any]:
    """A row of a tree, by its template where the roles render it."""
    for pattern, template in sources:
        if row["kind"] == "file" and (found := pattern.fullmatch(row["path"])):
            return {key: value for key, value in row.items() if key != "content"} | {
                "template": str(template),
                "search": [str(template.parent), str(ROOT / "templates")],
                "managed": f"Managed by trainyard ({template.name}): changes made here are lost.",
                "item": replicas.get(found.groupdict().get("name", "")),
            }
    return row


def unified() -> Path:
    """Where version 2 of the control groups is mounted, whose processor time needs no controller."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next(Path(row[1]) for row in rows if row[2] == "cgroup2")


def _cpu_s(group: Path) -> float:
    rows = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(rows["usage_usec"]) / 1e6


def changes(text: str) -> str:
    """The lines in which Ansible or pyinfra says at its end that it changed something."""
    lines = text.splitlines()
    changed = [line for line in lines if re.search(r"\bok=\d+\s+changed=[1-9]", line)]
    # pyinfra's columns: operations, done, failed, without a change.
    totals = [line.split()[2:] for line in lines if line.strip().startswith("Grand total")]
    return "\n".join(changed + [" ".join(cells) for cells in totals if cells[0] != cells[-1]])


def run(hosts: Fleet, command: list[str], count: int, may_change: bool = False) -> dict[str, float]:
    """One run: wall and processor seconds, the hosts' own idling taken off.

    Raises:
        RuntimeError: it failed, or found something to do where it must not.
    """
    began, idle = time.monotonic(), hosts.cpu_s(count)
    time.sleep(3.0)
    idle_share = (hosts.cpu_s(count) - idle) / (time.monotonic() - began)
    host_s, masters_s, began = hosts.cpu_s(count), hosts.masters_s(), time.monotonic()
    with (hosts.folder / "log").open("w+") as log:
        # Every way prints what it prints for people.
        environment = {key: value for key, value in hosts.lab.environment.items() if key != "ANSIBLE_STDOUT_CALLBACK"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read()
    wall_s = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{text[-3000:]}")
    if not may_change and (told := changes(text)):
        raise RuntimeError(f"{command[0]} found something to do:\n{told}")
    return {
        "wall_s": wall_s,
        "controller_cpu_s": usage.ru_utime + usage.ru_stime + hosts.masters_s() - masters_s,
        "hosts_cpu_s": hosts.cpu_s(count) - host_s - idle_share * wall_s,
    }


def commands(hosts: Hosts, count: int, pyinfra: str = "", plain: bool = False) -> dict[str, list[str]]:
    """The ways to keep the state, by name."""
    folder = hosts.folder

    def ansible(way: str) -> list[str]:
        inventory, playbook = folder / f"{way}-hosts.json", folder / f"{way}.yml"
        return ["ansible-playbook", "-i", str(inventory), f"--forks={count}", str(playbook)]

    found = {"roles": ansible("roles"), "ansible-core's start": ansible("empty")}
    if pyinfra:
        for way, inventory in (("pyinfra", "rendering.py"), ("pyinfra, nothing to render", "finished.py")):
            found[way] = [pyinfra, "-y", str(folder / inventory), str(folder / "deploy.py")]
    if plain:
        found["plain role"] = ansible("plain")
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Bring the hosts up, serve on them, and keep that state in every way by turns."""
    result: dict[str, Any] = {"provenance": "simulated", "hosts": {}}
    with stand_in("control", max(options.hosts)) as lab, tempfile.TemporaryDirectory() as name:
        hosts = Hosts(lab, Path(name))
        pyinfra = from_pypi("pyinfra", "pyinfra", Path(name))
        server = Path(__file__).with_name("instrumented_server.py")
        argv = ["ansible", "neuron", "-i", "inventory/lab", "--become", "-m", "ansible.builtin.copy"]
        subprocess.run(
            [*argv, "-a", f"src={server} dest={SERVER} mode=0755"],
            cwd=ROOT, env=lab.environment, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        hosts.write(len(hosts.names))
        run(hosts, commands(hosts, len(hosts.names))["roles"], 1, may_change=True)
        hosts.read_back()
        for count in options.hosts:
            hosts.write(count)
            ways = commands(hosts, count, pyinfra, count in options.plain)
            rows: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
            for number in range(options.rounds + 1):
                for way, command in ways.items():
                    if way == "plain role" and number > 1:
                        continue
                    row = run(hosts, command, count)
                    if number:  # the first of each opens connections and fills caches
                        rows[way].append(row)
            result["hosts"][count] = {
                way: {key: statistics.median(row[key] for row in found) for key in found[0]}
                for way, found in rows.items()
            }
            print(count, json.dumps(result["hosts"][count]), flush=True)
    return result


class Site(Fleet):
    """Stand-in hosts that `site.yml` makes."""

    def inventory(self, count: int) -> Path:
        """Write an inventory of the first hosts, as the lab's own is but for their number."""
        folder = self.folder / f"site-{count}"
        folder.mkdir()
        (folder / "group_vars").symlink_to(ROOT / "inventory/lab/group_vars")
        told = dict(self.lab.inventory)
        told["neuron"] = {"hosts": self.names[:count]}
        told["_meta"] = {"hostvars": {name: told["_meta"]["hostvars"][name] for name in self.names[:count]}}
        script = folder / "hosts.py"
        script.write_text(f"#!{sys.executable}\nprint({json.dumps(told)!r})\n")
        script.chmod(0o755)
        return folder

    def module_runs(self, count: int, since_s: float) -> dict[str, int]:
        """Modules that each of the first hosts ran since then."""
        ask = f"journalctl --no-pager --output=cat --since=@{since_s} | grep 'Invoked with' | grep -vc journalctl"
        return {name: int(self.lab.on(name, ask)) for name in self.names[:count]}


def measure_site(counts: list[int], rounds: int) -> dict[int, dict[str, float]]:
    """Make fleets of these numbers of hosts by `site.yml`, and find that there is nothing to do."""
    found: dict[int, dict[str, float]] = {}
    with stand_in("site", max(counts)) as lab, tempfile.TemporaryDirectory() as name:
        site = Site(lab, Path(name))
        for count in sorted(counts):
            argv = ["ansible-playbook", "-i", str(site.inventory(count)), "site.yml", "--skip-tags", "benchmark"]
            run(site, argv, count, may_change=True)
            run(site, argv, count)
            rows = []
            for _ in range(rounds):
                began_s = time.time()
                row = run(site, argv, count)
                rows.append(row | {"module_runs": max(site.module_runs(count, began_s).values())})
            found[count] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            print("site", count, json.dumps(found[count]), flush=True)
    return found


def site_misses(found: dict[int, dict[str, float]]) -> list[str]:
    """What `site.yml` took more of than it may, a line for each."""
    missed = []
    for count, row in found.items():
        if row["module_runs"] > SITE_RUNS:
            missed.append(
                f"site.yml, {count} hosts: {row['module_runs']:.0f} module runs on a host, {SITE_RUNS} may be"
            )
        limit_s = SITE_ONE_S if count == 1 else SITE_EACH_S * count
        if (count == 1 or count >= SITE_MANY) and row["wall_s"] > limit_s:
            missed.append(f"site.yml, {count} hosts: {row['wall_s']:.1f} s, {limit_s:.0f} may be")
    return missed


def main() -> int:
    """Measure, print a table, and write the figures as JSON on request; 1 if a bound was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--site", type=int, nargs="*", default=[1, 16], help="numbers of hosts for the whole site.yml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--plain", type=int, nargs="*", default=[1, 4], help="numbers of hosts to run the plain role on"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options) if options.hosts else {"provenance": "simulated", "hosts": {}}
    result["site"] = measure_site(options.site, options.rounds) if options.site else {}
    print("simulated hosts on the controller's own machine; nothing to change; seconds")
    print("| hosts | way | wall | controller CPU | hosts' CPU |\n|---|---|---|---|---|")
    missed = []
    for count, ways in result["hosts"].items():
        for way, row in ways.items():
            print(
                f"| {count} | {way} | {row['wall_s']:.1f} | {row['controller_cpu_s']:.1f} | {row['hosts_cpu_s']:.1f} |"
            )
            if way == "pyinfra":
                missed += [f"{count} hosts: {key}" for key in row if ways["roles"][key] > row[key]]
    print(
        "site.yml, nothing to do\n| hosts | modules on a host | wall | controller CPU | hosts' CPU |"
        "\n|---|---|---|---|---|"
    )
    for count, row in result["site"].items():
        print(
            f"| {count} | {row['module_runs']:.0f} | {row['wall_s']:.1f} | {row['controller_cpu_s']:.1f} | "
            f"{row['hosts_cpu_s']:.1f} |"
        )
    missed += site_misses(result["site"])
    for miss in missed:
        print(f"  MISSED {miss}")
    if options.json:
        options.json.write_text(json.dumps(result | {"misses": missed}, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
