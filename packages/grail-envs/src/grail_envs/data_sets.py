"""Pinned data sets: rows from a local folder or from the hub at one revision, with a digest of what was really loaded.

A set that cannot be had is an error that says how to get it; nothing is skipped or replaced. The digest covers the rows'
fields, not the file they came in, so the same rows have one digest wherever they lie; the folder's path never enters it.
`datasets` is imported only when the hub is asked.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from grail_core.errors import EnvironmentUnavailableError

DATA_DIR_VARIABLE = "GRAIL_DATA_DIR"
MAX_FILE_BYTES = 256 * 2**20


class Field(StrEnum):
    """What a field of a row holds."""

    TEXT = "text"
    TEXTS = "list of texts"
    TEXT_OR_NULL = "text or null"
    TEXTS_OR_NULL = "list of texts, or null"
    WHOLE = "whole number"
    NAME = "text or whole number"
    ANY = "value"


@dataclass(frozen=True)
class HubSource:
    """A published data set: repository, configurations to read in order, split, and the commit that pins it."""

    repository: str
    configurations: tuple[str, ...]
    split: str
    revision: str


def load_rows(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    local_files: Sequence[str],
    hub: HubSource | None,
    fields: Mapping[str, Field],
) -> tuple[list[dict[str, Any]], str]:
    """Rows of a set and the folder or repository they came from.

    A folder (`data_dir`, else the variable GRAIL_DATA_DIR) is used if it is set, and then only it; otherwise the hub.

    Args:
        name: what the set is called in errors.
        local_files: paths below the folder of which the first that exists is read: `.jsonl`, `.json` (an array), `.gz` of both.
        fields: what every row must have.

    Raises:
        EnvironmentUnavailableError: no such file or set, unreadable, empty, or a row without one of the fields or with
            something else in it.
    """
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if folder:
        rows, where = _local_rows(name, Path(folder), local_files, hub)
    elif hub is not None:
        rows, where = _hub_rows(name, local_files, hub)
    else:
        raise EnvironmentUnavailableError(
            f"no folder with the {name} data set is known",
            where=DATA_DIR_VARIABLE,
            hint=f"set {DATA_DIR_VARIABLE} (or data_dir) to a folder that holds {local_files[0]}",
        )
    if not rows:
        raise EnvironmentUnavailableError(f"the {name} data set is empty", where=where, hint="get the file again")
    for number, row in enumerate(rows):
        what = _fault_of(row, fields)
        if what:
            needs = ", ".join(f"{field} ({kind})" for field, kind in fields.items())
            raise EnvironmentUnavailableError(
                f"row {number} of the {name} data set has {what}", where=where, hint=f"every row needs the fields {needs}"
            )
    return rows, where


def broken_row(
    name: str, number: int, what: str, *, where: str, hint: str = "get the file again"
) -> EnvironmentUnavailableError:
    """The error for a row that no answer could be graded by. Rows are counted from 0."""
    return EnvironmentUnavailableError(f"row {number} of the {name} data set: {what}", where=where, hint=hint)


def rows_digest(rows: Iterable[Mapping[str, Any]], fields: Iterable[str]) -> str:
    """Hex SHA-256 over the named fields of the rows in order, each as JSON with sorted keys and its length in front."""
    fields = list(fields)
    digest = hashlib.sha256(json.dumps(fields).encode())
    for row in rows:
        for field in fields:
            raw = json.dumps(row[field], sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
            digest.update(struct.pack(">Q", len(raw)) + raw)
    return digest.hexdigest()


def row_permutation(tag: str, count: int) -> list[int]:
    """The fixed order in which seeds walk through `count` rows: sorted by SHA-256 of (tag, count, row)."""
    key: Callable[[int], bytes] = lambda row: hashlib.sha256(f"grail-envs/rows/{tag}/{count}/{row}".encode()).digest()  # noqa: E731
    return sorted(range(count), key=key)


def _fault_of(row: Any, fields: Mapping[str, Field]) -> str:
    """What is wrong with the fields of a row; "" if nothing is."""
    for field, kind in fields.items():
        if not isinstance(row, dict) or field not in row:
            return f"no field {field!r}"
        if not _fits(row[field], kind):
            return f"no {kind} in its field {field!r}"
        try:
            json.dumps(row[field], ensure_ascii=False).encode()
        except ValueError:
            return f"half of a surrogate pair in its field {field!r}, which is no text"
    return ""


def _fits(value: Any, kind: Field) -> bool:
    match kind:
        case Field.TEXT:
            return isinstance(value, str)
        case Field.TEXTS:
            return isinstance(value, list) and all(isinstance(text, str) for text in value)
        case Field.TEXT_OR_NULL:
            return value is None or _fits(value, Field.TEXT)
        case Field.TEXTS_OR_NULL:
            return value is None or _fits(value, Field.TEXTS)
        case Field.WHOLE:
            return type(value) is int
        case Field.NAME:
            return type(value) in (str, int)
        case Field.ANY:
            return True


def _local_rows(name: str, folder: Path, local_files: Sequence[str], hub: HubSource | None) -> tuple[list[dict[str, Any]], str]:
    for relative in local_files:
        path = folder / relative
        if path.is_file():
            return _read(name, path), str(path)
    remedy = f"put {' or '.join(local_files)} there"
    if hub is not None:
        remedy += f", or unset {DATA_DIR_VARIABLE} to load {hub.repository} from the hub (pip install 'grail-envs[hub]')"
    raise EnvironmentUnavailableError(f"the {name} data set is not in the data folder", where=str(folder), hint=remedy)


def _read(name: str, path: Path) -> list[dict[str, Any]]:
    line = 0
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
        text = raw.decode("utf-8-sig")
        if path.name.removesuffix(".gz").endswith(".json"):
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise ValueError("not a JSON array")
            return rows
        rows = []
        for line, one in enumerate(text.split("\n"), start=1):  # noqa: B007 - the error tells the line
            if one.strip():
                rows.append(json.loads(one))
        return rows
    except (OSError, ValueError, EOFError, RecursionError) as error:
        place = f"{path}, line {line}" if line else str(path)
        raise EnvironmentUnavailableError(
            f"the {name} data set cannot be read: {error}", where=place, hint="get the file again"
        ) from error


def _hub_rows(name: str, local_files: Sequence[str], hub: HubSource) -> tuple[list[dict[str, Any]], str]:
    where = f"{hub.repository}@{hub.revision}"
    remedy = f"set {DATA_DIR_VARIABLE} (or data_dir) to a folder that holds {' or '.join(local_files)}"
    try:
        import datasets
    except ImportError as error:
        raise EnvironmentUnavailableError(
            f"the {name} data set is in no local folder, and the package `datasets` that fetches it is not installed",
            where=where,
            hint=f"{remedy}, or pip install 'grail-envs[hub]'",
        ) from error
    rows: list[dict[str, Any]] = []
    try:
        for configuration in hub.configurations:
            part = datasets.load_dataset(hub.repository, configuration, split=hub.split, revision=hub.revision)
            rows.extend(dict(row) for row in part)
    except Exception as error:
        raise EnvironmentUnavailableError(
            f"the {name} data set cannot be fetched from the hub: {type(error).__name__}: {error}",
            where=where,
            hint=f"check the network, or {remedy}",
        ) from error
    return rows, where
