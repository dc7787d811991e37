# SPDX-License-Identifier: Apache-2.0
"""What the comparison tells the other routers."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.roll_compare import Engine, Nginx, ways

ENGINES = [Engine(f"h{number}", "vllm@m-0.service", f"http://10.0.0.{number}:8000") for number in (1, 2)]


def test_nginx_sends_to_every_replica_but_the_one_that_leaves(tmp_path: Path) -> None:
    nginx = Nginx("/usr/sbin/nginx", tmp_path, ENGINES, reloads=True)
    everybody, without = nginx.render(""), nginx.render("10.0.0.2:8000")
    assert [line.strip() for line in everybody.splitlines() if "server 10." in line] == [
        "server 10.0.0.1:8000;",
        "server 10.0.0.2:8000;",
    ]
    assert "server 10.0.0.2:8000 down;" in without
    assert "proxy_buffering off;" in without


def test_only_ways_with_a_program_are_tried(tmp_path: Path) -> None:
    given = argparse.Namespace(nginx="", vllm_router="/venv/bin/vllm-router")
    found = ways(given, tmp_path, ENGINES, "http://10.0.0.1:8080")
    assert list(found) == ["trainyard", "haproxy-restart", "vllm-router-restart", "vllm-router-drain"]
    assert (found["trainyard"].url, found["haproxy-restart"].url) == ("http://10.0.0.1:8080",) * 2
