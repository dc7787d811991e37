# SPDX-License-Identifier: Apache-2.0
"""A picture of a host's devices and links with the slices on them, as SVG."""

from __future__ import annotations

from html import escape
from typing import Any

#: Colours that people with the common colour blindnesses tell apart (Okabe and Ito); the label says the same.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
FREE, OUT = "#f4f4f4", "#c8c8c8"
QUARANTINED, RESERVED = "quarantined", "reserved"
NO_DEVICE: dict[str, Any] = {"cores": []}

#: What every picture has in its beginning.
MADE = "<!-- trainyard plan -->"

_COLUMNS, _CELL, _GAP, _MARGIN, _TITLE = 4, 120, 44, 40, 56


def fleet_picture(plan: dict[str, Any], topologies: dict[str, dict[str, Any]]) -> str:
    """Return an SVG of every host of a plan, one below the other.

    Args:
        plan: of the shape of docs/schemas/plan.schema.json.
        topologies: each host's topology, of the shape of `Topology.to_dict`.
    """
    parts, top, width = [], 0, 0
    for name, host in plan["hosts"].items():
        body, host_width, height = _host(name, host, topologies[name])
        parts.append(f'<g transform="translate(0 {top})">{body}</g>')
        top, width = top + height, max(width, host_width)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}" '
        f'font-family="sans-serif" font-size="12">{MADE}'
        f'<rect width="{width}" height="{top}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _host(name: str, host: dict[str, Any], topology: dict[str, Any]) -> tuple[str, int, int]:
    devices = {device["index"]: device for device in topology["devices"]}
    owners = _owners(host, devices)
    colours = {QUARANTINED: OUT, RESERVED: OUT}
    colours |= {replica["name"]: COLOURS[at % len(COLOURS)] for at, replica in enumerate(host["replicas"])}
    places = {index: _place(position) for position, index in enumerate(sorted(devices))}
    rows = (len(devices) + _COLUMNS - 1) // _COLUMNS
    columns = min(_COLUMNS, len(devices))
    width = max(2 * _MARGIN + columns * _CELL + (columns - 1) * _GAP, 480)
    height = _TITLE + 2 * _MARGIN + rows * _CELL + (rows - 1) * _GAP
    title = f"{name}: {host['instance_type']}, {len(devices)} devices, {topology['core_count']} cores"
    body = [f'<text x="{_MARGIN}" y="28" font-size="16" font-weight="bold">{escape(title)}</text>']
    body += _links(devices, places)
    for index, device in devices.items():
        body.append(_device(device, places[index], owners, colours))
    return "".join(body), width, height


def _owners(host: dict[str, Any], devices: dict[int, dict[str, Any]]) -> dict[int, str]:
    """Return who has each core: a replica, or the reason why nobody may."""
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import parse_ranges

    owners = {core: replica["name"] for replica in host["replicas"] for core in parse_ranges(replica["cores"])}
    out = {core for index in host["quarantined_devices"] for core in devices.get(index, NO_DEVICE)["cores"]}
    owners.update(dict.fromkeys(out, QUARANTINED))
    owners.update(dict.fromkeys(parse_ranges(host["reserved_cores"]), RESERVED))
    return owners


def _place(position: int) -> tuple[int, int]:
    row, column = divmod(position, _COLUMNS)
    return _MARGIN + column * (_CELL + _GAP), _TITLE + _MARGIN + row * (_CELL + _GAP)


def _links(devices: dict[int, dict[str, Any]], places: dict[int, tuple[int, int]]) -> list[str]:
    """Draw each link once; one that wraps around leaves both devices towards the edge."""
    found = []
    for index, device in devices.items():
        for other in device["connected_to"]:
            if other not in places or index > other:
                continue
            (x, y), (at_x, at_y) = places[index], places[other]
            if abs(x - at_x) + abs(y - at_y) <= _CELL + _GAP:
                found.append(_line(x + _CELL // 2, y + _CELL // 2, at_x + _CELL // 2, at_y + _CELL // 2))
                continue
            step_x, step_y = (x != at_x) * (_CELL // 2 + 20), (y != at_y) * (_CELL // 2 + 20)
            for place_x, place_y, sign in ((x, y, -1), (at_x, at_y, 1)):
                middle_x, middle_y = place_x + _CELL // 2, place_y + _CELL // 2
                found.append(_line(middle_x, middle_y, middle_x + sign * step_x, middle_y + sign * step_y, dashed=True))
    return found


def _line(x1: int, y1: int, x2: int, y2: int, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#888" stroke-width="2"{dash}/>'


def _device(device: dict[str, Any], place: tuple[int, int], owners: dict[int, str], colours: dict[str, str]) -> str:
    """Draw one device: a column for each core in its replica's colour, and who has them below."""
    x, y = place
    cores = device["cores"]
    each = _CELL / len(cores)
    node = "" if device["numa_node"] < 0 else f", NUMA {device['numa_node']}"
    body = []
    for at, core in enumerate(cores):
        owner = owners.get(core)
        fill = colours[owner] if owner else FREE
        tip = f"core {core}: {owner or 'free'}"
        body.append(
            f'<rect x="{x + at * each:.1f}" y="{y}" width="{each:.1f}" height="{_CELL}" fill="{fill}" '
            f'stroke="white"><title>{escape(tip)}</title></rect>'
        )
    body.append(f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="none" stroke="#333" stroke-width="2"/>')
    who = sorted({owners[core] for core in cores if core in owners}) or ["free"]
    lines = [f"device {device['index']}{node}", f"cores {cores[0]}-{cores[-1]}", *who[:3]]
    if len(who) > 3:
        lines[-1] = f"and {len(who) - 2} more"
    for at, text in enumerate(lines):
        body.append(
            f'<text x="{x + _CELL // 2}" y="{y + 28 + 18 * at}" text-anchor="middle" stroke="white" '
            f'stroke-width="3" paint-order="stroke">{escape(text if len(text) <= 18 else text[:17] + chr(8230))}</text>'
        )
    return "".join(body)
