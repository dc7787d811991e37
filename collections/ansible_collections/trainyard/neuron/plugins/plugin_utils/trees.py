# SPDX-License-Identifier: Apache-2.0
"""Paths of a task, rendered on the controller and packed for its module, and what a host lacks for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.trainyard.neuron.plugins.module_utils import entries, options
from ansible_collections.trainyard.neuron.plugins.plugin_utils import each
from ansible_collections.trainyard.neuron.plugins.plugin_utils.follow import FollowsUnits
from ansible_collections.trainyard.neuron.plugins.plugin_utils.host_packages import have_packages
from ansible_collections.trainyard.neuron.plugins.plugin_utils.rendering import Renderer

SOURCES = ("template", "file", "module_util", "content")
MODULE_UTILS = Path(entries.__file__).parent

Call = Callable[[dict[str, Any]], dict[str, Any]]


class RendersTrees(FollowsUnits):
    """Renders the paths that a task names."""

    def packed(self, arguments: dict[str, Any], variables: dict[str, Any]) -> str:
        """The paths of the task as they travel to the host.

        Args:
            arguments: as `options.FILES_SPEC` describes them.
            variables: of the task.

        Raises:
            AnsibleActionFail: a path that cannot be rendered, with why.
        """
        wanted: list[entries.Entry] = []
        renderer = self._renderer(variables, {**arguments["names"], **arguments["lists"]})
        for item in with_packages(arguments["items"] or []):
            try:
                elements = each.elements_of(item, arguments["lists"])
                wanted.extend(self._entry(item, element, arguments, renderer) for element in elements)
            except (AnsibleError, OSError, KeyError, ValueError) as error:
                raise AnsibleActionFail(f"{item['path']}: {error}") from error
        return entries.pack(wanted)

    def with_files(self, call: Call, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run a module that lays out ``files`` before it does its own work, and again where the host lacked a user.

        Args:
            call: runs the module with these arguments.
            arguments: of the task; ``files`` is as `options.FILES_SPEC` describes it.
            task_vars: of the task.

        Raises:
            AnsibleActionFail: ``files`` says what it must not.
        """
        if not arguments.get("files"):
            return call(arguments)
        judged = ArgumentSpecValidator(options.FILES_SPEC).validate(arguments["files"])
        if judged.error_messages:
            raise AnsibleActionFail(f"files: {', '.join(judged.error_messages)}")
        given = judged.validated_parameters
        payload = {"payload": self.packed(given, dict(task_vars or {}))}
        result = call({**arguments, "files": {**payload, "users": given["users"]}})
        if lacking := result.get("lacking"):
            refused = self._install(lacking, task_vars)
            return refused or with_installed(call({**arguments, "files": payload}), lacking)
        return result

    def _install(self, lacking: dict[str, Any], task_vars: dict[str, Any] | None, start: bool = True) -> dict[str, Any]:
        """Make what the host lacks; the result of what failed, or nothing."""
        results = [have_packages(self, lacking["packages"], task_vars, start)] if lacking["packages"] else []
        for row in lacking["users"]:
            if any(result.get("failed") for result in results):
                break
            wanted = {**row, "system": True, "create_home": False}
            results.append(
                self._execute_module(module_name="ansible.builtin.user", module_args=wanted, task_vars=task_vars)
            )
        return next((result for result in results if result.get("failed")), {})

    def _entry(
        self, item: dict[str, Any], element: Mapping[str, Any] | None, defaults: dict[str, Any], renderer: Renderer
    ) -> entries.Entry:
        check_item(item)
        mode, names = item["mode"], {**defaults["names"], **(element or {})} or None
        return entries.Entry(
            path=each.fill(item["path"], names),
            state=item["state"],
            content=self._content(item, element, renderer) if item["state"] == "file" else None,
            target=each.fill(item["target"], names),
            previous=each.fill(item["previous"], names),
            owner=item["owner"] or defaults["owner"],
            group=item["group"] or defaults["group"],
            mode=None if mode is None else int(mode, 8),
            validate=item["validate"],
            sensitive=item["sensitive"],
            prune=tuple(item["prune"] or ()) if item["state"] == "directory" else (),
        )

    def _content(self, item: dict[str, Any], element: Mapping[str, Any] | None, renderer: Renderer) -> bytes:
        if (name := item["template"]) is not None:
            managed = f"Managed by trainyard ({name}): changes made here are lost."
            given = {} if element is None else {"item": element}
            return renderer.render(name, ansible_managed=managed, **given).encode()
        if item["file"] is not None:
            found: str = self._find_needle("files", each.fill(item["file"], element))
            return Path(found).read_bytes()
        if item["module_util"] is not None:
            shared: Path = MODULE_UTILS / each.fill(item["module_util"], element)
            return shared.read_bytes()
        return as_text(item["content"]).encode()

    def _renderer(self, variables: dict[str, Any], shared: dict[str, Any]) -> Renderer:
        templar = self._templar.copy_with_new_env(available_variables=variables)

        def resolve(name: str) -> Any:
            return templar.template(variables[name])

        kept = Path(constants.config.get_config_value("ANSIBLE_HOME")) / "trainyard" / "templates"
        return Renderer(self._search_path(), frozenset(variables), resolve, kept, shared)

    def _search_path(self) -> list[Path]:
        """Where templates are looked up: role, playbook, then what is shared by the roles of one directory."""
        roots = [Path(path) for path in self._task.get_search_path()]
        role = getattr(self._task, "_role", None)
        shared = Path(role.get_role_path()).parent.parent if role else Path(self._loader.get_basedir()).parent
        paths = [root / "templates" for root in roots] + [shared / "templates"]
        return list(dict.fromkeys(paths))


