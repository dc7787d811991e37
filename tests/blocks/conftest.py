# SPDX-License-Identifier: Apache-2.0
"""The EC2 stand-in in this process: boto3's own clients, moto's instances, and the lab's market of capacity blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from lab.services.blocks import Market, install

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.blocks import Buyer, Journal  # isort: skip

REGION = "us-east-1"


@dataclass
class Account:
    """An AWS account with a clock that can be driven."""

    market: Market
    client: Any
    journal: Path

    def buyer(self) -> Buyer:
        """A buyer whose waiting lets the stand-in's time pass."""

        def sleep(seconds: float) -> None:
            self.market.set({"forward_s": seconds})

        return Buyer(self.client, Journal(self.journal), sleep=sleep, now=lambda: self.market.now)

    def subnet(self, zone: str) -> str:
        rows = self.client.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [zone]}])["Subnets"]
        return str(rows[0]["SubnetId"])


@contextmanager
def empty(folder: Path) -> Iterator[Account]:
    """An account in which nothing is, of a clock that stands at a fixed hour first."""
    market = Market()
    market.set({"now": "2026-12-01T09:00:00+00:00"})
    with mock_aws():
        restore = install(market)
        try:
            yield Account(market, boto3.client("ec2", region_name=REGION), folder / "purchases.json")
        finally:
            restore()


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What boto3 needs to ask anybody."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)


@pytest.fixture
def account(credentials: None, tmp_path: Path) -> Iterator[Account]:
    with empty(tmp_path) as found:
        yield found
