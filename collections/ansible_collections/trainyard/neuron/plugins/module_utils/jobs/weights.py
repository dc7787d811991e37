# SPDX-License-Identifier: Apache-2.0
"""Bring a model checkpoint onto this host, pinned by revision and verified file by file.

The checkpoint is made in a staging directory beside its final place. A run that was cut off leaves that directory,
and the next one goes on from it; the final name appears with the manifest, when every sum was right.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

from . import job, manifest, names, peer, progress, transfer

#: A revision of S3 or path weights that is a content digest and not just a label.
CONTENT_DIGEST = re.compile(r"[0-9a-f]{64}")

HF = Path(sys.executable).parent / "hf"


def run(spec: Dict[str, Any], report: progress.Progress) -> Dict[str, Any]:
    """Make `spec['path']` hold the weights that `spec['inputs']` names; return the manifest.

    `spec`: id, path, inputs {repo, revision, source, uri, exclude}, endpoint (of the hub, empty for the real one),
    max_workers, and the sender where another host of the fleet is to be asked first.
    """
    final = Path(spec["path"])
    staging = manifest.staging_of(final)
    if not job.complete_problems(final, spec["inputs"]):
        return dict(manifest.read(final) or {})
    staging.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() and not staging.exists():
        final.rename(staging)  # what is right in it need not come again
    (staging / manifest.NAME).unlink(missing_ok=True)
    began_s = time.monotonic()
    name, files = _bring(spec, staging, report)
    described = manifest.of_files(
        files,
        "weights",
        spec["id"],
        spec["inputs"],
        {"from": name, "on": os.uname().nodename, "seconds": round(time.monotonic() - began_s, 1)},
    )
    _check_revision(spec, described, staging)
    manifest.publish(staging, final, described)
    return described


def _bring(spec: Dict[str, Any], staging: Path, report: progress.Progress) -> Tuple[str, List[Dict[str, Any]]]:
    """Fill the staging directory, from the fleet where a sender is named, else or failing that from the source."""
    if spec.get("sender"):
        sender = peer.Peer(spec, report)
        try:
            return sender.name, transfer.bring(sender, staging, spec["id"], report)
        except (peer.PeerError, job.JobError) as error:
            print(f"{error}; going to the source instead", flush=True)  # noqa: T201 - the job's log
        finally:
            sender.close()
    source = SOURCES[spec["inputs"]["source"]](spec)
    return source.name, transfer.bring(source, staging, spec["id"], report)


def _check_revision(spec: Dict[str, Any], described: Dict[str, Any], staging: Path) -> None:
    revision = spec["inputs"]["revision"]
    if spec["inputs"]["source"] == "huggingface" or not CONTENT_DIGEST.fullmatch(revision):
        return
    if described["files_digest"] != revision:
        raise job.JobError(
            f"{spec['inputs']['uri']} holds content {described['files_digest']}, the deployment pins {revision}",
            f"{staging} holds what was fetched",
            "correct the uri, or set the revision to the content that is meant",
        )


class HubSource:
    """A repository of a Hugging Face hub at one commit, fetched by its own client (parallel, resuming, backing off)."""

    def __init__(self, spec: Dict[str, Any]) -> None:
        self._inputs = spec["inputs"]
        self._endpoint = spec.get("endpoint") or None
        self._workers = int(spec.get("max_workers") or 8)
        self.name = f"{self._inputs['repo']} at {self._inputs['revision'][:12]}"

    def expected(self) -> List[Dict[str, Any]]:
        """Return `{path, size, sha256 or git_sha1}` of every wanted file, as the hub states them."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.hf_api import RepoFile

        try:
            tree = list(
                HfApi(endpoint=self._endpoint, token=os.environ.get("HF_TOKEN") or None).list_repo_tree(
                    self._inputs["repo"], recursive=True, revision=self._inputs["revision"]
                )
            )
        except (HfHubHTTPError, OSError) as error:
            raise job.JobError(
                f"the hub does not list {self.name}: {_one_line(error)}",
                "nothing was written",
                "check repository, revision, and for a gated model the token (model_weights_hub_token)",
            ) from error
        files = []
        for item in tree:
            if not isinstance(item, RepoFile) or excluded(item.path, self._inputs["exclude"]):
                continue
            entry: Dict[str, Any] = {"path": item.path, "size": item.lfs.size if item.lfs else item.size}
            if item.lfs:
                entry["sha256"] = item.lfs.sha256
            else:
                entry["git_sha1"] = item.blob_id
            files.append(entry)
        return files

    def fetch(self, staging: Path, expected: List[Dict[str, Any]]) -> None:
        """Run the hub's client until all files are in `staging`; what is there already is not fetched again."""
        self._finish_partials(staging, expected)
        argv = [str(HF), "download", self._inputs["repo"], "--revision", self._inputs["revision"]]
        argv += ["--local-dir", str(staging), "--max-workers", str(self._workers), "--format", "quiet"]
        # The client lists the repository anew: it takes the files that were checked here, whatever it is told then.
        argv += [f"--include={glob.escape(entry['path'])}" for entry in expected]
        environment = dict(os.environ, HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
        if self._endpoint:
            environment["HF_ENDPOINT"] = self._endpoint
        result = subprocess.run(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        print(result.stdout, end="", flush=True)  # noqa: T201 - the job's log
        if result.returncode != 0 and os.strerror(errno.ENOSPC) in result.stdout:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(staging))
        if result.returncode != 0:
            raise job.JobError(
                f"`hf download` of {self.name} ended with status {result.returncode}: {_last_line(result.stdout)}",
                f"{staging} keeps what arrived",
                "run again to resume",
            )

    def _finish_partials(self, staging: Path, expected: List[Dict[str, Any]]) -> None:
        """Go on with the files that a killed client left half fetched: a new client would begin them anew.

        Source: huggingface_hub pull request 4228, each process has temporary files of its own.
        """
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils._headers import build_hf_headers

        notes = staging / ".cache" / "huggingface" / "download"
        for entry in expected:
            partials = sorted(notes.rglob(f"*.{entry.get('sha256')}.*incomplete"), key=lambda path: path.stat().st_size)
            target = names.inside(staging, entry["path"], self.name)
            if partials and not target.exists() and 0 < partials[-1].stat().st_size < entry["size"]:
                url = hf_hub_url(
                    self._inputs["repo"], entry["path"], revision=self._inputs["revision"], endpoint=self._endpoint
                )
                had_bytes = partials[-1].stat().st_size
                print(f"{entry['path']}: going on at {progress.human_bytes(had_bytes)}", flush=True)  # noqa: T201 - the job's log
                with partials[-1].open("ab") as stream:
                    headers = build_hf_headers(token=os.environ.get("HF_TOKEN") or False)
                    http_get(url, stream, resume_size=had_bytes, headers=headers, expected_size=entry["size"])
                if manifest.hash_file(partials[-1]) == entry["sha256"]:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    partials.pop().replace(target)
            for partial in partials:
                partial.unlink()

    def forget(self, staging: Path, name: str) -> None:
        """Remove a wrong file and what the client remembers of it, so that it is fetched anew and alone."""
        names.inside(staging, name, self.name).unlink(missing_ok=True)
        notes = staging / ".cache" / "huggingface" / "download"
        names.inside(notes, f"{name}.metadata", self.name).unlink(missing_ok=True)


class S3Source:
    """The objects below `s3://bucket/prefix`, with their manifest where they have one."""

    def __init__(self, spec: Dict[str, Any]) -> None:
        from . import store

        self._inputs = spec["inputs"]
        self.name = str(self._inputs["uri"])
        self._bucket, _, prefix = self.name[len("s3://") :].partition("/")
        self._prefix = prefix.strip("/") + "/"
        self._client = store.s3_client(spec.get("s3_endpoint") or "")

    def expected(self) -> List[Dict[str, Any]]:
        """Return `{path, size, sha256 if stated}` of every wanted object."""
        from . import store

        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            objects = {
                item["Key"][len(self._prefix) :]: item["Size"] for page in pages for item in page.get("Contents", [])
            }
            described = None
            if manifest.NAME in objects:
                body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + manifest.NAME)["Body"].read()
                described = manifest.parse(body.decode(), f"{self.name}/{manifest.NAME}")
        except store.s3_errors() as error:
            raise job.JobError(
                f"{self.name}: {error}", "nothing was written", "check bucket, prefix and credentials"
            ) from error
        if described is not None:
            return list(described["files"])
        wanted = [
            name for name in objects if name and not name.endswith("/") and not excluded(name, self._inputs["exclude"])
        ]
        if not wanted:
            raise job.JobError(f"{self.name} holds no object", "nothing was written", "correct the uri of the model")
        return [{"path": name, "size": objects[name]} for name in sorted(wanted)]

    def fetch(self, staging: Path, expected: List[Dict[str, Any]]) -> None:
        """Download what is not there yet; a file takes its name only when it is whole."""
        from . import store

        for entry in expected:
            if not transfer.lacks(staging, entry):
                continue
            target = names.inside(staging, entry["path"], self.name)
            try:
                self._client.download_file(self._bucket, self._prefix + entry["path"], str(target))
            except store.s3_errors() as error:
                raise job.JobError(
                    f"{self.name}/{entry['path']}: {error}", f"{staging} keeps what arrived", "run again to resume"
                ) from error

    def forget(self, staging: Path, name: str) -> None:
        """Remove a wrong file, so that it is fetched anew and alone."""
        names.inside(staging, name, self.name).unlink(missing_ok=True)


