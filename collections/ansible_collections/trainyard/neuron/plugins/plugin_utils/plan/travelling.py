# SPDX-License-Identifier: Apache-2.0
"""Files that travel to hosts with the plan: a chat template of the controller's, and the plugin's list of adapters.

A file's name on a host has a digest of its content, so that two releases of a replica have each their own, and one
that changes is a change of the replica's command.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import PREFIX
from jinja2 import Environment
from jinja2.exceptions import TemplateSyntaxError

#: Where they are on a host.
DIRECTORY = "/etc/vllm/files"

#: No template is longer, bytes.
MOST_BYTES = 1 << 18


def path_of(name: str, content: str) -> str:
    """Return where a file is on a host, by its own name and its content."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return "%s/%s-%s" % (DIRECTORY, digest, re.sub(r"[^A-Za-z0-9._-]", "_", name.rsplit("/", 1)[-1]))


def named(variables: Mapping[str, Any]) -> Dict[str, str]:
    """Return the chat templates that a host's variables name, by the variable that does."""
    found = {}
    overrides = variables.get("trainyard_overrides")
    rows = [(key, value) for key, value in variables.items() if key.startswith(PREFIX)]
    rows += [("trainyard_overrides.%s" % key, value) for key, value in (overrides or {}).items()] if isinstance(
        overrides, Mapping
    ) else []  # fmt: skip
    for key, value in rows:
        tools = value.get("tools") if isinstance(value, Mapping) else None
        template = tools.get("chat_template") if isinstance(tools, Mapping) else None
        if isinstance(template, str) and template:
            found["%s.tools.chat_template" % key] = template
    return found


def read(wanted: Iterable[Tuple[str, str, str]], beside: str) -> Tuple[Dict[str, str], List[Problem]]:
    """Read files of the controller.

    Args:
        wanted: host, variable and path of each; a path that is not absolute is beside the inventory.
        beside: directory of the inventory.

    Returns:
        The contents by path as it was given, and a problem for each that cannot be read or is no template.
    """
    found: Dict[str, str] = {}
    problems = []
    for host, variable, path in wanted:
        if path in found:
            continue
        file = Path(beside, path)
        try:
            data = file.read_bytes()
            content = data.decode("utf-8")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no UTF-8"
            rule = "is a file of the controller, and %s cannot be read: %s" % (file, why)
            fix = "name one, absolute or beside the inventory; one that is on the hosts is engine_args.chat-template"
            problems.append(Problem(host, variable, path, rule, fix))
            continue
        wrong = _template_rule(data, content)
        if wrong:
            problems.append(Problem(host, variable, path, wrong, "repair it"))
        found[path] = content
    return found, problems


def _template_rule(data: bytes, content: str) -> str:
    """Return why a chat template is none, empty for one."""
    if len(data) > MOST_BYTES:
        return "has %d bytes, and no template has more than %d" % (len(data), MOST_BYTES)
    try:
        # Parsed and never run; vLLM's own environment knows these two as well.
        Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"], autoescape=True).parse(
            re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", content)
        )
    except TemplateSyntaxError as error:
        return "is no Jinja template, line %d: %s" % (error.lineno, error.message)
    return "" if content.strip() else "is empty"
