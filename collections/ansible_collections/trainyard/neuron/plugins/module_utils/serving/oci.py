# SPDX-License-Identifier: Apache-2.0
"""The command line that runs a command in a container image as the main process of a systemd unit."""

from __future__ import annotations

from typing import List, Sequence, Tuple


def command(
    engine: str,
    name: str,
    image: str,
    argv: Sequence[str],
    volumes: Sequence[Tuple[str, str]],
    passed: Sequence[str],
    options: Sequence[str] = (),
) -> Tuple[str, ...]:
    """The whole command line.

    The image's entry point is replaced, since the serving images' own starts the command as a child and passes no
    signal on; its health check is off, since it asks a port that nobody listens on. A small init is process 1. Of the
    capabilities that engines give by default it has none.

    Args:
        engine: ``podman`` or ``docker``.
        name: the container's name; with podman one that was left behind under it goes first.
        image: reference by digest.
        argv: the command inside.
        volumes: path, the same inside, and ``ro`` or ``rw``.
        passed: names of the variables that the container gets. Their values are not in the command line.
        options: further options of the engine.
    """
    words: List[str] = [engine, "run", "--rm", "--name", name, "--pull", "never"]
    words += ["--network", "host", "--ipc", "host", "--init", "--no-healthcheck", "--entrypoint", ""]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "-1"]
    if is_podman(engine):
        # The container lives in the unit's control group, so it ends with the unit whatever happens to its parent. It
        # has the unit's limits too.
        words += ["--cgroups", "split", "--log-driver", "passthrough", "--replace"]
    else:
        words += ["--ulimit", "memlock=-1:-1"]
    words += options
    for path, mode in volumes:
        words += ["--volume", "{0}:{0}:{1}".format(path, mode)]
    for variable in sorted(passed):
        words += ["--env", variable]
    return (*words, image, *argv)


def is_podman(engine: str) -> bool:
    """Whether the engine is podman, whose containers are children of the unit."""
    return engine.endswith("podman")
