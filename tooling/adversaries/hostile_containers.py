"""Window files in every other dress of Parquet: what a general reader would follow and ours has to refuse, each by its name.

`written_otherwise` are files that Arrow's own writer makes of the same rows with something of them nested, of another type,
twice, encrypted or encoded otherwise; nothing in them lies. `lying_indexes` are honest files with statistics, indexes,
checksums and metadata that say what is not so. `truncated` are honest files that end, or have a page that ends, too soon.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import zstandard

from grail_core.files.window_file import HEADER_KEY, SIGNATURE_KEY
from tooling.adversaries.hostile_parquet import TOKENS, Draft, Page, closed, draft_of, taken_apart
from tooling.adversaries.thrift_trees import I32, Tree, binary, integer, listing, struct, write_tree

_PLAIN: Mapping[str, Any] = {"compression": "zstd", "write_statistics": False, "use_dictionary": False}
_BINARIES = ("tokens", "logprobs", "sketches")


def containers(data: bytes) -> dict[str, bytes]:
    """All of them; `data` is an honest window file of one row group."""
    return written_otherwise(data) | lying_indexes(data) | truncated(data)


def written_otherwise(data: bytes) -> dict[str, bytes]:
    """By Arrow's writer: other types, nesting, nulls, columns, row groups, metadata, encodings, codecs, encryption."""
    table = pq.read_table(io.BytesIO(data))
    files = {f"{name} of another type: {kind}": _with(table, name, column) for name, kind, column in _other_types(table)}
    files |= {f"nested: {kind}": _with(table, "tokens", column) for kind, column in _nested(table).items()}
    columns = {
        "every column twice": [*range(table.num_columns)] * 2,
        "four times every column": [*range(table.num_columns)] * 4,
        "30 columns of tokens": [*range(table.num_columns), *[TOKENS] * 22],
        "a thousand columns": [TOKENS] * 1000,
        "one column": [TOKENS],
        "the columns of the second half": [4, 5, 6, 7],
        "columns in another order": [*range(table.num_columns)][::-1],
    }
    files |= {name: _written(_taken(table, places)) for name, places in columns.items()}
    files["names in capitals"] = _written(table.rename_columns([name.upper() for name in table.column_names]))
    files["two columns of one name"] = _written(table.rename_columns(["g", "g", *table.column_names[2:]]))
    files |= _row_groups(table) | _metadata(table)
    for codec in ("snappy", "gzip", "brotli", "lz4"):
        files[f"codec {codec}"] = _written(table, compression=codec)
    for encoding, name in (
        ("DELTA_BINARY_PACKED", "g"),
        ("BYTE_STREAM_SPLIT", "reward"),
        ("DELTA_LENGTH_BYTE_ARRAY", "tokens"),
        ("DELTA_BYTE_ARRAY", "sketches"),
        ("RLE", "success"),
    ):
        files[f"encoding {encoding}"] = _written(table, column_encoding={name: encoding})
    files["a dictionary of every value"] = _written(table, use_dictionary=True, dictionary_pagesize_limit=1 << 30)
    files["a dictionary of one long value"] = _written(_repeated(table, 4096), use_dictionary=list(_BINARIES))
    files["version 1.0"] = _written(table, version="1.0", data_page_version="2.0")
    files["Bloom filters, statistics and indexes"] = _written(table, write_statistics=True, write_page_index=True)
    files |= {f"encrypted: {name}": made for name, made in _encrypted(table).items()}
    return files


def _with(table: pa.Table, name: str, column: pa.Array) -> bytes:
    kind = pa.field(name, column.type, nullable=column.null_count > 0)
    return _written(table.set_column(table.schema.get_field_index(name), kind, column))


def _taken(table: pa.Table, places: list[int]) -> pa.Table:
    schema = pa.schema([table.schema.field(place) for place in places], metadata=table.schema.metadata)
    return pa.Table.from_arrays([table.column(place) for place in places], schema=schema)


