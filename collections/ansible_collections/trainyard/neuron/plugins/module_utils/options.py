# SPDX-License-Identifier: Apache-2.0
"""What tasks of ``file_tree`` and ``units`` may say: one contract for the controller's side and the host's.

Apart from what is done with it, so that the controller need not load that: Ansible compiles what it loads of a
collection anew in every run.
"""

from __future__ import annotations

from typing import Any, Dict

USER_SPEC: Dict[str, Dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "home": {"type": "str", "required": True},
    "shell": {"type": "str", "default": "/usr/sbin/nologin"},
}
UNIT_SPEC: Dict[str, Dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "each": {"type": "raw"},
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
    "enabled": {"type": "bool"},
    "expected_environment": {"type": "dict", "default": {}},
    "restart_on": {"type": "list", "elements": "str", "default": []},
    "reload_on": {"type": "list", "elements": "str", "default": []},
    "reload_unless": {"type": "list", "elements": "str", "default": []},
    "timeout_s": {"type": "int"},
}
UNITS_SPEC: Dict[str, Dict[str, Any]] = {
    "units": {"type": "list", "elements": "dict", "options": UNIT_SPEC, "required": True},
    "changed_paths": {"type": "list", "elements": "str", "default": []},
    "prune": {"type": "list", "elements": "str", "default": []},
    "timeout_s": {"type": "int", "default": 300},
    "allowed_restarts": {"type": "int", "default": 0},
    "journal_lines": {"type": "int", "default": 20},
    "daemon_reload_on": {"type": "list", "elements": "str", "default": []},
    "stop_before_start": {"type": "list", "elements": "str", "default": []},
    "wait_s": {"type": "float"},
}
PENDING_SPEC: Dict[str, Dict[str, Any]] = {
    "waits": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "verb": {"type": "str", "choices": ["start", "restart", "reload", "stop"], "required": True},
            "timeout_s": {"type": "float", "required": True},
        },
    },
    "began_s": {"type": "float", "required": True},
    "problems": {"type": "list", "elements": "str", "required": True},
}
ITEM_SPEC: Dict[str, Dict[str, Any]] = {
    "path": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
    "template": {"type": "str"},
    "file": {"type": "str"},
    "module_util": {"type": "str"},
    "package": {"type": "str"},
    "content": {"type": "raw"},
    "target": {"type": "str"},
    "previous": {"type": "str"},
    "each": {"type": "raw"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "str"},
    "validate": {"type": "str"},
    "sensitive": {"type": "bool", "default": False},
    "prune": {"type": "list", "elements": "str"},
}
FILES_SPEC: Dict[str, Dict[str, Any]] = {
    "items": {"type": "list", "elements": "dict", "options": ITEM_SPEC},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "users": {"type": "list", "elements": "dict", "options": USER_SPEC, "default": []},
    "names": {"type": "dict", "default": {}},
    "lists": {"type": "dict", "default": {}},
}
FILE_TREE_SPEC: Dict[str, Dict[str, Any]] = {
    **FILES_SPEC,
    "packages": {"type": "list", "elements": "str", "default": []},
    "services": {"type": "dict", "options": UNITS_SPEC},
    "changed_paths": {"type": "list", "elements": "str", "default": []},
    "note": {"type": "str"},
    "payload": {"type": "str", "no_log": True},
}
SENT_FILES_SPEC: Dict[str, Dict[str, Any]] = {
    "payload": {"type": "str", "no_log": True, "required": True},
    "users": {"type": "list", "elements": "dict", "options": USER_SPEC, "default": []},
}
