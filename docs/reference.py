# SPDX-License-Identifier: Apache-2.0
"""Writes the reference of all that an inventory may say, and the JSON schemas, from the schemas that judge.

python docs/reference.py            writes docs/reference.md, all of docs/schemas but plan, a roll's argument spec,
                                    and what the plan knows of the roles' variables
python docs/reference.py --check    fails, with a diff, where one of them is not current
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "collections"), str(ROOT / "src")]

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import Field, Kind, Schema  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import (  # noqa: E402
    CANARY,
    HOOKS,
    REDEPLOY,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import calibration  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import DEPLOYMENT, PREFIX  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import table_schema  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import VARIABLES  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report import schema as benchmark  # noqa: E402

from docs.role_tables import MARKUP  # noqa: E402
from trainyard.sweep.spec import SWEEP  # noqa: E402

PAGE = ROOT / "docs/reference.md"
INVENTORY_SCHEMA = ROOT / "docs/schemas/inventory.schema.json"
HOSTS_SCHEMA = ROOT / "docs/schemas/hosts.schema.json"
SWEEP_SCHEMA = ROOT / "docs/schemas/sweep.schema.json"
CALIBRATION_SCHEMA = ROOT / "docs/schemas/calibration.schema.json"
SDK_SCHEMA = ROOT / "docs/schemas/sdk_releases.schema.json"
ROLL_SPEC = ROOT / "roles/rolling_redeploy/meta/argument_specs.yml"
BENCHMARK_SCHEMA = ROOT / "docs/schemas/benchmark.schema.json"
PLAN_UTILS = ROOT / "collections/ansible_collections/trainyard/neuron/plugins/plugin_utils/plan"
ROLE_VARIABLES = PLAN_UTILS / "role_variables.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
HEAD = "| {0} | type | default | unit | meaning | example | since |\n| --- | --- | --- | --- | --- | --- | --- |\n"


def cell(value: Any) -> str:
    """A value as it stands in YAML, short enough for a table."""
    if isinstance(value, tuple):
        value = list(value)
    shown = value if isinstance(value, str) and value else json.dumps(value)
    return f"`{shown}`".replace("|", "\\|")


def default_of(spec: Field) -> str:
    """What a field is where nothing is said."""
    if spec.required:
        return "required"
    return "none" if spec.default in (None, ()) else cell(spec.default)


def row(name: str, spec: Field) -> str:
    """A field as a row of a table."""
    words = spec.check.words if isinstance(spec.check, Kind) else "any"
    example = "" if spec.example is None else cell(spec.example)
    cells = [f"`{name}`", words, default_of(spec), spec.unit, spec.about, example, spec.since]
    return "| " + " | ".join(part.replace("\n", " ") for part in cells) + " |"


def table(fields: Mapping[str, Field], what: str) -> str:
    """A table of fields."""
    return HEAD.format(what) + "\n".join(row(name, spec) for name, spec in fields.items())


def inner(fields: Mapping[str, Field]) -> Iterator[tuple[str, Schema]]:
    """Every dictionary that a field holds, and those in it, with the path to it."""
    for name, spec in fields.items():
        parts = spec.check.parts if isinstance(spec.check, Kind) else None
        if isinstance(parts, Schema):
            many = spec.check.json.get("type") == "array" if isinstance(spec.check, Kind) else False
            path = name + ("[]" if many else "")
            yield path, parts
            yield from ((f"{path}.{below}", schema) for below, schema in inner(parts.fields))


def sections() -> Iterator[tuple[str, str, str]]:
    """Title, sentence and table of each part of the page."""
    yield f"A deployment, `{PREFIX}<name>`", DEPLOYMENT.about, table(DEPLOYMENT.fields, "field")
    for path, schema in inner(DEPLOYMENT.fields):
        yield f"A deployment's `{path}`", schema.about, table(schema.fields, "field")
    about = (
        "In the variables of a host or of its groups. Routers and clients have them, too, as far as they concern them."
    )
    yield "Variables of a host", about, table(VARIABLES, "variable")
    for path, schema in inner(VARIABLES):
        yield f"`{path}`", schema.about, table(schema.fields, "field")
    yield "A sweep's file", f"{SWEEP.about} [JSON Schema](schemas/sweep.schema.json).", table(SWEEP.fields, "field")
    for path, schema in inner(SWEEP.fields):
        if path not in ("load", "loads[]"):
            yield f"A sweep's `{path}`", schema.about, table(schema.fields, "field")
    roles = sorted(path.parent.parent.name for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"))
    links = [f"- [{name}](../roles/{name}/README.md)" for name in roles]
    yield (
        "Variables of the roles",
        "Each README has them, written from the role's argument specification.",
        "\n".join(links),
    )


def page() -> str:
    """The reference page."""
    text = [
        "<!-- Written by docs/reference.py from the schemas that judge an inventory; change those. -->",
        "# All that an inventory may say",
        "",
        "`trainyard plan` and every playbook's preflight judge all of it before a host is touched: a word that is not",
        "here is refused with the nearest one that is, and every problem is told at once. So are names of roles'",
        "own variables, and their values where those are no templates; the rest of them the role judges. Deployments",
        "and variables are also a [JSON Schema](schemas/inventory.schema.json), for editors; templates in values are",
        "resolved before anything is judged, and rules between fields are not in it.",
        "",
    ]
    for title, about, rows in sections():
        text += [f"## {title}", "", about, "", rows, ""]
    return "\n".join(text)


def role_options() -> dict[str, dict[str, Any]]:
    """The options of each role, from its argument specification; all its entry points together."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        text = roll_spec() if path == ROLL_SPEC else path.read_text(encoding="utf-8")
        specs = yaml.safe_load(text)["argument_specs"].values()
        found[path.parent.parent.name] = {
            name: option for spec in specs for name, option in (spec.get("options") or {}).items()
        }
    return found


