# SPDX-License-Identifier: Apache-2.0
"""Adapters and drafts on the stand-in: what the planner has compiled serves them, and what it has not does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import adapters, agreement, settings
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.artifact import expected
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, parse_deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generations import (
    Placement,
    argument_problems,
    render_compile,
    render_serve,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import adapter_paths
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release

from lab.neuron_sim import latency
from tests.lab.sim_support import TINY_MODEL, Server, SimHost, free_port

REVISION = "0" * 40
MODEL = {"repo": "org/tiny", "revision": REVISION}
ADAPTERS = [{"name": name, "repo": f"org/{name}", "revision": REVISION} for name in ("sql", "chat")]
LORA = {"max_loras": 2, "max_rank": 16, "adapters": ADAPTERS}
DRAFT = {"method": "draft", "model": {"repo": "org/draft", "revision": REVISION}, "tokens": 7}
#: A vLLM with adapters (plugin 0.4.1), and the fork, which takes a draft.
V1, V0 = find_release("2.28.0"), find_release("2.26.1", "nxdi_v0")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimHost]:
    with SimHost(tmp_path_factory.mktemp("host"), sdk_releases=["2.28.0", "2.26.1"]) as found:
        for name in ("tiny", "sql", "chat", "draft"):
            found.make_model(f"weights/org/{name}/{REVISION}", TINY_MODEL)
        yield found


def weights(host: SimHost) -> str:
    return str(host.root / "data/weights/org/tiny" / REVISION)


def deployment(row: Any, **fields: Any) -> Deployment:
    raw = {"name": "m", "model": MODEL, "served_name": "tiny", "sdk_release": row.release,
           "generation": row.generation, "tensor_parallel_size": 16, "max_num_seqs": 2, "max_model_len": 1024,
           "port": free_port(), "neuron_config": {"model_type": "llama"}, **fields}  # fmt: skip
    found, problems = parse_deployment(raw, "x")
    assert found is not None, problems
    assert [str(problem) for problem in argument_problems(found, row, "x")] == []
    return found


def compiled(host: SimHost, wanted: Deployment, row: Any, name: str) -> Path:
    """Run the planner's compile command."""
    artifact = host.root / "artifacts" / name
    made = render_compile(
        wanted, row, weights_path=weights(host), artifact_path=str(artifact), work_dir=str(host.root / "work"),
        logical_nc_config=2,
    )  # fmt: skip
    program = host.venv(row.release) / Path(made.argv[0]).name
    result = host.run(program, *made.argv[1:], env=dict(made.environment))
    assert result.returncode == 0, result.stderr
    return artifact


