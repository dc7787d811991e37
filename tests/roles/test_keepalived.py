# SPDX-License-Identifier: Apache-2.0
"""What keepalived runs of the toolkit's: its check runs as nobody."""

from __future__ import annotations

import re

from tests.roles.render import render


def test_the_check_runs_as_nobody_and_by_its_whole_path() -> None:
    given = {
        "load_balancer_virtual_interface": "eth0",
        "load_balancer_virtual_address": "10.0.0.9/24",
        "load_balancer_peers": ["10.0.0.2"],
    }
    text = render("load_balancer", "keepalived.conf.j2", **given)
    assert re.findall(r"^ +script_user (.+)$", text, re.MULTILINE) == ["nobody"]
    assert re.findall(r"^ +enable_script_security$", text, re.MULTILINE)
    scripts = re.findall(r'^ +(?:script|notify\S*) +"([^"]*)"', text, re.MULTILINE)
    assert scripts == ["/usr/bin/systemctl is-active --quiet haproxy.service"]
