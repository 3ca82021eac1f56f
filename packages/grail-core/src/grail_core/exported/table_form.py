"""The closed form of Parquet that an export is written in: as `files.parquet_footer`, with texts that say so, and lists.

Every column is required. A list is Parquet's own three levels, `NAME.list.element`, of at least one number; its levels are runs
of one bit. One row group has at most ROWS_OF_A_GROUP rows. Any Parquet library reads it; ours reads nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from grail_core.exported.rows import COLUMNS
from grail_core.files.parquet_footer import FILE, MAGIC, PLAIN, RLE, ZSTD
from grail_core.files.parquet_thrift import I32, I64, Binary, Field, Integer, ListOf, Struct

__all__ = ["MAGIC", "PLAIN", "RLE", "ZSTD"]

ROWS_OF_A_GROUP: Final = 64
MAX_GROUPS: Final = 128
MAX_FOOTER_BYTES: Final = 1 << 20

BOOLEAN, INT32, INT64, FLOAT, DOUBLE, BYTES = 0, 1, 2, 4, 5, 6
DTYPES: Final = {INT32: "<i4", INT64: "<i8", FLOAT: "<f4", DOUBLE: "<f8"}
_UTF8, _LIST = 0, 3
_REQUIRED, _REPEATED = 0, 2
_MOST = 2**62


@dataclass(frozen=True)
class Leaf:
    """A column. `physical` is of its values, or of a list's elements."""

    name: str
    physical: int
    is_list: bool = False

    @property
    def path(self) -> list[bytes]:
        return [self.name.encode(), b"list", b"element"] if self.is_list else [self.name.encode()]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.physical])


_SPECIAL: Final = {
    "window": (INT64, False),
    "group": (INT32, False),
    "rollout": (INT32, False),
    "prompt_ids": (INT32, True),
    "completion_ids": (INT32, True),
    "logprobs": (FLOAT, True),
    "reward": (DOUBLE, False),
    "success": (BOOLEAN, False),
    "truncated": (BOOLEAN, False),
    "sampled": (BOOLEAN, False),
}
LEAVES: Final = tuple(Leaf(name, *_SPECIAL.get(name, (BYTES, False))) for name in COLUMNS)

_ELEMENT = Struct(
    "schema element",
    {
        1: Field("type", Integer(I32, 0, 7), required=False),
        3: Field("repetition", Integer(I32, 0, 2)),
        4: Field("name", Binary(64)),
        5: Field("children", Integer(I32, 1, 64), required=False),
        6: Field("converted", Integer(I32, 0, 3), required=False),
    },
)
_CHUNK_METADATA = Struct(
    "column chunk",
    {
        1: Field("type", Integer(I32, 0, 7)),
        2: Field("encodings", ListOf(Integer(I32, 0, 9), 2)),
        3: Field("path", ListOf(Binary(64), 3)),
        4: Field("codec", Integer(I32, 0, 7)),
        5: Field("values", Integer(I64, 0, _MOST)),
        6: Field("decoded", Integer(I64, 0, _MOST)),
        7: Field("size", Integer(I64, 0, _MOST)),
        9: Field("start", Integer(I64, 0, _MOST)),
    },
)
_CHUNK = Struct("column chunk", {2: Field("file_offset", Integer(I64, 0, _MOST)), 3: Field("metadata", _CHUNK_METADATA)})
_GROUP = Struct(
    "row group",
    {
        1: Field("chunks", ListOf(_CHUNK, len(LEAVES))),
        2: Field("decoded", Integer(I64, 0, _MOST)),
        3: Field("rows", Integer(I64, 1, ROWS_OF_A_GROUP)),
    },
)
FOOTER: Final = Struct(
    "footer",
    {
        1: FILE.fields[1],
        2: Field("schema", ListOf(_ELEMENT, 3 * len(LEAVES) + 1)),
        3: FILE.fields[3],
        4: Field("groups", ListOf(_GROUP, MAX_GROUPS)),
        6: FILE.fields[6],
    },
)


def schema() -> list[dict[str, Any]]:
    """The elements of the one schema that there is, in order."""
    elements = [_element(name=b"schema", repetition=_REQUIRED, children=len(LEAVES))]
    for leaf in LEAVES:
        if leaf.is_list:
            elements += [
                _element(name=leaf.name.encode(), repetition=_REQUIRED, children=1, converted=_LIST),
                _element(name=b"list", repetition=_REPEATED, children=1),
                _element(name=b"element", repetition=_REQUIRED, type=leaf.physical),
            ]
        else:
            text = _UTF8 if leaf.physical == BYTES else None
            elements.append(_element(name=leaf.name.encode(), repetition=_REQUIRED, type=leaf.physical, converted=text))
    return elements


def _element(**values: Any) -> dict[str, Any]:
    return {"type": None, "children": None, "converted": None, **values}
