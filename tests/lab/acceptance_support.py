# SPDX-License-Identifier: Apache-2.0
"""An acceptance of a stand-in in a directory, all of its stages, as the playbook makes it on a host."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance import STAGES, evidence
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_container import container_trial
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_trials import TRIED, Deployment, Trials
from ansible_collections.trainyard.neuron.plugins.modules.acceptance import pids_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils import acceptance

from lab.neuron_sim import install, rules, sdk, starts
from tests.lab.sim_support import SimHost

LATENCY = {"kind": "fixed", "ttft_ms": 10, "itl_ms": 5}
ALL = (*STAGES, *TRIED)
#: Cores of a replica, sequences, tokens of a sequence.
DEGREE, BATCH, LENGTH = 16, 4, 2048
RELEASES = {"nxdi_v0": "2.23.0", "nxdi_v1": "2.27.0", "native": "2.32.0"}


def deployment(host: SimHost) -> Deployment:
    """A deployment of the host's one release, with commands as the plan makes them."""
    release = host.settings["sdk_releases"][0]
    generation = sdk.release(release).generation
    artifact = str(host.root / "data/artifacts/planned")
    model = str(host.model)
    size = ["--tensor-parallel-size", str(DEGREE), "--max-num-seqs", str(BATCH), "--max-model-len", str(LENGTH)]
    bin_ = host.venv(release)
    serve = [str(bin_ / "vllm"), "serve", model]
    if generation == "nxdi_v0":
        serve = [str(bin_ / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        size += ["--device", "neuron", "--use-v2-block-manager", "--disable-log-requests"]
    if generation == "nxdi_v1":
        size += ["--no-enable-prefix-caching", "--num-gpu-blocks-override", str(BATCH)]
    compile_argv = [str(bin_ / "inference_demo"), "--model-type", "llama", "--task-type", "causal-lm", "run"]
    compile_argv += ["--model-path", model, "--compiled-model-path", artifact, "--torch-dtype", "bfloat16"]
    compile_argv += ["--tp-degree", str(DEGREE), "--batch-size", str(BATCH), "--seq-len", str(LENGTH)]
    compile_argv += ["--max-context-length", str(LENGTH), "--on-device-sampling", "--compile-only", "--prompt", "x"]
    if host.settings.get("sharded"):
        compile_argv += ["--save-sharded-checkpoint"]
    weights = sum(path.stat().st_size for path in host.model.glob("*.safetensors"))
    cache = BATCH * LENGTH * 2 * 2 * 1 * 4 * 2 * DEGREE
    return Deployment(
        generation=generation,
        serve=(*serve, "--served-model-name", "tiny", *size, "--dtype", "bfloat16"),
        environment={"HF_HUB_OFFLINE": "1"},
        compile=tuple(compile_argv) if generation != "native" else (),
        compile_environment={},
        model=model,
        artifact=artifact,
        served_name="tiny",
        compiled={"tp_degree": DEGREE, "batch_size": BATCH, "seq_len": LENGTH, "torch_dtype": "bfloat16"},
        degree=DEGREE,
        cores_variable="NEURON_VISIBLE_DEVICES" if generation == "native" else "NEURON_RT_VISIBLE_CORES",
        artifact_variable="VLLM_CACHE_ROOT" if generation == "native" else "NEURON_COMPILED_ARTIFACTS",
        hbm_bytes=weights + cache,
    )


def add_weights(host: SimHost) -> None:
    """A checkpoint file of a few bytes, as safetensors has them."""
    head = json.dumps({"w": {"dtype": "U8", "shape": [4096], "data_offsets": [0, 4096]}}).encode()
    (host.model / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4096))


def accepted(host: SimHost, stages: tuple[str, ...] = ALL) -> dict[str, dict[str, str]]:
    """Verdict of every check, by its name."""
    tools, devices = host.config.path("/opt/aws/neuron/bin"), host.config.path("/dev")
    kind = host.settings.get("instance_type", "trn2.48xlarge")
    sysfs = host.config.path("/sys")
    starts.image_volume(host.config, lasting=rules.holds(host.config, "image-volume"))
    found: dict[str, Any] = evidence(list(STAGES), tools, devices, kind, pids_of, sysfs, root=host.root)
    engine = host.config.path("/usr/bin/podman")
    install.install_container_engine(host.config)
    contained = container_trial(str(engine), "image@sha256:0", devices, unit=())
    with tempfile.TemporaryDirectory(dir=host.root / "data") as place:
        found["trials"] = Trials(deployment(host), Path(place), tools, devices, 60.0, sysfs).run(stages)
    found["trials"]["container"] = contained
    return {one["name"]: one for one in acceptance.judged(found, stages)}
