# SPDX-License-Identifier: Apache-2.0
"""The Neuron SDK releases that can serve a model with vLLM, one row for each (release, generation).

A row pins everything that must match: driver, runtime, compiler, vLLM and where they are found. Adding a release is
adding a row. Package versions are those of the SDK's own package manifest, image tags and plugin branches those of the
AWS deep-learning-containers repository at the release's tag, virtual environments those of the SDK documentation at
the release's tag. Where none of these names a value, the row says so in `unknown` and holds None: nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem

NXDI_V0, NXDI_V1, NATIVE = "nxdi_v0", "nxdi_v1", "native"

#: The image's name below its registry, which a role's variable names.
IMAGE_NAME = "neuron/pytorch-inference-vllm-neuronx"

_FORK = "aws-neuron/upstreaming-to-vllm"
_PLUGIN = "vllm-project/vllm-neuron"

_UBUNTU_22, _UBUNTU_24 = "ubuntu-22.04", "ubuntu-24.04"
_EVERY_FAMILY = ("trn1", "inf2", "trn2")
_TRN2_ON = ("trn2", "trn3")


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
    def source_commit(self) -> Optional[str]:
        """The commit of the source; None where it was not at hand, and has to be given to build it."""
        return _COMMITS.get((str(self.source_repo), str(self.source_ref)))

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
            },
        }


def version_number(text: str) -> Tuple[int, ...]:
    """Return a dotted version as numbers, `2.23.0` -> (2, 23, 0); a suffix such as `+lts` does not count."""
    numbers = []
    for part in text.split("+")[0].split("-")[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits) if digits else 0)
    return tuple(numbers)


@dataclass(frozen=True)
class _Base:
    """What a release ships whatever serves with it."""

    date: str
    driver: str
    runtime: str
    collectives: str
    tools: str
    compiler: str
    nxdi: Optional[str]
    pythons: Tuple[str, ...]


_PY39_TO_311 = ("3.9", "3.10", "3.11")
_PY310_TO_312 = ("3.10", "3.11", "3.12")
_PY311_TO_313 = ("3.11", "3.12", "3.13")

#: The SDK's package manifest, release by release.
_BASES: Dict[str, _Base] = {
    "2.23.0": _Base(
        "2025-05-20", "2.21.37.0", "2.25.57.0", "2.25.65.0", "2.23.9.0", "2.18.121.0", "0.3.5591", _PY39_TO_311
    ),
    "2.24.0": _Base(
        "2025-06-24", "2.22.2.0", "2.26.42.0", "2.26.43.0", "2.24.54.0", "2.19.8089.0", "0.4.7422", _PY39_TO_311
    ),
    "2.24.1": _Base(
        "2025-06-30", "2.22.2.0", "2.26.42.0", "2.26.43.0", "2.24.54.0", "2.19.8089.0", "0.4.7422", _PY39_TO_311
    ),
    "2.25.0": _Base(
        "2025-07-31", "2.23.9.0", "2.27.23.0", "2.27.34.0", "2.25.145.0", "2.20.9961.0", "0.5.9230", _PY39_TO_311
    ),
    "2.26.0": _Base(
        "2025-09-18", "2.24.7.0", "2.28.23.0", "2.28.27.0", "2.26.14.0", "2.21.18209.0", "0.6.10598", _PY39_TO_311
    ),
    "2.26.1": _Base(
        "2025-10-29", "2.24.7.0", "2.28.23.0", "2.28.27.0", "2.26.14.0", "2.21.33363.0", "0.6.10598", _PY39_TO_311
    ),
    "2.27.0": _Base(
        "2025-12-19", "2.25.4.0", "2.29.40.0", "2.29.41.0", "2.27.33.0", "2.22.12471.0", "0.7.14366", _PY310_TO_312
    ),
    "2.27.1": _Base(
        "2026-01-14", "2.25.4.0", "2.29.40.0", "2.29.41.0", "2.27.33.0", "2.22.12471.0", "0.7.15063", _PY310_TO_312
    ),
    "2.28.0": _Base(
        "2026-02-26", "2.26.5.0", "2.30.51.0", "2.30.59.0", "2.28.23.0", "2.23.6484.0", "0.8.16251", _PY310_TO_312
    ),
    "2.28.1": _Base(
        "2026-03-13", "2.26.10.0", "2.30.51.0", "2.30.59.0", "2.28.23.0", "2.23.6484.0", "0.8.16251", _PY310_TO_312
    ),
    "2.29.0": _Base(
        "2026-04-09", "2.27.4.0", "2.31.24.0", "2.31.24.0", "2.29.18.0", "2.24.5133.0", "0.9.17334", _PY310_TO_312
    ),
    "2.29.1": _Base(
        "2026-04-29", "2.27.4.0", "2.31.24.0", "2.31.24.0", "2.29.22.0", "2.24.8799.0", "0.9.17334", _PY310_TO_312
    ),
    "2.30.0": _Base(
        "2026-05-21", "2.28.0.0", "2.32.31.0", "2.32.28.0", "2.30.10.0", "2.25.3371.0", "0.10.17970", _PY311_TO_313
    ),
    "2.31.0": _Base(
        "2026-07-07", "2.29.0.0", "2.33.10.0", "2.33.10.0", "2.31.13.0", "2.26.6360.0", "0.10.18399", _PY311_TO_313
    ),
    "2.31.1": _Base(
        "2026-08-12", "2.29.0.0", "2.33.10.0", "2.33.10.0", "2.31.15.0", "2.26.6360.0", "0.10.18399", _PY311_TO_313
    ),
    "2.32.0": _Base(
        "2026-08-17", "2.30.2.0", "2.34.10.0", "2.34.10.0", "2.32.28.0", "2.27.5334.0", None, _PY311_TO_313
    ),
    # No manifest was at hand: these five are the component index of the release's documentation.
    "2.33.0": _Base("2026-10-19", "2.31.7.0", "2.35.30.0", "2.35.43.0", "2.33.38.0", "2.28.7631.0", None, ()),
}

_VENV = "/opt/aws_neuronx_venv_pytorch_"


def _row(release: str, generation: str, **values: Any) -> SdkRelease:
    """Return a row over its release's packages."""
    base = _BASES[release]
    values.setdefault("source_repo", _FORK if generation == NXDI_V0 else _PLUGIN)
    values.setdefault("source_requirements", None)
    values.setdefault("plugin", None)
    values.setdefault("venv_has_vllm", generation != NXDI_V0)
    return SdkRelease(
        release=release,
        date=base.date,
        generation=generation,
        driver=base.driver,
        runtime=base.runtime,
        collectives=base.collectives,
        tools=base.tools,
        compiler=base.compiler,
        nxdi=None if generation == NATIVE else base.nxdi,
        pythons=values.pop("pythons", base.pythons),
        **values,
    )


