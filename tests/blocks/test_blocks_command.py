# SPDX-License-Identifier: Apache-2.0
"""`trainyard blocks`: what is owned, what is for sale, and one line where EC2 refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.blocks.conftest import Account
from trainyard import blocks_command
from trainyard.cli import app

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import blocks, offers  # isort: skip

SEARCH = ["blocks", "--type", "trn2.48xlarge", "--count", "2", "--hours", "48"]


def test_offers_and_blocks_are_shown_and_nothing_is_bought(account: Account) -> None:
    wish = offers.Wish("trn2.48xlarge", 1, 24)
    (first, *_), _unreadable = blocks.offers(account.client, wish)
    account.buyer().buy(blocks.Purchase("december", first.id, first.fee, "USD", "Linux/UNIX", wish))
    account.market.set({"now": "2026-12-01T09:00:00+00:00"})
    found = json.loads(CliRunner().invoke(app, [*SEARCH, "--json"]).stdout)
    assert [row["intent"] for row in found["blocks"]] == ["december"]
    assert all(row["instance_count"] == 2 and row["end"].endswith("T11:30:00Z") for row in found["offers"])
    shown = CliRunner().invoke(app, SEARCH, env={"COLUMNS": "200"}).stdout
    assert "december" in shown and found["offers"][0]["fee"] in shown and "Nothing was bought" in shown
    assert len(account.market.sold) == 1


def test_a_budget_that_nothing_meets_is_said(account: Account) -> None:
    shown = CliRunner().invoke(app, [*SEARCH, "--budget", "10"]).stdout
    assert "each over the budget" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hours", "25", "--type", "trn2.48xlarge"], "the nearest is 48"),
        (["--hours", "48"], "a search needs instance_type"),
        (["--type", "trn2.48xlarge", "--hours", "48", "--start", "soon"], "'soon' is no ISO time"),
        (["--type", "trn2.48xlarge", "--hours", "48", "--budget", "nan"], "is no amount that can be paid"),
        (["--report", "/nowhere/report.json"], "/nowhere/report.json"),
    ],
)
def test_words_that_mean_nothing_are_refused_in_one_line(account: Account, words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["blocks", *words])
    assert result.exit_code == 1 and said in result.stderr and "Traceback" not in result.stderr


def test_what_ec2_refuses_is_one_line_with_what_helps(account: Account) -> None:
    refused = {"DescribeCapacityBlockOfferings": ["UnauthorizedOperation", "You are not authorized"]}
    account.market.set({"refuse": refused})
    result = CliRunner().invoke(app, SEARCH)
    assert result.exit_code == 1 and "may not do that" in result.stderr and "docs/iam" in result.stderr


def test_without_credentials_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    result = CliRunner().invoke(app, [*SEARCH, "--region", "us-east-2"])
    assert result.exit_code == 1 and "EC2 could not be asked" in result.stderr and "redentials" in result.stderr


def test_a_million_tokens_cost_what_an_hour_does_by_what_it_gives() -> None:
    assert blocks_command.usd_per_million_tokens(36.0, 1000.0) == pytest.approx(10.0)
