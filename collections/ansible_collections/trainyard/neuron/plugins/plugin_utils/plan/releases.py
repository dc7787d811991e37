# SPDX-License-Identifier: Apache-2.0
"""The Neuron SDK releases that can serve a model with vLLM, one row for each (release, generation).

`sdk_releases.json` has them: the collection's own data, in the form that a stand-in host's Python without libraries
reads as well. A row pins everything that must match: driver, runtime, compiler, vLLM and where they are found. Adding a
release is adding its entry there. Package versions are those of the SDK's own package manifest, image tags and plugin
branches those of the AWS deep-learning-containers repository at the release's tag, virtual environments those of the
SDK documentation at the release's tag. Where none of these names a value, the row says so in `unknown` and holds null:
nothing is guessed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import (
    Field,
    Kind,
    Schema,
    list_of,
    one_of,
    optional,
    switch,
    text,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError, Problem
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import pair_rule, version_number

NXDI_V0, NXDI_V1, NATIVE = GENERATIONS = ("nxdi_v0", "nxdi_v1", "native")

#: The rows as they are kept.
TABLE_FILE = Path(__file__).with_name("sdk_releases.json")

#: Where the images are published: AWS's public registry.
IMAGE_REGISTRY = "public.ecr.aws"

#: The image's name below its registry.
IMAGE_NAME = "neuron/pytorch-inference-vllm-neuronx"


@dataclass(frozen=True)
class SdkRelease:
    """One release of the SDK as one generation serves with it.

    Attributes:
        release: the SDK's version, `2.23.0`.
        date: day of the release, `2025-05-20`.
        generation: `nxdi_v0`, `nxdi_v1` or `native`.
        driver: version of `aws-neuronx-dkms`.
        runtime: version of `aws-neuronx-runtime-lib`.
        collectives: version of `aws-neuronx-collectives`.
        tools: version of `aws-neuronx-tools`.
        compiler: version of `neuronx-cc`.
        nxdi: version of `neuronx-distributed-inference`; None where the generation has none.
        vllm: the vLLM line that serves; None where it is built from a branch without a version.
        plugin: version of the Neuron plugin; None for the fork.
        venv: virtual environment of the release's machine image, absolute path.
        venv_has_vllm: False where vLLM has to be built into that environment from `source_*`.
        container_tag: tag of the serving image; None where none is published for this row.
        source_repo: GitHub repository of the vLLM fork or of the plugin.
        source_ref: its branch or tag.
        source_commit: the commit that this was at when the row was made, since a branch moves and a tag can; None
            where it was not at hand, and has to be given to build it.
        source_requirements: its requirements file for Neuron.
        pythons: Python versions that the serving packages are built for.
        operating_systems: where serving is documented, `ubuntu-24.04`.
        families: instance families that the generation serves on in this release.
        default: True for the row that a deployment gets when it names no generation.
        unknown: names of the attributes that no source gave; they are None.
        note: what a reader of the row should know.
    """

    release: str
    date: str
    generation: str
    driver: str
    runtime: str
    collectives: str
    tools: str
    compiler: str
    nxdi: Optional[str]
    vllm: Optional[str]
    plugin: Optional[str]
    venv: Optional[str]
    venv_has_vllm: bool
    container_tag: Optional[str]
    source_repo: Optional[str]
    source_ref: Optional[str]
    source_commit: Optional[str]
    source_requirements: Optional[str]
    pythons: Tuple[str, ...]
    operating_systems: Tuple[str, ...]
    families: Tuple[str, ...]
    default: bool = True
    unknown: Tuple[str, ...] = field(default=())
    note: str = ""

    @property
    def number(self) -> Tuple[int, ...]:
        """The release as numbers, for comparisons: (2, 23, 0)."""
        return version_number(self.release)

    @property
    def image(self) -> Optional[str]:
        """The serving image without its registry, `name:tag`; None where the row has none."""
        return None if self.container_tag is None else "%s:%s" % (IMAGE_NAME, self.container_tag)

    @property
    def packages(self) -> Dict[str, str]:
        """The host's packages, by their names in the package repository."""
        return {
            "aws-neuronx-dkms": self.driver,
            "aws-neuronx-runtime-lib": self.runtime,
            "aws-neuronx-collectives": self.collectives,
            "aws-neuronx-tools": self.tools,
        }

    @property
    def versions(self) -> Dict[str, Optional[str]]:
        """The Python packages that decide what is compiled and how it is served."""
        return {"neuronx-cc": self.compiler, "nxdi": self.nxdi, "vllm": self.vllm, "vllm-neuron": self.plugin}

    def entry(self, runtime: str) -> Dict[str, Any]:
        """Return the row as a host's plan carries it, for `runtime` venv or container."""
        return {
            "release": self.release,
            "generation": self.generation,
            "runtime": runtime,
            "venv": self.venv if runtime == "venv" else None,
            "image": self.image if runtime == "container" else None,
            "packages": self.packages,
            "versions": self.versions,
            "source": {
                "repo": self.source_repo,
                "ref": self.source_ref,
                "commit": self.source_commit,
                "requirements": self.source_requirements,
                "needed": runtime == "venv" and not self.venv_has_vllm,
                "pythons": list(self.pythons),
            },
        }


