# SPDX-License-Identifier: Apache-2.0
"""Reports and the records of a run's requests, read from files that others may have changed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError, read_json
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import VERSION, BenchmarkReport
from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: No report is larger, bytes: samples of a day over a hundred replicas are a tenth of it.
REPORT_BYTES = 512 << 20

#: What the client kept of one request.
Record = dict[str, Any]


class ReportError(Exception):
    """A report or a run's directory cannot be read; the text names the file and the cause."""


def load(path: Path) -> BenchmarkReport:
    """The report at `path`, a report.json or a run's directory. Older versions of the schema are read here, too."""
    file = path / "report.json" if path.is_dir() else path
    try:
        data = read_json(file, REPORT_BYTES)
    except FileError as error:
        raise ReportError(f"{file} is no benchmark report: {error}") from error
    if not isinstance(data, dict):
        raise ReportError(f"{file} is no benchmark report: it holds a {type(data).__name__} and no mapping")
    if data.get("version") != VERSION:
        raise ReportError(f"{file} has schema version {data.get('version')!r}; this trainyard reads {VERSION}")
    try:
        return BenchmarkReport.model_validate(data)
    except ValidationError as error:
        raise ReportError(f"{file} is no benchmark report: {_wrong(error)}") from error


class _Row(BaseModel):
    """What a record has in any case; clients add to it."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    index: int
    model: str | None = None
    outcome: Literal["succeeded", "failed", "timed_out"]
    http_status: int | None
    error: str | None
    started_at: float | None = Field(ge=0, le=1e11)
    ttft_s: float | None = Field(ge=0, le=1e9)
    e2e_s: float | None = Field(ge=0, le=1e9)
    input_tokens: float | None = Field(ge=0, le=1e12)
    output_tokens: float | None = Field(ge=0, le=1e12)
    gaps_ms: list[Annotated[float, Field(ge=0, le=1e12)]] | None = None
    client: dict[str, Any] | None = None


def records_of(run_directory: Path) -> list[Record]:
    """Every request's record of a run, with its repeat, in the order of the repeats.

    Raises:
        ReportError: naming the file and the line that is no record, as one that was cut off is not.
    """
    rows: list[Record] = []
    for file in sorted(run_directory.glob("repeat-*/requests.jsonl")):
        repeat = file.parent.name.removeprefix("repeat-")
        if not re.fullmatch(r"[0-9]{1,6}", repeat):
            raise ReportError(f"{file.parent} is no repeat of a run: its name has no number")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ReportError(f"{file} cannot be read: {error}") from error
        rows += [{**_record(file, number, line), "repeat": int(repeat)} for number, line in enumerate(lines, 1)]
    return rows


def _record(file: Path, number: int, line: str) -> Record:
    try:
        row: Record = json.loads(line)
        _Row.model_validate(row)
    except ValidationError as error:
        raise ReportError(f"{file}, line {number}, is no record of a request: {_wrong(error)}") from error
    except (ValueError, RecursionError) as error:
        fix = "bring the run's archive again, or remove that line and know that a request is missing"
        raise ReportError(f"{file}, line {number}, is no record of a request ({error}): {fix}") from error
    return row


def _wrong(error: ValidationError) -> str:
    """Say in one line what a model refuses, without the values."""
    found = [f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors(include_url=False)[:5]]
    more = error.error_count() - len(found)
    return "; ".join(found) + (f"; and {more} more" if more > 0 else "")