def judged(options: Mapping[str, Any], inside: bool = False) -> dict[str, Any]:
    """Options as values are judged by them: without what is for people, and without the need for one at the top."""
    found = {}
    for name, option in options.items():
        kept = {key: option[key] for key in ("type", "elements", "choices") if key in option}
        if inside and option.get("required"):
            kept["required"] = True
        if option.get("options"):
            kept["options"] = judged(option["options"], inside=True)
        found[name] = kept
    return found


def json_of_option(option: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an option; a template stands for anything."""
    names = {"int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}
    names.update(str="string", path="string")
    name = names.get(str(option.get("type", "str")))
    described: dict[str, Any] = {"description": MARKUP.sub(r"`\1`", " ".join(lines_of(option)))}
    template = {"type": "string", "pattern": r"\{[\{%]"}
    if option.get("choices"):
        return {**described, "anyOf": [{"enum": list(option["choices"])}, template]}
    if name == "string":
        return {**described, "type": name}
    return {**described, "anyOf": [{"type": name}, template]} if name else described


def lines_of(option: Mapping[str, Any]) -> list[str]:
    """The paragraphs of an option's description."""
    text = option.get("description") or ""
    return [text] if isinstance(text, str) else list(text)


def inventory_schema() -> dict[str, Any]:
    """The JSON Schema of a host's variables, deployments among them; what is not trainyard's is not judged."""
    properties = {name: json_of_option(option) for role in role_options().values() for name, option in role.items()}
    for name, spec in VARIABLES.items():
        described = dict(spec.check.json) if isinstance(spec.check, Kind) else {}
        properties[name] = {**described, "description": spec.about + (f" ({spec.unit})" if spec.unit else "")}
    return {
        "$schema": DIALECT,
        "title": "Variables of a host or a group",
        "description": "What docs/reference.md describes; written by docs/reference.py.",
        "type": "object",
        "properties": properties,
        "patternProperties": {f"^{PREFIX}[a-z0-9_]+$": {"anyOf": [DEPLOYMENT.to_json(), {"type": "null"}]}},
    }


def hosts_schema() -> dict[str, Any]:
    """The JSON Schema of an inventory written by hand: Ansible's groups, with our variables where variables stand."""
    variables = {"anyOf": [{"$ref": INVENTORY_SCHEMA.name}, {"type": "null"}]}
    group = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            "children": {"type": ["object", "null"], "additionalProperties": {"$ref": "#/$defs/group"}},
            "hosts": {"type": ["object", "null"], "additionalProperties": variables},
            "vars": variables,
        },
    }
    return {
        "$schema": DIALECT,
        "title": "Hosts and groups of an inventory",
        "description": "Ansible's YAML inventory; written by docs/reference.py.",
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/group"},
        "$defs": {"group": group},
    }


def sweep_schema() -> dict[str, Any]:
    """The JSON Schema of a sweep's file."""
    return {"$schema": DIALECT, "title": "A sweep", **SWEEP.to_json()}


