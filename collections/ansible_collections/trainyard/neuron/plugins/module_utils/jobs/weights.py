# SPDX-License-Identifier: Apache-2.0
"""Bring a model checkpoint onto this host, pinned by revision and verified file by file.

The checkpoint is made in a staging directory beside its final place. A run that was cut off leaves that directory,
and the next one goes on from it; the final name appears with the manifest, when every sum was right.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from . import checkpoint, job, manifest, names, peer, progress, transfer

#: A revision of S3 or path weights that is a content digest and not just a label.
CONTENT_DIGEST = re.compile(r"[0-9a-f]{64}")

HF = Path(sys.executable).parent / "hf"


def run(spec: Dict[str, Any], report: progress.Progress) -> Dict[str, Any]:
    """Make `spec['path']` hold the weights that `spec['inputs']` names; return the manifest.

    `spec`: id, path, inputs {repo, revision, source, uri, exclude, maybe trust}, endpoint (empty for the real hub),
    max_workers, and the sender where another host of the fleet is to be asked first.
    """
    final = Path(spec["path"])
    staging = manifest.staging_of(final)
    if not job.complete_problems(final, spec["inputs"]):
        return dict(manifest.read(final) or {})
    job.refuse_unreadable(
        final,
        f"`mv {final}/{manifest.NAME} {final}/{manifest.NAME}.broken`, then run again: each file is compared with its "
        "source, and what is right does not come again",
    )
    staging.parent.mkdir(parents=True, exist_ok=True)
    if final.exists() and not staging.exists():
        final.rename(staging)  # what is right in it need not come again
    (staging / manifest.NAME).unlink(missing_ok=True)
    began_s = time.monotonic()
    name, files = _bring(spec, staging, report)
    _require_whole(staging, files, name)
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


def _require_whole(staging: Path, files: List[Dict[str, Any]], origin: str) -> None:
    """Refuse a checkpoint that lacks a part, before it gets its manifest.

    Raises:
        job.JobError: with every problem; the files that are wrong are removed, so that they come anew.
    """
    found = [entry["path"] for entry in files]
    wrong = checkpoint.problems(staging, found)
    if not wrong:
        code = checkpoint.own_code(staging)
        if code and not any(name.endswith(".py") for name in found):
            print(f"config.json asks for programs that are not here: {', '.join(code)}", flush=True)  # noqa: T201 - the job's log
        return
    for name in {line.split(": ", 1)[0] for line in wrong} & set(found):
        names.inside(staging, name, origin).unlink()
    more = f"; and {len(wrong) - checkpoint.TOLD} more" if len(wrong) > checkpoint.TOLD else ""
    raise job.JobError(
        f"the checkpoint of {origin} is not whole: {'; '.join(wrong[: checkpoint.TOLD])}{more}",
        f"{staging} keeps the files that are right",
        "complete it there, or give another revision or uri; then run again",
    )


def wanted_of(entries: List[Dict[str, Any]], inputs: Dict[str, Any], origin: str) -> List[Dict[str, Any]]:
    """Return what of a listing is the checkpoint, `entries` being its `{path, size, ...}`; tells what is left out.

    Raises:
        job.JobError: a name that is refused, or no checkpoint that may be served.
    """
    try:
        # All of them, and before anything is left out: who writes one such name may have written the others.
        listed = names.listing(entries, origin)
        ours = [entry for entry in listed if entry["path"].split("/")[0] not in manifest.EXCLUDED_TOP_LEVEL]
        kept, out = checkpoint.select((e["path"] for e in ours), inputs["exclude"], inputs.get("trust") or ())
    except names.BadNameError as error:
        raise transfer.refused(str(error)) from error
    except checkpoint.UnwantedError as error:
        raise job.JobError(
            f"{origin}: {error}", "nothing was fetched", "correct the model's repo, revision, uri or trust"
        ) from error
    for name, why in out.items():
        print(f"left out: {name}: {why}", flush=True)  # noqa: T201 - the job's log
    return [entry for entry in ours if entry["path"] in set(kept)]


def stated_by(text: bytes, origin: str, inputs: Dict[str, Any]) -> Optional[List[Dict[str, Any]]]:
    """Return the files that a manifest beside a checkpoint states; None for another program's file of that name.

    Raises:
        job.JobError: it is ours and cannot be read, or is not that of these weights.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = {}
        other = False
    else:
        other = not isinstance(document, dict) or "files_digest" not in document
    if other:
        print(f"{origin} is another program's file and not read", flush=True)  # noqa: T201 - the job's log
        return None
    try:
        described = manifest.parse(text, origin)
    except manifest.ManifestError as error:
        raise job.JobError(
            f"{error}. What it said of the files there, their sums, is lost",
            "nothing was fetched or removed",
            "copy the checkpoint there anew; or remove that file alone, and the files are taken as they are",
        ) from error
    repo = described["inputs"].get("repo", inputs["repo"])
    if described["kind"] != "weights" or repo != inputs["repo"]:
        what = f"weights of {repo}" if described["kind"] == "weights" else f"the {described['kind']} {described['id']}"
        raise job.JobError(
            f"{origin} describes {names.shown(what)}, not weights of {inputs['repo']}",
            "nothing was fetched",
            "correct the repo or the uri of the model; if that directory was filled by hand, remove that file from it",
        )
    files: List[Dict[str, Any]] = described["files"]
    kept = wanted_of(files, {**inputs, "exclude": []}, origin)
    gone = sorted({entry["path"] for entry in files} - {entry["path"] for entry in kept})
    if not CONTENT_DIGEST.fullmatch(inputs["revision"]):
        return kept
    programs = [name for name in gone if name.endswith(checkpoint.PROGRAMS)]
    if programs:
        raise job.JobError(
            f"the content that the deployment pins holds programs ({', '.join(programs[: checkpoint.TOLD])})",
            "nothing was fetched",
            "pin content without them, or allow them for this checkpoint: model.trust: [remote_code]",
        )
    return files


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
            if not isinstance(item, RepoFile):
                continue
            entry: Dict[str, Any] = {"path": item.path, "size": item.lfs.size if item.lfs else item.size}
            if item.lfs:
                entry["sha256"] = item.lfs.sha256
            else:
                entry["git_sha1"] = item.blob_id
            files.append(entry)
        return wanted_of(files, self._inputs, self.name)

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
            stated = None
            if manifest.NAME in objects:
                body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + manifest.NAME)["Body"].read()
                stated = stated_by(body, f"{self.name}/{manifest.NAME}", self._inputs)
        except store.s3_errors() as error:
            raise job.JobError(
                f"{self.name}: {error}", "nothing was written", "check bucket, prefix and credentials"
            ) from error
        if stated is not None:
            return stated
        # An object whose name ends so is how some programs note an empty folder.
        listed = [{"path": name, "size": objects[name]} for name in sorted(objects) if name and not name.endswith("/")]
        if not listed:
            raise job.JobError(f"{self.name} holds no object", "nothing was written", "correct the uri of the model")
        return wanted_of(listed, self._inputs, self.name)

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
        own = self._root / manifest.NAME
        stated = stated_by(own.read_bytes(), str(own), self._inputs) if own.is_file() else None
        if stated is not None:
            return stated
        listed = [{"path": name, "size": self._source(name).stat().st_size} for name in sorted(self._names(Path()))]
        return wanted_of(listed, self._inputs, self.name)

    def _names(self, folder: Path) -> Iterator[str]:
        """Yield the wanted files below a folder of this directory."""
        for entry in sorted((self._root / folder).iterdir()):
            relative = (folder / entry.name).as_posix()
            if relative in manifest.EXCLUDED_TOP_LEVEL:
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