def _other_types(table: pa.Table) -> list[tuple[str, str, pa.Array]]:
    rows = table.num_rows
    numbers = np.arange(rows)
    found: list[tuple[str, str, pa.Array]] = [
        (name, str(kind), pa.array(numbers, kind))
        for name in ("g", "r", "prompt_length")
        for kind in (pa.int8(), pa.int16(), pa.int64(), pa.uint32(), pa.uint64(), pa.float32(), pa.float64())
    ]
    found += [("reward", str(kind), pa.array(numbers % 2, kind)) for kind in (pa.int32(), pa.int64(), pa.float32())]
    found += [("success", str(kind), pa.array(numbers % 2, kind)) for kind in (pa.int8(), pa.int32(), pa.float64())]
    for name in _BINARIES:
        text = [value.hex() for value in table.column(name).to_pylist()]
        found += [
            (name, "string", pa.array(text, pa.string())),
            (name, "large_string", pa.array(text, pa.large_string())),
            (name, "large_binary of nulls", pa.array([None] * rows, pa.large_binary())),
            (name, "16 bytes each", pa.array([bytes(16)] * rows, pa.binary(16))),
            (name, "decimal", pa.array([1] * rows, pa.decimal128(30, 0))),
            (name, "timestamp", pa.array(numbers, pa.timestamp("ns"))),
            (name, "null", pa.array([None] * rows, pa.null())),
        ]
    return found


def _nested(table: pa.Table) -> dict[str, pa.Array]:
    rows = table.num_rows
    some: list[Any] = [None if row % 3 == 0 else [None, row] for row in range(rows)]
    deep: Any = pa.array(list(range(rows)), pa.int32())
    for _ in range(40):
        deep = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), deep)
    wide = pa.struct([pa.field(f"f{number}", pa.int32()) for number in range(60)])
    return {
        "lists with nulls": pa.array(some, pa.list_(pa.int32())),
        "lists of lists with nulls": pa.array([one and [one, None, []] for one in some], pa.list_(pa.list_(pa.int32()))),
        "lists of nothing but nulls": pa.array([[None] * 5000] * rows, pa.list_(pa.int32())),
        "empty lists": pa.array([[]] * rows, pa.list_(pa.int32())),
        "lists 40 deep": deep,
        "structs of 60 nulls": pa.array([None] * rows, wide),
        "maps": pa.array([[("a", None)]] * rows, pa.map_(pa.string(), pa.int32())),
        "fixed lists of nulls": pa.array([None] * rows, pa.list_(pa.int32(), 1000)),
    }