def _v0(release: str, venv: str, ref: str, vllm: Optional[str], tag: Optional[str], **values: Any) -> SdkRelease:
    return _row(
        release,
        NXDI_V0,
        venv=_VENV + venv,
        source_ref=ref,
        vllm=vllm,
        container_tag=tag,
        operating_systems=values.pop("operating_systems", (_UBUNTU_22,)),
        families=_EVERY_FAMILY,
        **values,
    )


def _v1(release: str, venv: str, plugin: str, ref: str, vllm: str, tag: Optional[str], **values: Any) -> SdkRelease:
    families = _TRN2_ON if version_number(release) >= (2, 29) else _EVERY_FAMILY
    return _row(
        release,
        NXDI_V1,
        venv=_VENV + venv,
        plugin=plugin,
        source_ref=ref,
        vllm=vllm,
        container_tag=tag,
        operating_systems=values.pop("operating_systems", (_UBUNTU_24,)),
        families=families,
        **values,
    )


def _native(release: str, venv: Optional[str], plugin: str, vllm: str, tag: Optional[str], **values: Any) -> SdkRelease:
    values.setdefault("source_ref", "release-" + plugin)
    return _row(
        release,
        NATIVE,
        venv=None if venv is None else _VENV + venv,
        plugin=plugin,
        vllm=vllm,
        container_tag=tag,
        operating_systems=values.pop("operating_systems", (_UBUNTU_24,)),
        families=_TRN2_ON,
        **values,
    )


_FORK_REQUIREMENTS = "requirements/neuron.txt"
_PLUGIN_REQUIREMENTS = "requirements/core.txt"

#: The commit that a branch or tag was at when its row was made; a branch moves, and a tag can.
_COMMITS: Dict[Tuple[str, str], str] = {
    (_FORK, "releases/v2.23.0-v0"): "ca2f6b9c301df6dbe2e5c83c705051f478140695",
    (_FORK, "neuron-2.24-vllm-v0.7.2"): "490ab20f123913937456e9ff8047a88f0b18a623",
    (_PLUGIN, "0.2.0"): "a96712544a527761a336ccabdc5846f1a2202606",
}