def _version(what: str) -> Kind:
    return text(re.compile(r"\d+(\.\d+)+"), "must be a dotted version", "write it as %s" % what, "version")


def _word(pattern: str, what: str) -> Kind:
    return text(re.compile(pattern), "must be %s" % what, "write it as its source does", what)


_SOURCE = Schema(
    "source",
    "The vLLM fork, or the Neuron plugin, that serves.",
    {
        "repo": Field(_word(r"[\w.-]+/[\w.-]+", "a repository of GitHub"), required=True, about="owner and name"),
        "ref": Field(optional(_word(r"\S+", "a branch or tag")), required=True, about="its branch or tag"),
        "commit": Field(
            optional(_word(r"[0-9a-f]{40}", "a commit")),
            required=True,
            about="that the branch or tag was at when the row was made; null where it was not at hand",
        ),
        "requirements": Field(
            optional(_word(r"\S+\.txt", "a file of requirements")), required=True, about="its requirements for Neuron"
        ),
    },
)

_SERVING = Schema(
    "serving",
    "How one generation serves with a release.",
    {
        "generation": Field(one_of(GENERATIONS), required=True, about="of vLLM on Neuron"),
        "default": Field(switch(), required=True, about="whether a deployment gets it that names no generation"),
        "vllm": Field(
            optional(_version("0.16.0")), required=True, about="vLLM; null where a branch without a version is built"
        ),
        "plugin": Field(optional(_version("0.5.3")), required=True, about="the Neuron plugin; null for the fork"),
        "nxdi": Field(
            optional(_version("0.9.17334")), required=True, about="neuronx-distributed-inference; null for none"
        ),
        "venv": Field(
            optional(_word(r"/opt/\S+", "an absolute path below /opt")),
            required=True,
            about="environment of the release's machine image",
        ),
        "venv_has_vllm": Field(switch(), required=True, about="false where vLLM is built into it from `source`"),
        "container_tag": Field(
            optional(_word(r"[\w.-]+", "an image's tag")), required=True, about="of the serving image; null for none"
        ),
        "source": Field(_SOURCE.kind, required=True, about=_SOURCE.about),
        "pythons": Field(list_of(_version("3.12"), 1), required=True, about="that the packages are built for"),
        "operating_systems": Field(
            list_of(_word(r"[a-z]+(-[a-z]+)*-[\d.]+", "a system and its version"), 1),
            required=True,
            about="where serving is documented",
        ),
        "families": Field(
            list_of(one_of(("trn1", "inf2", "trn2", "trn3")), 1), required=True, about="that the generation serves on"
        ),
        "unknown": Field(
            list_of(one_of(("vllm", "plugin", "nxdi", "venv", "container_tag", "source_ref"))),
            default=(),
            about="what no source gave; it is null",
        ),
        "note": Field(
            text(re.compile(r"[^\n]+"), "must be one line", "write it in one"), default="", about="for people"
        ),
    },
)

