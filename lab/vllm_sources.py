# SPDX-License-Identifier: Apache-2.0
"""Makes stand-ins of the sources that vLLM is built from, as bare git repositories, one branch for each that is built.

Standard input is JSON: `sources`, a list of `{"repo", "ref", "commit", "requirements", "release", "vllm"}`, and
`copies`, repository -> a clone that is at hand and is served as it is. A commit's name is that of its content, so a
stand-in has another one than what it stands for; `commits.json` says which. The same input gives the same commits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab.neuron_wheels import COMMAND

#: A build backend inside the source, so that nothing else is needed to build it.
BACKEND = """\
import zipfile

VERSION = {version!r}
FILES = {files!r}
SCRIPTS = {scripts!r}


def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "vllm-" + VERSION + "-py3-none-any.whl"
    info = "vllm-" + VERSION + ".dist-info"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
        for script, text in SCRIPTS.items():
            entry = zipfile.ZipInfo("vllm-" + VERSION + ".data/scripts/" + script)
            entry.external_attr = 0o100755 << 16
            wheel.writestr(entry, "#!python\\n" + text)
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: vllm\\nVersion: " + VERSION + "\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""
_PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "vllm"
version = "{version}"
"""
_PERSON = {"NAME": "lab", "EMAIL": "lab@example.com", "DATE": "2026-01-01T00:00:00Z"}


def tree(source: dict[str, Any]) -> dict[str, str]:
    """The files of one source: a vLLM whose commands are the lab's."""
    version, release = source["vllm"], source["release"]
    server = COMMAND.format(name="api_server", release=release)
    files = {
        "vllm/__init__.py": f"__version__ = {version!r}\n",
        "vllm/entrypoints/__init__.py": "",
        "vllm/entrypoints/openai/__init__.py": "",
        "vllm/entrypoints/openai/api_server.py": server.replace(
            "sys.exit(", 'if __name__ == "__main__":\n    sys.exit('
        ),
    }
    scripts = {"vllm": COMMAND.format(name="vllm", release=release)}
    return {
        "pyproject.toml": _PROJECT.format(version=version),
        "backend.py": BACKEND.format(version=version, files=files, scripts=scripts),
        source["requirements"]: "neuronx-cc\nneuronx-distributed-inference\n",
    }


def git(folder: Path, *words: str) -> str:
    """Run git so that the same files give the same commit, whoever runs it."""
    person = {f"GIT_{who}_{key}": value for who in ("AUTHOR", "COMMITTER") for key, value in _PERSON.items()}
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": str(folder)}
    environment = {"PATH": os.environ.get("PATH", os.defpath), **person, **quiet}
    done = subprocess.run(
        ["git", "-C", str(folder), *words], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def make(folder: Path, sources: list[dict[str, Any]], copies: dict[str, str]) -> None:
    """Write the repositories, and `commits.json`."""
    commits = {}
    for source in sources:
        bare = folder / source["repo"]
        if not bare.exists():
            bare.mkdir(parents=True)
            git(bare, "init", "--quiet", "--bare", "--initial-branch=main")
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(scratch)
            git(work, "init", "--quiet", "--initial-branch=made")
            for name, text in tree(source).items():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                (work / name).write_text(text, encoding="utf-8")
            git(work, "add", ".")
            git(work, "commit", "--quiet", "--message", f"Stand in for {source['commit']}")
            git(work, "push", "--quiet", str(bare), f"HEAD:refs/heads/{source['ref']}")
            commits[source["commit"]] = git(work, "rev-parse", "HEAD")
    for repository, clone in copies.items():
        found = Path(clone, ".git")
        shutil.copytree(found if found.is_dir() else clone, folder / repository, symlinks=True)
    (folder / "commits.json").write_text(json.dumps(commits, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Make the repositories that standard input lists."""
    options = argparse.ArgumentParser(description="Make stand-ins of the sources that vLLM is built from.")
    options.add_argument("folder", type=Path)
    given = json.load(sys.stdin)
    make(options.parse_args().folder, given["sources"], given["copies"])


if __name__ == "__main__":
    main()
