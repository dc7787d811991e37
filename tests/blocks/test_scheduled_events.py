# SPDX-License-Identifier: Apache-2.0
"""What EC2 has scheduled for instances is told once, and written as a metric; the watch goes on where it cannot ask."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_watch, ec2_events
from ansible_collections.trainyard.neuron.plugins.plugin_utils.ec2_blocks import AskError
from botocore.stub import Stubber

from trainyard import block_watch_command

AT = datetime(2026, 12, 9, 8, 0, tzinfo=UTC)
HOSTS = {"us-east-1": {"i-1": "a", "i-2": "b"}}


def event(code: str, **more: Any) -> dict[str, Any]:
    return {"InstanceEventId": f"instance-event-{code}", "Code": code, "NotBefore": AT, "Description": "said", **more}


ROWS: list[dict[str, Any]] = [
    {
        "InstanceId": "i-1",
        "Events": [
            event("system-reboot", NotBefore=AT + timedelta(days=1)),
            event("instance-retirement"),
            event("system-maintenance", Description="[Completed] said"),
        ],
    },
    {"InstanceId": "i-2"},
]


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Stubber:
    """EC2 as botocore's stub has it, which holds answers to botocore's own model; moto knows no events."""
    client = boto3.client("ec2", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
    monkeypatch.setattr(boto3, "client", lambda *_given, **_named: client)
    stub = Stubber(client)
    stub.activate()
    return stub


def test_events_that_are_to_come_are_read_the_first_of_them_first(ec2: Stubber) -> None:
    asked = {"InstanceIds": ["i-1", "i-2"], "IncludeAllInstances": True}
    ec2.add_response("describe_instance_status", {"InstanceStatuses": ROWS}, asked)
    found = ec2_events.ask(HOSTS)
    assert [(one.host, one.code) for one in found] == [("a", "instance-retirement"), ("a", "system-reboot")]
    assert (
        found[0].line().startswith("EC2 has instance-retirement scheduled for a (i-1), not before 2026-12-09T08:00:00Z")
    )
    assert "playbooks/evacuate.yml -e trainyard_only=a" in found[0].line()
    assert "drain its replicas" in found[1].line()


def test_of_hosts_that_ec2_does_not_know_nobody_asks() -> None:
    assert ec2_events.instances_of({"a": {"ansible_host": "192.0.2.1"}}) == {}
    assert ec2_events.ask({}) == []
    found = {"a": {"instance_id": "i-1", "placement": {"region": "us-east-1"}}, "b": {}}
    assert ec2_events.instances_of(found) == {"us-east-1": {"i-1": "a"}}


def test_what_ec2_refuses_is_said_with_what_helps(ec2: Stubber) -> None:
    ec2.add_client_error("describe_instance_status", "UnauthorizedOperation", "no")
    with pytest.raises(AskError, match="asking what EC2 has scheduled: these credentials may not"):
        ec2_events.ask(HOSTS)


def test_an_event_is_told_once_and_is_a_metric_as_long_as_it_is_there(ec2: Stubber) -> None:
    ec2.add_response("describe_instance_status", {"InstanceStatuses": ROWS})
    events, memory = ec2_events.ask(HOSTS), block_watch.Memory()
    assert len(block_watch.untold(events, memory)) == 2
    assert block_watch.untold(events, memory) == []
    text = block_watch.metrics(memory, [], AT, events)
    labels = 'host="a",instance="i-1",code="instance-retirement"'
    assert f"trainyard_instance_event_timestamp_seconds{{{labels}}} {AT.timestamp():.3f}\n" in text


def test_the_command_tells_it_and_goes_on_where_ec2_cannot_be_asked(
    ec2: Stubber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from trainyard.cli import app

    known = {"instance_id": "i-1", "placement": {"region": "us-east-1"}}
    inventory = type("Inventory", (), {"get_hosts": lambda *_: [type("Host", (), {"name": "a"})()]})()
    monkeypatch.setattr(block_watch_command, "open_inventory", lambda _sources: (inventory, {"a": known}))
    monkeypatch.setattr(block_watch_command, "read_fleet", lambda *_: {"hosts": {}})
    words = ["block-watch", "-i", str(tmp_path), "--metrics", str(tmp_path / "blocks.prom")]
    for told in (1, 0):
        ec2.add_response("describe_instance_status", {"InstanceStatuses": ROWS[:1]})
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        assert result.output.count("EC2 has instance-retirement scheduled") == told
        assert 'code="instance-retirement"' in (tmp_path / "blocks.prom").read_text()
    ec2.add_client_error("describe_instance_status", "UnauthorizedOperation", "no")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and "these credentials may not" in result.output