def without_arguments(result: dict[str, Any]) -> dict[str, Any]:
    """A module's result without the arguments of its run: they are of no use there, and may be long."""
    result.get("invocation", {}).pop("module_args", None)
    return result


def with_installed(result: dict[str, Any], lacking: dict[str, Any]) -> dict[str, Any]:
    """The module's result with what was made before it."""
    made = [f"package {name}" for name in lacking["packages"]] + [f"user {row['name']}" for row in lacking["users"]]
    told = {**result, "changed": True, "installed": made, "msg": f"{', '.join(made)}; {result.get('msg', '')}"}
    if "diff" in result:
        told["diff"] = [{"before": "", "after": f"{row}\n"} for row in made] + list(result["diff"])
    return told


def with_packages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items, each directory with a ``package`` followed by every Python file of that part of ``module_utils``."""
    found: list[dict[str, Any]] = []
    for item in items:
        found.append(item)
        if item["package"] is None or item["state"] != "directory":
            continue
        for path in sorted((MODULE_UTILS / item["package"]).glob("*.py")):
            file = {"path": f"{item['path']}/{path.name}", "module_util": f"{item['package']}/{path.name}"}
            found.append({**dict.fromkeys(item), "state": "file", "sensitive": False, **file})
    return found


def check_item(item: dict[str, Any]) -> None:
    """Refuse an item whose options do not fit together.

    Raises:
        ValueError: naming the option and what to give instead.
    """
    if item["state"] == "absent":
        # The rest of an item may stay, so that its state can be a switch.
        return
    given = [name for name in SOURCES if item[name] is not None]
    if item["state"] == "file" and len(given) != 1:
        raise ValueError(f"a file needs exactly one of {', '.join(SOURCES)}; given: {', '.join(given) or 'none'}")
    if item["state"] != "file" and given:
        raise ValueError(f"{given[0]} is for files, not for state {item['state']}")
    if (item["state"] == "link") != (item["target"] is not None):
        raise ValueError("state link and target go together")
    if item["previous"] is not None and item["state"] != "link":
        raise ValueError("previous is for links")
    if item["package"] is not None and item["state"] != "directory":
        raise ValueError("package is for directories")
    if item["package"] is not None and not (MODULE_UTILS / item["package"] / "__init__.py").is_file():
        raise ValueError(f"package {item['package']!r} is no directory of programs in module_utils")
    if item["prune"] is not None and item["state"] != "directory":
        raise ValueError("prune is for directories")
    if item["validate"] is not None and item["state"] != "file":
        raise ValueError("validate is for files")


def as_text(value: Any) -> str:
    """Content as text: structures become indented JSON with sorted keys, so that equal data give equal bytes."""
    if isinstance(value, (dict, list)):
        return json.dumps(value, indent=2, sort_keys=True) + "\n"
    return "" if value is None else str(value)
