# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.filter.replica_plan import FilterModule
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import deployment, host

replica_plan = FilterModule().filters()["replica_plan"]


def test_a_fleet_becomes_its_plan() -> None:
    plan = replica_plan({"hosts": {"a": host(deployment())}, "routers": ["a"]})
    assert [replica["cores"] for replica in plan["hosts"]["a"]["replicas"]] == ["0-31", "32-63"]


def test_every_problem_is_in_the_error() -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        replica_plan({"hosts": {"a": host(deployment(port=80, max_num_seqs=0))}})
    assert "port = 80" in str(caught.value)
    assert "max_num_seqs = 0" in str(caught.value)


@pytest.mark.parametrize("value", [None, [], {"hosts": ["a"]}, "text"])
def test_what_is_no_fleet_is_refused(value: object) -> None:
    with pytest.raises(AnsibleFilterError, match="needs a mapping"):
        replica_plan(value)