#: Oldest first; the order is what "nearest" means.
RELEASES: Tuple[SdkRelease, ...] = (
    _v0(
        "2.23.0",
        "2_6_nxd_inference",
        "releases/v2.23.0-v0",
        None,
        None,
        source_requirements=_FORK_REQUIREMENTS,
        note="The fork's other branch of this release, neuron-2.23-vllm-v0.7.2, keeps its requirements in "
        "requirements-neuron.txt.",
    ),
    _v0(
        "2.24.0",
        "2_7_nxd_inference",
        "neuron-2.24-vllm-v0.7.2",
        "0.7.2",
        "0.7.2-neuronx-py310-sdk2.24.0-ubuntu22.04",
        source_requirements="requirements-neuron.txt",
    ),
    _v0(
        "2.24.1",
        "2_7_nxd_inference",
        "neuron-2.24-vllm-v0.7.2",
        "0.7.2",
        "0.7.2-neuronx-py310-sdk2.24.1-ubuntu22.04",
        source_requirements="requirements-neuron.txt",
    ),
    _v0(
        "2.25.0",
        "2_7_nxd_inference",
        "2.25.0",
        "0.9.1",
        "0.9.1-neuronx-py310-sdk2.25.0-ubuntu22.04",
        source_requirements=_FORK_REQUIREMENTS,
    ),
    _v0(
        "2.26.0",
        "2_8_nxd_inference",
        "2.26.0",
        "0.9.1",
        "0.9.1-neuronx-py311-sdk2.26.0-ubuntu22.04",
        source_requirements=_FORK_REQUIREMENTS,
    ),
    _v1(
        "2.26.0",
        "2_8_nxd_inference",
        "0.2.0",
        "0.2.0",
        "0.11.0",
        None,
        operating_systems=(_UBUNTU_22,),
        venv_has_vllm=False,
        source_requirements=_PLUGIN_REQUIREMENTS,
        default=False,
        note="The plugin is a beta here and is built into the environment.",
    ),
    _v0(
        "2.26.1",
        "2_8_nxd_inference",
        "2.26.1",
        "0.9.1",
        "0.9.1-neuronx-py311-sdk2.26.1-ubuntu22.04",
        source_requirements=_FORK_REQUIREMENTS,
    ),
    _v1(
        "2.26.1",
        "2_8_nxd_inference",
        "0.2.0",
        "0.2.0",
        "0.11.0",
        None,
        operating_systems=(_UBUNTU_22,),
        venv_has_vllm=False,
        source_requirements=_PLUGIN_REQUIREMENTS,
        default=False,
        note="The plugin is a beta here and is built into the environment.",
    ),
    _v0(
        "2.27.0",
        "2_9_nxd_inference",
        "2.26.1",
        "0.9.1",
        None,
        source_requirements=_FORK_REQUIREMENTS,
        operating_systems=(_UBUNTU_22, _UBUNTU_24),
        default=False,
        note="The last release with V0; the fork's last tag is that of 2.26.1.",
    ),
    _v1(
        "2.27.0",
        "inference_vllm",
        "0.2.1",
        "0.2.1-lts",
        "0.11.0",
        "0.11.0-neuronx-py312-sdk2.27.0-ubuntu24.04",
    ),
    _v0(
        "2.27.1",
        "2_9_nxd_inference",
        "2.26.1",
        "0.9.1",
        None,
        source_requirements=_FORK_REQUIREMENTS,
        operating_systems=(_UBUNTU_22, _UBUNTU_24),
        default=False,
        note="The last release with V0; the fork's last tag is that of 2.26.1.",
    ),
    _v1(
        "2.27.1",
        "inference_vllm",
        "0.2.2",
        "0.2.2+lts",
        "0.11.0",
        "0.11.0-neuronx-py312-sdk2.27.1-ubuntu24.04",
        note="An image with vLLM 0.13.0 exists for this release as well.",
    ),
    _v1(
        "2.28.0",
        "inference_vllm",
        "0.4.1",
        "release-0.4.1",
        "0.13.0",
        "0.13.0-neuronx-py312-sdk2.28.0-ubuntu24.04",
    ),
    _v1(
        "2.28.1",
        "inference_vllm",
        "0.4.1",
        "release-0.4.1",
        "0.13.0",
        "0.13.0-neuronx-py312-sdk2.28.0-ubuntu24.04",
        note="Only the driver differs from 2.28.0, so the image is that of 2.28.0.",
    ),
    _v1(
        "2.29.0",
        "inference_vllm_0_16",
        "0.5.0",
        "release-0.5.0",
        "0.16.0",
        "0.16.0-neuronx-py312-sdk2.29.0-ubuntu24.04",
    ),
    _v1(
        "2.29.1",
        "inference_vllm_0_16",
        "0.5.0",
        "release-0.5.0",
        "0.16.0",
        "0.16.0-neuronx-py312-sdk2.29.1-ubuntu24.04",
    ),
    _v1(
        "2.30.0",
        "inference_vllm_0_16",
        "0.5.1",
        "release-0.5.1",
        "0.16.0",
        "0.16.0-neuronx-py312-sdk2.30.0-ubuntu24.04",
    ),
    _v1(
        "2.31.0",
        "inference_vllm_0_16",
        "0.5.3",
        "release-0.5.3",
        "0.16.0",
        "0.16.0-neuronx-py312-sdk2.31.0-ubuntu24.04",
        note="The last release with NxDI.",
    ),
    _native(
        "2.31.0",
        None,
        "0.21.0.1.0.0",
        "0.21.0",
        "0.21.0.1.0.0-neuronx-py313-sdk2.31.0-ubuntu24.04",
        default=False,
        unknown=("venv",),
        note="A beta; its environment is documented from 2.31.1 on.",
    ),
    _v1(
        "2.31.1",
        "inference_vllm_0_16",
        "0.5.3",
        "release-0.5.3",
        "0.16.0",
        "0.16.0-neuronx-py312-sdk2.31.1-ubuntu24.04",
        note="The last release with NxDI.",
    ),
    _native(
        "2.31.1",
        "inference_vllm_0_21_0_1_0_0",
        "0.21.0.1.0.0",
        "0.21.0",
        "0.21.0.1.0.0-neuronx-py313-sdk2.31.1-ubuntu24.04",
        default=False,
        note="A beta.",
    ),
    _native(
        "2.32.0",
        "inference_vllm_0_24_0_1_1_0",
        "0.24.0.1.1.0",
        "0.24.0",
        "0.24.0.1.1.0-neuronx-py313-sdk2.32.0-ubuntu24.04",
    ),
    _native(
        "2.33.0",
        None,
        "0.29.0.1.2.0",
        "0.29.0",
        None,
        source_ref=None,
        pythons=("3.14",),
        operating_systems=("ubuntu-26.04",),
        unknown=("venv", "container_tag", "source_ref"),
        note="Its machine image and its serving image are based on Ubuntu 26.04 with Python 3.14; what the "
        "environment and the tag are called was not documented where this table was made.",
    ),
)

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
    return tuple(dict.fromkeys(row.release for row in RELEASES))