def suboptions(schema: Schema) -> dict[str, Any]:
    """What the dictionary of a schema may say, as the options of an argument specification; all may be left out."""
    found = {}
    for name, spec in schema.fields.items():
        json_kind = spec.check.json if isinstance(spec.check, Kind) else {}
        about = f"{spec.about[0].upper()}{spec.about[1:]}{f' ({spec.unit})' if spec.unit else ''}."
        found[name] = {"description": re.sub(r"`([^`]*)`", r"V(\1)", about), **kind_of_option(json_kind)}
    return found


def kind_of_option(json_kind: Mapping[str, Any]) -> dict[str, Any]:
    """The type of an Ansible option that takes what a JSON Schema does; counts and shares are texts."""
    if "enum" in json_kind:
        return {"type": "str", "choices": list(json_kind["enum"])}
    if json_kind.get("type") == "array":
        return {"type": "list", "elements": kind_of_option(json_kind["items"])["type"]}
    return {"type": {"integer": "int", "number": "float", "boolean": "bool"}.get(str(json_kind.get("type")), "str")}


def roll_spec() -> str:
    """The argument specification of the role that rolls; its dictionaries are the inventory's own."""

    def option(description: str, kind: str, **more: Any) -> dict[str, Any]:
        return {"description": description, "type": kind, **more}

    def names(description: str) -> dict[str, Any]:
        return option(description, "list", elements="str", default=[])

    def settings(schema: Schema) -> dict[str, Any]:
        about = f"{schema.about} As C({schema.name}) of the inventory."
        return option(about, "dict", default={}, options=suboptions(schema))

    options = {
        "verb": option(
            "Whether replicas are brought to the release of the plan, or back to the one that each had before.",
            "str",
            choices=["redeploy", "rollback"],
            default="redeploy",
        ),
        "hosts": names("Hosts whose replicas are rolled."),
        "fleet": names(
            "All hosts that serve; the first replica is also compared with those that have no part in the roll."
        ),
        "routers": names("Hosts that route to them."),
        "only": option(
            "Ids of the replicas that may move, each with why it serves nobody though its unit is active, or nothing. "
            "Those with a reason are started anew on the release that they have. Without any, all replicas may move.",
            "dict",
            default={},
        ),
        "settings": settings(REDEPLOY),
        "canary": settings(CANARY),
        "canary_prompts": names("Prompts whose completions are compared with those of peers; empty for two of ours."),
        "hooks": settings(HOOKS),
    }
    main = {
        "short_description": "Bring replicas to another release, wave by wave, without a failed request",
        "description": [
            "Plans the roll and prints it, which is all with check mode; then each wave is drained at every router, "
            "replaced, gated, readmitted and watched."
        ],
        "options": {f"rolling_redeploy_{name}": value for name, value in options.items()},
    }
    text = yaml.dump({"argument_specs": {"main": main}}, Dumper=Indented, sort_keys=False, width=150)
    return "---\n# Written by docs/reference.py from the schemas that judge an inventory.\n" + text


class Indented(yaml.SafeDumper):
    """YAML with the items of a list below their key, as the other files have it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists as well."""
        del indentless
        super().increase_indent(flow, False)


def as_text(schema: Mapping[str, Any]) -> str:
    """A schema as a file has it."""
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def wanted() -> dict[Path, str]:
    """Each file and what it is to be."""
    return {
        PAGE: page(),
        INVENTORY_SCHEMA: as_text(inventory_schema()),
        HOSTS_SCHEMA: as_text(hosts_schema()),
        SWEEP_SCHEMA: as_text(sweep_schema()),
        CALIBRATION_SCHEMA: as_text(calibration.json_schema()),
        SDK_SCHEMA: as_text({"$schema": DIALECT, "title": "The SDK releases", **table_schema()}),
        ROLL_SPEC: roll_spec(),
        BENCHMARK_SCHEMA: as_text(benchmark.json_schema()),
        ROLE_VARIABLES: as_text({role: judged(options) for role, options in role_options().items()}),
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 if `--check` found a file that is not current."""
    parser = argparse.ArgumentParser(description="Write the reference of an inventory and its JSON schemas.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where something would change")
    check = parser.parse_args(argv).check
    differs = False
    for path, text in wanted().items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found == text:
            continue
        differs = True
        if not check:
            path.write_text(text, encoding="utf-8")
            continue
        lines = (part.splitlines(keepends=True) for part in (found, text))
        sys.stdout.writelines(difflib.unified_diff(*lines, str(path), "current"))
    return int(check and differs)


if __name__ == "__main__":
    sys.exit(main())
