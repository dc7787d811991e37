# SPDX-License-Identifier: Apache-2.0
"""Whether what a run will fetch is there for this host: packages, indexes, images, checkpoints, the store.

Nothing is kept, and nothing is changed but for an upload that is begun in the store and given up at once, which is how
a store says whether it takes one. A question is `{what, kind, url, ...}`, an answer has `problem` and `detail` as well.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.preflight import signing

#: What one answer may take, seconds, and bytes: an index of packages has a few MiB.
TIMEOUT_S, MOST_BYTES = 8.0, 32 << 20
MOST_UNPACKED_BYTES = 256 << 20

#: What is asked for of an image: its own manifest, or that of all platforms.
_MANIFESTS = ", ".join(
    "application/vnd.%s+json" % kind
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)

_REGISTRIES = ("/etc/containers/registries.conf", "/etc/containers/registries.conf.d")


class Answer(Exception):  # noqa: N818 - it is an answer, and ends the question that it is of
    """What a source said that is no success: `problem` is a word that the controller knows."""

    def __init__(self, problem: str, detail: str = "") -> None:
        super().__init__(detail or problem)
        self.problem, self.detail = problem, detail


#: Where an instance asks for what EC2 knows of it.
_OWN = ("169.254.169.254", "fd00:ec2::254")


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to another host without the credential that was meant for the first."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the next request."""
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            for headers_of in (made.headers, made.unredirected_hdrs):
                headers_of.pop("Authorization", None)
        return made


def fetch(
    url: str, headers: Optional[Mapping[str, str]] = None, method: str = "GET", data: Optional[bytes] = None
) -> Tuple[int, bytes, Mapping[str, str]]:
    """Return status, content and headers of an answer, of whatever status.

    Raises:
        Answer: nothing answered, `unreachable`, `certificate` or `name`.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise Answer("unreachable", "no address of the web: %s" % url)
    try:
        request = urllib.request.Request(url, data=data, headers=dict(headers or {}), method=method)  # noqa: S310 - see above
        # What an instance asks of itself goes by no proxy.
        near = [urllib.request.ProxyHandler({})] if urllib.parse.urlsplit(url).hostname in _OWN else []
        opener = urllib.request.build_opener(_SameHost, *near)
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read(MOST_BYTES), {key.lower(): text for key, text in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(1 << 16), {key.lower(): text for key, text in error.headers.items()}
    except urllib.error.URLError as error:
        raise _no_answer(error.reason) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _no_answer(error) from error


def _no_answer(reason: Any) -> Answer:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Answer("certificate", reason.verify_message)
    if isinstance(reason, socket.gaierror):
        return Answer("name", str(reason.strerror))
    return Answer("unreachable", str(getattr(reason, "strerror", None) or reason))


def ask(question: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the answer to one question, whose `problem` is empty where all is well."""
    url, headers = without_login(str(question["url"]))
    asked = {**question, "url": url, "headers": {**(question.get("headers") or {}), **headers}}
    found = {key: asked[key] for key in ("what", "kind", "url")}
    try:
        KINDS[str(question["kind"])](asked)
    except Answer as answer:
        # A program that was given authorities of its own does not ask for the system's.
        if not (answer.problem == "certificate" and question.get("own_trust")):
            return {**found, "problem": answer.problem, "detail": answer.detail}
    return {**found, "problem": "", "detail": ""}


def without_login(url: str) -> Tuple[str, Dict[str, str]]:
    """Return an address without the name and password in it, and the header that says them."""
    parts = urllib.parse.urlsplit(url)
    login, _, netloc = parts.netloc.rpartition("@")
    if not login or parts.scheme not in ("http", "https"):
        return url, {}
    said = base64.b64encode(urllib.parse.unquote(login).encode()).decode("ascii")
    return urllib.parse.urlunsplit(parts._replace(netloc=netloc)), {"Authorization": "Basic " + said}


def _status(code: int) -> None:
    if code in (401, 403):
        raise Answer("refused", "HTTP %d" % code)
    if code == 404:
        raise Answer("missing", "HTTP 404")
    if not 200 <= code < 300:
        raise Answer("unreachable", "HTTP %d" % code)


def page(question: Mapping[str, Any]) -> None:
    """Ask whether a page is there, and holds every text of `texts`."""
    method = str(question.get("method") or "GET")
    code, content, _headers = fetch(question["url"], question.get("headers") or {}, method=method)
    _status(code)
    lacks = [text for text in question.get("texts") or () if text.encode() not in content]
    if lacks:
        raise Answer("version", ", ".join(lacks))


def checkpoint(question: Mapping[str, Any]) -> None:
    """Ask a hub for the config.json of a repository at its revision, with the token that downloads have."""
    headers = dict(question.get("headers") or {})
    if question.get("token"):
        headers["Authorization"] = "Bearer %s" % question["token"]
    code, _content, told = fetch(question["url"], headers, method="HEAD")
    reason = told.get("x-error-code", "")
    if reason == "GatedRepo" or (code == 403 and question.get("token")):
        raise Answer("gated", reason or "HTTP %d" % code)
    # A hub hides what a token may not see, so 404 is either; these two words tell them apart.
    if reason in ("RevisionNotFound", "EntryNotFound"):
        raise Answer("missing", reason)
    _status(code)