RELEASE = Schema(
    "release",
    "A release of the Neuron SDK.",
    {
        "release": Field(_version("2.23.0"), required=True, about="its version"),
        "date": Field(_word(r"\d{4}-\d\d-\d\d", "a day"), required=True, about="that it came out"),
        "driver": Field(_version("2.21.37.0"), required=True, about="aws-neuronx-dkms"),
        "runtime": Field(_version("2.25.57.0"), required=True, about="aws-neuronx-runtime-lib"),
        "collectives": Field(_version("2.25.65.0"), required=True, about="aws-neuronx-collectives"),
        "tools": Field(_version("2.23.9.0"), required=True, about="aws-neuronx-tools"),
        "compiler": Field(_version("2.18.121.0"), required=True, about="neuronx-cc"),
        "serving": Field(
            list_of(_SERVING.kind, 1, len(GENERATIONS)), required=True, about="the generations that serve with it"
        ),
    },
)

_TABLE = Schema(
    "sdk_releases.json",
    "The releases of the Neuron SDK that can serve a model with vLLM.",
    {"releases": Field(list_of(RELEASE.kind, 1), required=True, about="oldest first, which is what nearest means")},
)


def table_schema() -> Dict[str, Any]:
    """Return the JSON Schema of the table's file; what rows must agree on is not in it."""
    return _TABLE.to_json()


@lru_cache(maxsize=1)
def sdk_table() -> Tuple[SdkRelease, ...]:
    """Return the table's rows, oldest first; the order is what "nearest" means.

    Raises:
        PlanError: the table's file is not as it must be, with every mistake.
    """
    return read_table(TABLE_FILE.read_text(encoding="utf-8"))


def read_table(written: str) -> Tuple[SdkRelease, ...]:
    """Return the rows of a table as its file has it.

    Args:
        written: the file's text, JSON.

    Raises:
        PlanError: it is not as it must be, with every mistake.
    """
    try:
        raw = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise PlanError([Problem("", _TABLE.name, "", "is no JSON (%s)" % error, "write it as JSON")]) from error
    values, problems = _TABLE.read(raw)
    if problems:
        raise PlanError(problems)
    rows = tuple(row for entry in values["releases"] for row in _rows_of(entry))
    problems = list(_disagreements(rows))
    if problems:
        raise PlanError(problems)
    return rows


def _rows_of(entry: Mapping[str, Any]) -> Iterator[SdkRelease]:
    """Yield a release's rows, from its entry as the schema read it."""
    common = {name: value for name, value in entry.items() if name != "serving"}
    for serving in entry["serving"]:
        source = {"source_" + name: value for name, value in serving["source"].items()}
        own = {name: value for name, value in serving.items() if name != "source"}
        yield SdkRelease(**common, **own, **source)


def _disagreements(rows: Tuple[SdkRelease, ...]) -> Iterator[Problem]:
    """Yield what is wrong between rows, each of which is right in itself."""
    order = list(dict.fromkeys(row.release for row in rows))
    if order != sorted(set(order), key=version_number):
        yield Problem("", _TABLE.name, order, "must have the releases from the oldest on", "put them in order")
    for release in order:
        of_release = [row for row in rows if row.release == release]
        where = "%s %s" % (_TABLE.name, release)
        defaults = [row.generation for row in of_release if row.default]
        if len(defaults) != 1:
            yield Problem("", where, defaults, "must have one default generation", "set `default` in one of them")
        generations = [row.generation for row in of_release]
        if len(set(generations)) != len(generations):
            yield Problem("", where, generations, "must have each generation once", "remove the other entry")
    for row in rows:
        for name in row.unknown:
            if getattr(row, name) is not None:
                where = "%s %s %s" % (_TABLE.name, row.release, row.generation)
                yield Problem("", where + ".unknown", name, "is known", "remove it from `unknown`")


#: Instance type -> family, by the part before the dot.
_FAMILY_OF = {"trn1": "trn1", "trn1n": "trn1", "inf2": "inf2", "trn2": "trn2", "trn2u": "trn2", "trn3": "trn3"}

#: Systems that users try and that cannot work, and why.
_REFUSED_SYSTEMS = {
    "amazon-linux-2023": "its C library (2.34) is older than the one that vLLM's environments are built for (2.35)",
    "rocky-9": "the driver is not tested there on trn2",
}


class ReleaseError(ValueError):
    """No row of the table answers; `rule` says why and `fix` what to write instead."""

    def __init__(self, rule: str, fix: str, field_name: str = "sdk_release") -> None:
        super().__init__("%s. Fix: %s." % (rule, fix))
        self.rule, self.fix, self.field_name = rule, fix, field_name