def generations_of(release: str) -> Tuple[str, ...]:
    """Return the generations that serve in a release, the default one first."""
    rows = sorted((row for row in RELEASES if row.release == release), key=lambda row: not row.default)
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
    rows = [row for row in RELEASES if row.release == release]
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
    rows = [row for row in RELEASES if row.generation == generation]
    if not rows:
        return "which knows %s only" % ", ".join((NXDI_V0, NXDI_V1, NATIVE))
    if rows[-1].release == RELEASES[-1].release:
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
    rows = [row for row in RELEASES if works(row)]
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
        "vLLM of SDK %s cannot run on %s: %s" % (row.release, system, reason),
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


#: Pairs that are known not to start, newest rule first: (applies, sentence).
_PAIR_RULES: Tuple[Tuple[Callable[[Tuple[int, ...], Tuple[int, ...]], bool], str], ...] = (
    (
        lambda driver, runtime: driver >= (2, 29) and runtime < (2, 33),
        "driver 2.29 and later needs runtime 2.33 or later, or the runtime does not start",
    ),
    (
        lambda driver, runtime: runtime >= (2, 32) and driver < (2, 27),
        "runtime 2.32 and later refuses driver 2.26 and older",
    ),
)


def pair_rule(driver: Optional[str], runtime_lib: Optional[str]) -> Optional[str]:
    """Return the rule that a driver and a runtime library break together, None when none is known."""
    if driver is None or runtime_lib is None:
        return None
    for applies, sentence in _PAIR_RULES:
        if applies(version_number(driver), version_number(runtime_lib)):
            return "%s (driver %s, runtime %s)" % (sentence, driver, runtime_lib)
    return None