class PathSource:
    """A directory of this host, usually on a shared file system.

    Links in it are followed as far as they stay in it; those of a hub's cache may lead to its blobs. The job reads as
    root, so a link of somebody who may write there could else have any file of the host copied to where all may read.
    """

    def __init__(self, spec: Dict[str, Any]) -> None:
        self._inputs = spec["inputs"]
        self.name = str(self._inputs["uri"])
        self._root = Path(self.name)
        self._real = Path(os.path.realpath(self._root))

    def expected(self) -> List[Dict[str, Any]]:
        """Return `{path, size, sha256 if stated}` of every wanted file.

        Raises:
            job.JobError: no directory, or a link in it that leads out.
        """
        if not self._root.is_dir():
            raise job.JobError(
                f"{self._root} is not a directory on this host",
                "nothing was written",
                "mount it, or correct the uri of the model",
            )
        described = manifest.read(self._root)
        if described is not None:
            return list(described["files"])
        return [{"path": name, "size": self._source(name).stat().st_size} for name in sorted(self._names(Path()))]

    def _names(self, folder: Path) -> Iterator[str]:
        """Yield the wanted files below a folder of this directory."""
        for entry in sorted((self._root / folder).iterdir()):
            relative = (folder / entry.name).as_posix()
            if relative in manifest.EXCLUDED_TOP_LEVEL or excluded(relative, self._inputs["exclude"]):
                continue
            if entry.is_dir() and not entry.is_symlink():
                yield from self._names(folder / entry.name)
            else:
                yield relative

    def _source(self, name: str) -> Path:
        """Return the real file of a name.

        Raises:
            job.JobError: it is no regular file, or a link takes it out of the directory.
        """
        real = Path(os.path.realpath(self._root / names.relative(name, self.name)))
        homes = [self._real]
        if self._real.parent.name == "snapshots":
            homes.append(self._real.parent.parent / "blobs")
        if not any(home in real.parents for home in homes):
            raise self._refused(name, f"a link to {real}, outside of it")
        if not real.is_file():
            raise self._refused(name, "no regular file")
        return real

    def _refused(self, name: str, why: str) -> job.JobError:
        return job.JobError(
            f"{self.name}: {names.shown(name)} is {why}",
            "nothing was written",
            "put the file itself there, or name the directory that it is in as the uri of the model",
        )

    def fetch(self, staging: Path, expected: List[Dict[str, Any]]) -> None:
        """Copy what is not there yet; a file takes its name only when it is whole."""
        for entry in expected:
            if not transfer.lacks(staging, entry):
                continue
            target = names.inside(staging, entry["path"], self.name)
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(self._source(entry["path"]), partial)
            partial.replace(target)

    def forget(self, staging: Path, name: str) -> None:
        """Remove a wrong file, so that it is copied anew and alone."""
        names.inside(staging, name, self.name).unlink(missing_ok=True)


SOURCES: Dict[str, Callable[[Dict[str, Any]], transfer.Source]] = {
    "huggingface": HubSource,
    "s3": S3Source,
    "path": PathSource,
}


def excluded(name: str, patterns: List[str]) -> bool:
    """Return whether a file is left out: the patterns are the hub client's, `*` crosses folders."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