def family_of(instance_type: str) -> Optional[str]:
    """Return `trn1`, `inf2`, `trn2` or `trn3` for an instance type, None for another one."""
    return _FAMILY_OF.get(instance_type.split(".")[0])


def releases() -> Tuple[str, ...]:
    """Return the versions of the table, oldest first."""
    return tuple(dict.fromkeys(row.release for row in sdk_table()))


def generations_of(release: str) -> Tuple[str, ...]:
    """Return the generations that serve in a release, the default one first."""
    rows = sorted((row for row in sdk_table() if row.release == release), key=lambda row: not row.default)
    return tuple(row.generation for row in rows)


def full_release(release: str) -> str:
    """Return the table's version for `2.23.0` or, where only one patch release exists, for `2.23`.

    Raises:
        ReleaseError: the table has no such release, or `release` leaves the choice among several.
    """
    known = releases()
    if release in known:
        return release
    patches = [item for item in known if item.startswith(release + ".")]
    if len(patches) == 1:
        return patches[0]
    if patches:
        raise ReleaseError(
            "names %d releases (%s), and they differ in what they compile" % (len(patches), ", ".join(patches)),
            "choose one, such as %s" % patches[-1],
        )
    raise ReleaseError(
        "is no SDK release of the table (%s to %s)" % (known[0], known[-1]),
        "use %s, or add its row" % _nearest_version(release, known),
    )


def find_release(release: str, generation: Optional[str] = None) -> SdkRelease:
    """Return the row of an SDK release.

    Args:
        release: `2.23.0`, or `2.23` where that names one release.
        generation: one of its generations. None takes the default: the fork up to 2.26 (the plugin is a beta
            there), the plugin with NxDI from 2.27 to 2.31 (the fork is on its way out, then the native plugin a
            beta), the native plugin from 2.32.

    Raises:
        ReleaseError: there is no such row.
    """
    release = full_release(release)
    rows = [row for row in sdk_table() if row.release == release]
    if generation is None:
        return next(row for row in rows if row.default)
    for row in rows:
        if row.generation == generation:
            return row
    found = nearest(release, lambda row: row.generation == generation)
    raise ReleaseError(
        "%s does not serve in SDK %s, %s" % (generation, release, _generation_span(generation)),
        _use(found) if found else "choose one of %s" % ", ".join(generations_of(release)),
        "generation",
    )


def _generation_span(generation: str) -> str:
    """Return the sentence that says in which releases a generation serves."""
    rows = [row for row in sdk_table() if row.generation == generation]
    if not rows:
        return "which knows %s only" % ", ".join((NXDI_V0, NXDI_V1, NATIVE))
    if rows[-1].release == sdk_table()[-1].release:
        return "only from %s on" % rows[0].release
    return "only from %s to %s" % (rows[0].release, rows[-1].release)


def _use(row: SdkRelease) -> str:
    return "use sdk_release %s with generation %s" % (row.release, row.generation)


def _nearest_version(release: str, known: Iterable[str]) -> str:
    wanted = version_number(release)
    ordered = list(known)

    def distance(item: str) -> Tuple[int, int]:
        number = version_number(item)
        minor = abs(number[1] - (wanted[1] if len(wanted) > 1 else 0)) + 1000 * abs(number[0] - wanted[0])
        return minor, -ordered.index(item)

    return min(ordered, key=distance)


def nearest(release: str, works: Callable[[SdkRelease], bool]) -> Optional[SdkRelease]:
    """Return the row nearest to `release` that works, an older one before a newer one at the same distance."""
    order = list(releases())
    here = order.index(release) if release in order else len(order) - 1
    rows = [row for row in sdk_table() if works(row)]
    if not rows:
        return None
    return min(rows, key=lambda row: (abs(order.index(row.release) - here), order.index(row.release), not row.default))