def packages(question: Mapping[str, Any]) -> None:
    """Ask an apt repository whether it has packages in their versions."""
    text = _package_list(question["url"], question.get("headers") or {})
    lacks = lacking(text, question["packages"])
    if lacks:
        raise Answer("version", ", ".join(lacks))


def _package_list(base: str, headers: Mapping[str, str]) -> str:
    for name, read in (("Packages.gz", unpacked), ("Packages", bytes)):
        code, content, _headers = fetch("%s/%s" % (base, name), headers)
        if code == 404:
            continue
        _status(code)
        try:
            return read(content).decode("utf-8", "replace")
        except ValueError as error:
            raise Answer("unreachable", "%s/%s is no list of packages: %s" % (base, name, error)) from error
    raise Answer("missing", "HTTP 404")


def unpacked(content: bytes) -> bytes:
    """Return what was compressed by gzip.

    Raises:
        ValueError: it was not, it was cut, or it is larger than any list: a few bytes can be made to fill a memory.
    """
    packed = zlib.decompressobj(wbits=31)
    try:
        found = packed.decompress(content, MOST_UNPACKED_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if packed.unconsumed_tail:
        raise ValueError("unpacked it has more than %d bytes" % MOST_UNPACKED_BYTES)
    if not packed.eof:
        raise ValueError("it was cut")
    return found


def lacking(text: str, wanted: Mapping[str, str]) -> List[str]:
    """Return `name=version` of the packages that a list of apt's does not have; a suffix of a build does not count."""
    found: Dict[str, List[str]] = {}
    for stanza in text.split("\n\n"):
        values = dict(re.findall(r"^(Package|Version): (\S+)$", stanza, re.MULTILINE))
        if len(values) == 2:
            found.setdefault(values["Package"], []).append(values["Version"])
    return [
        "%s=%s" % (name, version)
        for name, version in sorted(wanted.items())
        if not any(re.fullmatch(re.escape(version) + r"([-+~._].*)?", each) for each in found.get(name, ()))
    ]


def rpms(question: Mapping[str, Any]) -> None:
    """Ask a yum repository whether it has packages in their versions."""
    base, headers = question["url"], question.get("headers") or {}
    code, content, _headers = fetch(base + "/repodata/repomd.xml", headers)
    _status(code)
    place = re.search(
        r'<data type="primary">.*?<location[^>]* href="([^"]+)"', content.decode("utf-8", "replace"), re.S
    )
    if not place:
        raise Answer("unreachable", "%s/repodata/repomd.xml names no list of packages" % base)
    code, content, _headers = fetch("%s/%s" % (base, place[1]), headers)
    _status(code)
    if not place[1].endswith(".gz"):
        return  # compressed in a way that this Python may not know
    try:
        text = unpacked(content).decode("utf-8", "replace")
    except ValueError as error:
        raise Answer("unreachable", "%s/%s is no list of packages: %s" % (base, place[1], error)) from error
    found = re.findall(r'<name>([^<]+)</name>.*?<version [^>]*\bver="([^"]+)"', text, re.S)
    stanzas = "\n\n".join("Package: %s\nVersion: %s" % each for each in found)
    lacks = lacking(stanzas, question["packages"])
    if lacks:
        raise Answer("version", ", ".join(lacks))


def image(question: Mapping[str, Any]) -> None:
    """Ask a registry for an image's manifest, anonymously or with the token that it gives to anybody."""
    registry, _, rest = str(question["url"]).partition("/")
    name, _, digest = rest.partition("@")
    address = "%s://%s/v2/%s/manifests/%s" % ("http" if speaks_http(registry) else "https", registry, name, digest)
    headers = {"Accept": _MANIFESTS}
    code, _content, told = fetch(address, headers, method="HEAD")
    if code == 401:
        token = _registry_token(told.get("www-authenticate", ""))
        code, _content, _told = fetch(address, {**headers, "Authorization": "Bearer %s" % token}, method="HEAD")
    _status(code)


def _registry_token(challenge: str) -> str:
    values = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = values.pop("realm", "")
    if not challenge.lower().startswith("bearer") or not realm.startswith("https://"):
        raise Answer("refused", "HTTP 401")
    code, content, _headers = fetch("%s?%s" % (realm, urllib.parse.urlencode(values)))
    _status(code)
    try:
        answer = json.loads(content)
        return str(answer.get("token") or answer["access_token"])
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise Answer("refused", "the registry's token cannot be read") from error


def speaks_http(registry: str, places: Tuple[str, ...] = _REGISTRIES) -> bool:
    """Return whether the host's container engine was told that a registry has no TLS."""
    if registry.partition(":")[0] == "localhost":
        return True
    text = "\n".join(_read(path) for place in places for path in _files(place))
    tables = re.split(r"^\[\[registry\]\]$", text, flags=re.MULTILINE)[1:]
    return any(
        re.search(r'^\s*location\s*=\s*"%s"' % re.escape(registry), table, re.MULTILINE)
        and re.search(r"^\s*insecure\s*=\s*true", table, re.MULTILINE)
        for table in tables
    )


def _files(place: str) -> List[Path]:
    return sorted(Path(place).glob("*.conf")) if Path(place).is_dir() else [Path(place)]


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def store(question: Mapping[str, Any]) -> None:
    """Ask whether the store of compiled models lets this host read, and where it `writes`, takes its upload."""
    url = str(question["url"])
    if not url.startswith("s3://"):
        if not Path(url).is_dir():
            raise Answer("missing", "no directory here")
        if question["writes"] and not os.access(url, os.W_OK):
            raise Answer("refused", "not writable")
        return
    bucket, _, prefix = url[len("s3://") :].partition("/")
    keys = signing.credentials(question.get("environment") or {}, fetch)
    if keys is None:
        raise Answer("credentials", "no credentials in the environment, none of the instance")
    where = signing.Bucket(bucket, keys, str(question.get("endpoint") or ""), question.get("environment") or {})
    below = prefix.strip("/") + "/" if prefix.strip("/") else ""
    name = below + str(question["reads"])
    code, content, told = where.send(fetch, "GET", name, "")
    if code in (301, 307, 400) and told.get("x-amz-bucket-region"):
        where = where.in_region(told["x-amz-bucket-region"])
        code, content, told = where.send(fetch, "GET", name, "")
    # What nobody has compiled yet is not there; who may not list is told that it is refused, now as by a job.
    if not (200 <= code < 300 or b"<Code>NoSuchKey</Code>" in content):
        _status_of_store(code, content)
    if question["writes"]:
        _begin_upload(where, below + ".preflight-" + secrets.token_hex(8))


def bucket(question: Mapping[str, Any]) -> None:
    """Ask whether a checkpoint is where a bucket, or a directory of this host, is to have it."""
    url = str(question["url"])
    if not url.startswith("s3://"):
        if not Path(url).is_dir():
            raise Answer("missing", "no directory here")
        return
    name, _, prefix = url[len("s3://") :].partition("/")
    given = question.get("environment") or {}
    keys = signing.credentials(given, fetch)
    if keys is None:
        raise Answer("credentials", "no credentials in the environment, none of the instance")
    endpoint = str(given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL") or "")
    where = signing.Bucket(name, keys, endpoint, given)
    below = urllib.parse.quote(prefix.strip("/") + "/" if prefix.strip("/") else "", safe="")
    query = "list-type=2&max-keys=1&prefix=" + below  # in the order in which a signature has them
    code, content, told = where.send(fetch, "GET", "", query)
    if code in (301, 307, 400) and told.get("x-amz-bucket-region"):
        code, content, told = where.in_region(told["x-amz-bucket-region"]).send(fetch, "GET", "", query)
    if not 200 <= code < 300:
        _status_of_store(code, content)
    if b"<Key>" not in content:
        raise Answer("missing", "nothing below it")


def _begin_upload(where: signing.Bucket, name: str) -> None:
    """Begin an upload and give it up."""
    code, content, _told = where.send(fetch, "POST", name, "uploads=")
    if not 200 <= code < 300:
        _status_of_store(code, content)
    upload = re.search(rb"<UploadId>([^<]+)</UploadId>", content)
    if upload:
        where.send(fetch, "DELETE", name, "uploadId=" + urllib.parse.quote(upload[1].decode(), safe=""))


def _status_of_store(code: int, content: bytes) -> None:
    said = re.search(rb"<Code>([A-Za-z0-9]+)</Code>", content)
    word = said[1].decode() if said else "HTTP %d" % code
    if word == "NoSuchBucket":
        raise Answer("missing", word)
    raise Answer("refused" if code in (400, 401, 403) else "unreachable", word)


def port(question: Mapping[str, Any]) -> None:
    """Ask whether the way to a port of another host is open; a port that nobody listens on yet is."""
    address, _, number = str(question["url"]).rpartition(":")
    try:
        with socket.create_connection((address.strip("[]"), int(number)), timeout=3):
            return
    except ConnectionRefusedError:
        return
    except OSError as error:
        raise Answer("unreachable", str(error.strerror or error)) from error


def offered(_question: Mapping[str, Any]) -> None:
    """Say of a package what its question was asked for: no list that the host has of its sources knows it."""
    raise Answer("missing", "in no list of its sources")


#: What a question may be, and who answers it.
KINDS: Dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "page": page,
    "index": page,
    "archive": page,
    "offered": offered,
    "client": page,
    "checkpoint": checkpoint,
    "packages": packages,
    "rpms": rpms,
    "image": image,
    "store": store,
    "bucket": bucket,
    "port": port,
}