def _row_groups(table: pa.Table) -> dict[str, bytes]:
    many = pa.concat_tables([table] * (4000 // table.num_rows))
    return {
        "a row group for every row": _written(many, row_group_size=1),
        "a row group for every second row": _written(many, row_group_size=2),
        "one row group more than allowed": _written(table, row_group_size=table.num_rows // 9),
    }


def _metadata(table: pa.Table) -> dict[str, bytes]:
    honest = {key: table.schema.metadata[key] for key in (HEADER_KEY, SIGNATURE_KEY)}
    extra: dict[str, dict[bytes, bytes]] = {
        "a value of 8 MiB": {b"x": bytes(8 << 20)},
        "a name of 1 MiB": {b"x" * (1 << 20): b""},
        "100 values of 64 KiB": {f"k{number}".encode(): bytes(64 << 10) for number in range(100)},
        "50,000 names": {f"k{number}".encode(): b"" for number in range(50_000)},
        "one name more": {b"grail.other": b"1"},
        "a header of 200 KiB": {HEADER_KEY: b"{" * (200 << 10)},
        "a header of 128 KiB of brackets": {HEADER_KEY: b"[" * (128 << 10)},
        "no header": {HEADER_KEY: b""},
        "a signature of 64 KiB": {SIGNATURE_KEY: bytes(64 << 10)},
    }
    return {f"metadata: {name}": _written(table.replace_schema_metadata(honest | more)) for name, more in extra.items()}


def _repeated(table: pa.Table, rows: int) -> pa.Table:
    return table.take(pa.array([0] * rows))


class _KeysInMemory(pe.KmsClient):  # type: ignore[misc]
    """A key service without keys: Arrow's encryption asks for one."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


def _encrypted(table: pa.Table) -> dict[str, bytes]:
    """By Arrow, keys in the file: a footer that is encrypted, or a clear one above encrypted columns."""
    files = {}
    for name, clear in (("the footer", False), ("the columns", True)):
        factory = pe.CryptoFactory(lambda _: _KeysInMemory())
        settings = pe.EncryptionConfiguration(
            footer_key="f", column_keys={"c": list(_BINARIES)}, plaintext_footer=clear, double_wrapping=False
        )
        properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), settings)
        files[name] = _written(table, encryption_properties=properties)
    return files


def _written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{**_PLAIN, **options})
    return sink.getvalue()


def lying_indexes(data: bytes) -> dict[str, bytes]:
    """Honest pages under footers and page headers with statistics, indexes, filters, checksums and metadata that lie."""
    columns = len(draft_of(data).pages)
    wrong = {
        "the wrong way round": struct(_1=binary(b"\xff" * 8), _2=binary(bytes(8))),
        "of 64 KiB": struct(_1=binary(bytes(64 << 10)), _2=binary(bytes(64 << 10))),
        "with 2^62 nulls": struct(_3=integer(2**62)),
        "with -1 nulls": struct(_3=integer(-1)),
        "with more distinct values than rows": struct(_4=integer(2**40)),
        "of no bytes": struct(_5=binary(b""), _6=binary(b"")),
        "empty": struct(),
    }
    lies: dict[str, Callable[[Tree], object]] = {}
    for column in range(columns):
        for name, tree in wrong.items():
            lies[f"statistics {name}, column {column}"] = lambda f, c=column, t=tree: f.at(4, 0, 1, c, 3).put(12, t)  # type: ignore[misc]
        for name, (where, offset, length) in {
            "an offset index that is the footer": (4, len(data) - 100, 64),
            "an offset index outside the file": (4, 2**40, 2**30),
            "a column index on the pages": (6, 4, 1000),
            "a column index of -1 bytes": (6, 4, -1),
        }.items():
            lies[f"{name}, column {column}"] = lambda f, c=column, w=where, o=offset, n=length: (  # type: ignore[misc]
                f.at(4, 0, 1, c).put(w, integer(o)).put(w + 1, integer(n, I32))
            )
        lies[f"a Bloom filter of 2 GiB, column {column}"] = lambda f, c=column: (  # type: ignore[misc]
            f.at(4, 0, 1, c, 3).put(14, integer(4)).put(15, integer(2**31 - 1, I32))
        )
        lies[f"a dictionary page that is not there, column {column}"] = lambda f, c=column: (  # type: ignore[misc]
            f.at(4, 0, 1, c, 3).put(11, integer(4))
        )
    lies |= {
        "a sort order": lambda f: f.at(4, 0).put(4, listing(struct(_1=integer(0, I32), _2=Tree(1), _3=Tree(1)))),
        "column orders by the thousand": lambda f: f.put(7, listing(*[struct(_1=struct())] * 1000)),
        "created by 1 MiB": lambda f: f.put(6, binary(bytes(1 << 20))),
        "version 99": lambda f: f.put(1, integer(99, I32)),
        "no metadata": lambda f: f.drop(5),
        "a root of 2^31 children": lambda f: f.at(2, 0).put(5, integer(2**31 - 1, I32)),
        "a leaf with children": lambda f: f.at(2, 1).put(5, integer(3, I32)),
        "row groups that are one": lambda f: f.put(4, listing(*[f.at(4, 0)] * 3)),
    }
    files = {name: draft_of(data).write(lie) for name, lie in lies.items()}
    for column in range(columns):
        for name, tree in wrong.items():
            if tree.fields:  # an empty struct says nothing, and is what some writers write
                draft = draft_of(data)
                draft.pages[column][0].header.at(5).put(5, tree)
                files[f"statistics in a page {name}, column {column}"] = draft.write()
        files[f"a checksum that is wrong, column {column}"] = _page(
            data, column, lambda page: page.header.put(4, integer(12345, I32))
        )
    return files


def _page(data: bytes, column: int, change: Callable[[Page], object]) -> bytes:
    draft = draft_of(data)
    change(draft.pages[column][0])
    return draft.write()


def truncated(data: bytes) -> dict[str, bytes]:
    """Pages, chunks, footers and files that end too soon; what is said of their sizes fits, or does not."""
    files = {f"the first {share} % of a file": data[: len(data) * share // 100] for share in (1, 10, 25, 50, 75, 90, 99)}
    pages, footer = taken_apart(data)
    raw = write_tree(footer)
    for cut in (1, len(raw) // 2, len(raw) - 1):
        files[f"a footer without its last {cut} bytes"] = _closed_raw(pages, raw[:-cut])
    files["a footer alone"] = closed(b"PAR1", footer)
    files["pages without their last byte"] = closed(pages[:-1], footer)
    for column in range(len(draft_of(data).pages)):
        for name, change in _shorter_pages().items():
            files[f"{name}, column {column}"] = _page(data, column, change)
        draft = draft_of(data)
        draft.pages[column] = []
        files[f"no pages, column {column}"] = draft.write()
        for name, step in (("too short by one", -1), ("too long by one", 1)):
            files[f"a chunk {name}, column {column}"] = draft_of(data).write(
                lambda f, c=column, s=step: f.at(4, 0, 1, c, 3).put(7, integer(int(f.at(4, 0, 1, c, 3, 7).value) + s))  # type: ignore[misc]
            )
    files["a page for every value"] = _a_page_for_every_value(draft_of(data))
    return files


def _shorter_pages() -> dict[str, Callable[[Page], object]]:
    """Changes of one page. Each keeps the sizes that the header says true of what is there, or leaves them as they were."""

    def resized(page: Page, payload: bytes, decoded: int | None = None) -> None:
        page.payload = payload
        page.header.put(3, integer(len(payload), I32))
        if decoded is not None:
            page.header.put(2, integer(decoded, I32))

    def plain(page: Page) -> bytes:
        return zstandard.ZstdDecompressor().decompress(page.payload)

    def shorter(page: Page) -> None:
        values = plain(page)[:-1]
        resized(page, zstandard.ZstdCompressor(level=1).compress(values), len(values))

    return {
        "half a page": lambda page: resized(page, page.payload[: len(page.payload) // 2]),
        "a page without its last byte": lambda page: resized(page, page.payload[:-1]),
        "a page of four bytes": lambda page: resized(page, page.payload[:4]),
        "a page whose frame lacks a byte of values": shorter,
        "two frames in a page": lambda page: resized(page, page.payload * 2, 2 * len(plain(page))),
        "a frame within a frame": lambda page: resized(
            page, zstandard.ZstdCompressor(level=1).compress(page.payload), len(page.payload)
        ),
        "one value fewer": lambda page: page.header.at(5).put(1, integer(int(page.header.at(5, 1).value) - 1, I32)),
    }


def _a_page_for_every_value(draft: Draft) -> bytes:
    """Of the first column; each page has its own frame and header."""
    (page,) = draft.pages[0]
    plain = zstandard.ZstdDecompressor().decompress(page.payload)
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
    frames = [compressor.compress(plain[at : at + 4]) for at in range(0, len(plain), 4)]
    said = [Tree(one.kind, one.value) for one in (page.header.at(5, 2), page.header.at(5, 3), page.header.at(5, 4))]
    draft.pages[0] = [
        Page(
            struct(
                _1=integer(0, I32),
                _2=integer(4, I32),
                _3=integer(len(frame), I32),
                _5=struct(_1=integer(1, I32), _2=said[0], _3=said[1], _4=said[2]),
            ),
            frame,
        )
        for frame in frames
    ]
    return draft.write()


def _closed_raw(pages: bytes, raw: bytes) -> bytes:
    return pages + raw + len(raw).to_bytes(4, "little") + b"PAR1"