def started(host: SimHost, wanted: Deployment, row: Any, artifact: Path, cores: str) -> Server:
    """Run the planner's serve command, as the unit does: with the files that travel, and a view of the artifact."""
    made = render_serve(
        wanted, row, placement=Placement(cores, 16, wanted.port, "127.0.0.1"), weights_path=weights(host),
        artifact_path=str(artifact), replica_name="m-0",
    )  # fmt: skip
    program = host.venv(row.release) / Path(made.argv[0]).name
    environment = {key: value for key, value in made.environment.items() if "/run/vllm" not in value}
    argv = list(made.argv)
    for path, content in made.files:
        file = host.root / path.rsplit("/", 1)[-1]
        file.write_text(content)
        argv = [word.replace(path, str(file)) for word in argv]
    paths = adapter_paths(wanted, weights(host))
    if paths and (json.loads((artifact / "neuron_config.json").read_text())["neuron_config"]["lora_config"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "RUNTIME", host.root / "run")
            replica = settings.Replica(
                name="m-0", argv=made.argv, url="http://127.0.0.1:1", cores=cores, served_name="tiny",
                artifact_path=str(artifact), adapters=paths,
            )  # fmt: skip
            environment[adapters.ARTIFACT_VARIABLE] = str(adapters.make_view(replica))
    return host.start(program, *argv[1:], port=wanted.port, env=environment)


def refused(host: SimHost, wanted: Deployment, row: Any, artifact: Path) -> list[str]:
    """What the unit's own check says of an artifact."""
    compiled_in = json.loads(json.dumps(expected(wanted, row, 2)))
    return agreement.problems(row.generation, str(artifact), [], {}, compiled_in)


def test_two_adapters_are_served_by_their_names_and_answer_each_in_their_own_way(host: SimHost) -> None:
    wanted = deployment(V1, lora=LORA)
    artifact = compiled(host, wanted, V1, "lora")
    assert refused(host, wanted, V1, artifact) == []
    server = started(host, wanted, V1, artifact, "0-15")
    server.wait_ready(60)
    cards = {card["id"]: card for card in server.json("/v1/models")["data"]}
    assert set(cards) == {"tiny", "sql", "chat"}
    assert cards["sql"]["root"].endswith(f"/org/sql/{REVISION}")
    assert cards["sql"]["parent"] == "tiny"
    answers = {}
    for name in cards:
        body = {"model": name, "prompt": "Once", "max_tokens": 16, "temperature": 0}
        answers[name] = server.json("/v1/completions", body)["choices"][0]["text"]
    assert len(set(answers.values())) == 3
    assert server.request("/v1/completions", {"model": "other", "prompt": "x"})[0] == 404


def test_an_artifact_without_adapters_serves_none(host: SimHost) -> None:
    wanted = deployment(V1, lora=LORA)
    plain = compiled(host, replace(wanted, lora=None), V1, "plain")
    (said,) = refused(host, wanted, V1, plain)
    assert said.startswith("lora_config of the artifact is null")
    server = started(host, wanted, V1, plain, "16-31")
    assert server.wait_exit(60) != 0
    assert "LoRA is enabled, but the compiled model has no lora_config" in server.log


def test_an_adapter_of_another_release_is_served_from_the_same_artifact(host: SimHost) -> None:
    """NxDI takes adapters' directories from the artifact's own configuration: it is shown one with this release's."""
    wanted = deployment(V1, lora=LORA)
    artifact = compiled(host, wanted, V1, "other")
    host.make_model(f"weights/org/chat/{'1' * 40}", TINY_MODEL)
    other = deployment(V1, lora={**LORA, "adapters": [ADAPTERS[0], {**ADAPTERS[1], "revision": "1" * 40}]})
    server = started(host, other, V1, artifact, "48-63")
    server.wait_ready(60)
    cards = {card["id"]: card for card in server.json("/v1/models")["data"]}
    assert cards["chat"]["root"].endswith("/org/chat/" + "1" * 40)
    assert "lora_ckpt_paths" not in (artifact / "neuron_config.json").read_text()


def test_a_draft_is_compiled_in_served_and_makes_tokens_come_faster(host: SimHost) -> None:
    wanted = deployment(V0, speculation=DRAFT, max_num_seqs=1)
    artifact = compiled(host, wanted, V0, "draft")
    written = json.loads((artifact / "neuron_config.json").read_text())
    assert written["fused_spec_config"]["draft_model_path"].endswith(f"/org/draft/{REVISION}")
    assert refused(host, wanted, V0, artifact) == []
    bare = replace(wanted, speculation=None)
    plain = compiled(host, bare, V0, "no-draft")
    assert {line.split()[0] for line in refused(host, wanted, V0, plain)} == {
        "enable_fused_speculation", "speculation_length",
    }  # fmt: skip
    assert {line.split()[0] for line in refused(host, bare, V0, artifact)} == {
        "enable_fused_speculation", "speculation_length",
    }  # fmt: skip
    server = started(host, wanted, V0, artifact, "32-47")
    server.wait_ready(60)
    assert server.json("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 2})["choices"]


def test_a_drafts_pace_is_that_of_the_published_pair() -> None:
    """AWS's tutorial: Qwen3 32B at 102.3 tokens/s, and at 137.8 with Qwen3 0.6B guessing 7 at a time."""
    assert 1 / latency.speculation_factor(7) == pytest.approx(137.8 / 102.3, rel=0.01)
    assert latency.speculation_factor(0) == 1.0
    plain = latency.Fixed(0.05, 0.01)
    guessed = latency.Guessed(plain, latency.speculation_factor(7))
    assert guessed.prefill_seconds(100) == plain.prefill_seconds(100)
    assert guessed.step_seconds([1]) < plain.step_seconds([1])
