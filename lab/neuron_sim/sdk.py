# SPDX-License-Identifier: Apache-2.0
"""SDK releases as a host shows them: paths of the DLAMI, package versions, the line of vLLM.

Source: the AWS Neuron SDK's package manifest and the DLAMI pages of each release tag.
"""

from __future__ import annotations

from dataclasses import dataclass

V0, V1, NATIVE = "nxdi_v0", "nxdi_v1", "native"


@dataclass(frozen=True)
class Release:
    """One row of the SDK matrix.

    Attributes:
        generation: which line of vLLM serves in this release's environment.
        venv: where the DLAMI puts it.
        driver, runtime, collectives, tools: versions of the system packages.
        compiler, nxdi, vllm: versions inside the environment; ``nxdi`` is empty where NxDI is gone.
    """

    name: str
    generation: str
    venv: str
    driver: str
    runtime: str
    collectives: str
    tools: str
    compiler: str
    nxdi: str
    vllm: str
    plugin: str = ""

    @property
    def tools_version(self) -> tuple[int, ...]:
        """Version of aws-neuronx-tools, comparable."""
        return version(self.tools)

    @property
    def vllm_version(self) -> tuple[int, ...]:
        """Version of vLLM, comparable."""
        return version(self.vllm)


def version(text: str) -> tuple[int, ...]:
    """``2.23.9.0`` as numbers; what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("+")[0].split("."))


_PT26 = "/opt/aws_neuronx_venv_pytorch_2_6_nxd_inference"
_PT27 = "/opt/aws_neuronx_venv_pytorch_2_7_nxd_inference"
_PT28 = "/opt/aws_neuronx_venv_pytorch_2_8_nxd_inference"
_VLLM = "/opt/aws_neuronx_venv_pytorch_inference_vllm"

RELEASES: dict[str, Release] = {
    row.name: row
    for row in (
        Release(
            "2.23.0", V0, _PT26, "2.21.37.0", "2.25.57.0", "2.25.65.0", "2.23.9.0", "2.18.121.0", "0.3.5591", "0.7.2"
        ),
        Release(
            "2.24.0", V0, _PT27, "2.22.2.0", "2.26.42.0", "2.26.43.0", "2.24.54.0", "2.19.8089.0", "0.4.7422", "0.7.2"
        ),
        Release(
            "2.25.0", V0, _PT27, "2.23.9.0", "2.27.23.0", "2.27.34.0", "2.25.145.0", "2.20.9961.0", "0.5.9230", "0.9.1"
        ),
        Release(
            "2.26.0", V0, _PT28, "2.24.7.0", "2.28.23.0", "2.28.27.0", "2.26.14.0", "2.21.18209.0", "0.6.10598", "0.9.1"
        ),
        Release(
            "2.27.0",
            V1,
            _VLLM,
            "2.25.4.0",
            "2.29.40.0",
            "2.29.41.0",
            "2.27.33.0",
            "2.22.12471.0",
            "0.7.14366",
            "0.11.0",
            "0.2.1",
        ),
        Release(
            "2.28.0",
            V1,
            _VLLM,
            "2.26.5.0",
            "2.30.51.0",
            "2.30.59.0",
            "2.28.23.0",
            "2.23.6484.0",
            "0.8.16251",
            "0.13.0",
            "0.4.1",
        ),
        Release(
            "2.29.0",
            V1,
            f"{_VLLM}_0_16",
            "2.27.4.0",
            "2.31.24.0",
            "2.31.24.0",
            "2.29.18.0",
            "2.24.5133.0",
            "0.9.17334",
            "0.16.0",
            "0.5.0",
        ),
        Release(
            "2.30.0",
            V1,
            f"{_VLLM}_0_16",
            "2.28.0.0",
            "2.32.31.0",
            "2.32.28.0",
            "2.30.10.0",
            "2.25.3371.0",
            "0.10.17970",
            "0.16.0",
            "0.5.1",
        ),
        Release(
            "2.31.0",
            V1,
            f"{_VLLM}_0_16",
            "2.29.0.0",
            "2.33.10.0",
            "2.33.10.0",
            "2.31.13.0",
            "2.26.6360.0",
            "0.10.18399",
            "0.16.0",
            "0.5.3",
        ),
        Release(
            "2.32.0",
            NATIVE,
            f"{_VLLM}_0_24_0_1_1_0",
            "2.30.2.0",
            "2.34.10.0",
            "2.34.10.0",
            "2.32.28.0",
            "2.27.5334.0",
            "",
            "0.24.0",
            "1.1.0",
        ),
    )
}


def release(name: str) -> Release:
    """The table's row of that name.

    Raises:
        ValueError: there is no such row.
    """
    try:
        return RELEASES[name]
    except KeyError:
        raise ValueError(f"SDK release {name!r}: the lab knows {', '.join(RELEASES)}") from None
