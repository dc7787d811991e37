# SPDX-License-Identifier: Apache-2.0
"""What a user does first: `trainyard init`, then `site.yml`, with nothing given but addresses and a token."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.front_door import shipped
from tests.lab_plays import changed_tasks
from tests.stand_in import Lab

#: The recipes of both sources, by the model that each serves.
MODELS = {"llama-3-3-70b": "meta-llama/Llama-3.3-70B-Instruct", "qwen3-32b": "Qwen/Qwen3-32B"}


@dataclass
class Door(Lab):
    """A lab whose hosts are reached as a user reaches his: by an inventory of his own, from a shell with key and token.

    Attributes:
        inventory_of_mine: where `begin` writes it.
    """

    inventory_of_mine: Path = field(default_factory=Path)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            "ANSIBLE_PRIVATE_KEY_FILE": str(self.folder / "id_ed25519"),
            "ANSIBLE_SSH_COMMON_ARGS": f"-o UserKnownHostsFile={self.folder / 'known_hosts'}",
            "HF_TOKEN": shipped.TOKEN,
        }

    def begin(self, recipe: str, hosts: list[str], folder: Path) -> None:
        """Write an inventory for these hosts, the first of which routes and measures too.

        Args:
            recipe: what they serve.
            hosts: their names in the lab.
            folder: where inventory and results are kept.
        """
        addresses = {f"trn2-{letter}": self.address(host) for letter, host in zip("abcd", hosts, strict=False)}
        given = [word for name, address in addresses.items() for word in ("--host", f"{name}={address}")]
        self.inventory_of_mine = folder / "mine"
        self.trainyard("init", str(self.inventory_of_mine), "--recipe", recipe, *given)
        self.inventories = [str(self.inventory_of_mine)]
        # No settings of a fleet: what a lab's figures are called, and a load that a test has time for.
        self.variables = {**shipped.beside(recipe), "trainyard_results_dir": str(folder / "results")}

    def arrive(self, recipe: str, router: str) -> None:
        """Run all of it: the model is served and measured, and a second run finds nothing to do.

        Args:
            recipe: what is served.
            router: the host of the lab that routes.
        """
        self.play("site.yml")
        body = {"model": MODELS[recipe], "prompt": "Hello", "max_tokens": 8}
        answer = httpx.post(f"http://{self.address(router)}:8080/v1/completions", json=body, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] == 8
        results = Path(str(self.variables["trainyard_results_dir"]))
        (report,) = [json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*/report.json")]
        assert report["load"]["tool"] == shipped.client()
        assert report["sound"], report["flags"]
        assert changed_tasks(self.play("site.yml", "--skip-tags=benchmark")) == set()


def lab_of(scenario: str) -> str:
    """The lab of the scenario that runs these tests."""
    return os.environ.get("TRAINYARD_LAB", scenario)