def release_problems(
    release: str,
    generation: Optional[str] = None,
    *,
    family: Optional[str] = None,
    runtime: str = "venv",
    operating_system: Optional[str] = None,
    driver: Optional[str] = None,
    runtime_lib: Optional[str] = None,
    where: str = "trainyard_deployment",
) -> List[Problem]:
    """Return why a release cannot serve as asked; nothing when it can.

    Args:
        release: the SDK release, as the deployment names it.
        generation: as the deployment names it; None for the release's default.
        family: `trn1`, `inf2`, `trn2` or `trn3` of the host; None where it is not known.
        runtime: `venv` or `container`.
        operating_system: the host's, such as `ubuntu-24.04`; None where no host was asked.
        driver: version of the driver that the host has; None where no host was asked.
        runtime_lib: version of the runtime library that the host has; None where no host was asked.
        where: the variable whose fields `sdk_release`, `generation` and `runtime` the problems name.
    """
    try:
        row = find_release(release, generation)
    except ReleaseError as error:
        value = generation if error.field_name == "generation" else release
        return [Problem("", "%s.%s" % (where, error.field_name), value, error.rule, error.fix)]
    found = [
        _family_problem(row, family, generation, where),
        _runtime_problem(row, runtime, where),
        _system_problem(row, operating_system, runtime, where),
        _driver_problem(row, driver, runtime, where),
    ]
    skew = pair_rule(driver, row.runtime if runtime == "container" else runtime_lib)
    if skew is not None:
        found.append(Problem("", where + ".sdk_release", row.release, skew, "install driver %s with it" % row.driver))
    return [problem for problem in found if problem is not None]


def _family_problem(row: SdkRelease, family: Optional[str], generation: Optional[str], where: str) -> Optional[Problem]:
    if family is None or family in row.families:
        return None
    reason = {
        NXDI_V0: "the fork ended before it",
        NXDI_V1: "NxDI's models are supported on trn2 and later from SDK 2.29.0 on"
        if row.number >= (2, 29)
        else "this release's NxDI is not made for it",
        NATIVE: "the native plugin is made for trn2 and trn3",
    }[row.generation]
    better = nearest(row.release, lambda other: family in other.families)
    return Problem(
        "",
        where + (".generation" if generation else ".sdk_release"),
        generation or row.release,
        "%s of SDK %s does not serve on %s: %s" % (row.generation, row.release, family, reason),
        _use(better) if better else "choose another instance family",
    )


def _runtime_problem(row: SdkRelease, runtime: str, where: str) -> Optional[Problem]:
    missing = row.container_tag is None if runtime == "container" else row.venv is None
    if not missing:
        return None
    attribute, thing = ("container_tag", "image") if runtime == "container" else ("venv", "environment")
    known = "is not documented" if attribute in row.unknown else "was not published"
    better = nearest(
        row.release, lambda other: other.generation == row.generation and getattr(other, attribute) is not None
    )
    other = "venv" if runtime == "container" else "container"
    has_other = row.venv if other == "venv" else row.container_tag
    fix = "set runtime to %s" % other if has_other else _use(better) if better else "choose another release"
    return Problem(
        "",
        where + ".runtime",
        runtime,
        "the %s of SDK %s for %s %s" % (thing, row.release, row.generation, known),
        fix,
    )


def _system_problem(row: SdkRelease, system: Optional[str], runtime: str, where: str) -> Optional[Problem]:
    # An image brings its own system; the host's then only carries the driver.
    if system is None or runtime == "container" or system in row.operating_systems:
        return None
    reason = _REFUSED_SYSTEMS.get(system, "its environment is documented for %s" % ", ".join(row.operating_systems))
    better = nearest(
        row.release, lambda other: system in other.operating_systems and other.generation == row.generation
    )
    fix = _use(better) if better else "use a host with %s" % row.operating_systems[-1]
    return Problem(
        "",
        where + ".sdk_release",
        row.release,
        ("vLLM of SDK %s cannot run on %s: %s" if system in _REFUSED_SYSTEMS else "SDK %s: no word of %s: %s")
        % (row.release, system, reason),
        fix,
    )


def _driver_problem(row: SdkRelease, driver: Optional[str], runtime: str, where: str) -> Optional[Problem]:
    """A container brings its runtime; its driver is the host's, and may be any that the rules of pairs allow."""
    if driver is None or runtime == "container" or version_number(driver) == version_number(row.driver):
        return None
    return Problem(
        "",
        where + ".sdk_release",
        row.release,
        "the host has driver %s, and SDK %s pairs driver %s with runtime %s"
        % (driver, row.release, row.driver, row.runtime),
        "install driver %s (stop every replica first), or use the release of the installed driver" % row.driver,
    )
