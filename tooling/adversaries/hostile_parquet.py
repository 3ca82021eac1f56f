"""Window files that attack whoever opens them: footers that end a library's process, and small files that decode to gigabytes.

A `Draft` is an honest file taken apart: one thing is changed, everything else is made to fit again, so that nothing but the lie
can be what is refused.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from grail_core.files.window_file import HEADER_KEY, SIGNATURE_KEY
from tooling.adversaries.thrift_trees import (
    I16,
    I32,
    STRUCT,
    Tree,
    binary,
    integer,
    listing,
    read_tree,
    struct,
    write_tree,
)

TOKENS = 2
"""Which column of a window file."""
_MAGIC = b"PAR1"


@dataclass
class Page:
    header: Tree
    payload: bytes


@dataclass
class Draft:
    """A file of one row group: `pages[c]` are those of column c. `footer` is what will be claimed."""

    pages: list[list[Page]]
    footer: Tree

    def chunk(self, column: int) -> Tree:
        """The footer's metadata of a column chunk."""
        return self.footer.at(4, 0, 1, column, 3)

    def write(self, lie: Callable[[Tree], object] | None = None) -> bytes:
        """The file's bytes. Offsets and sizes are made to fit; then `lie` may change the footer."""
        output = bytearray(_MAGIC)
        for column, pages in enumerate(self.pages):
            start, decoded = len(output), 0
            for page in pages:
                header = write_tree(page.header)
                output += header + page.payload
                decoded += len(header) + int(page.header.at(2).value)
            chunk = self.chunk(column)
            chunk.put(6, integer(decoded))
            chunk.put(7, integer(len(output) - start))
            chunk.put(9, integer(start))
        if lie:
            lie(self.footer)
        return closed(bytes(output), self.footer)


def closed(pages: bytes, footer: Tree) -> bytes:
    """Pages (the leading PAR1 among them) and a footer as a file."""
    raw = write_tree(footer)
    return pages + raw + len(raw).to_bytes(4, "little") + _MAGIC


def taken_apart(data: bytes) -> tuple[bytes, Tree]:
    """An honest file's pages, and its footer as a tree."""
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:end], read_tree(data, end)[0]


def draft_of(data: bytes) -> Draft:
    """An honest file of one row group, to be changed."""
    _, footer = taken_apart(data)
    columns = []
    for one in footer.at(4, 0, 1).items:
        at = int(one.at(3, 9).value)
        end = at + int(one.at(3, 7).value)
        pages = []
        while at < end:
            header, at = read_tree(data, at)
            size = int(header.at(3).value)
            pages.append(Page(header, data[at : at + size]))
            at += size
        columns.append(pages)
    return Draft(columns, footer)


def footers_that_end_a_process(data: bytes) -> dict[str, bytes]:
    """X1: `data` is an honest window file of one row group. Each file by what is wrong with it."""
    size_statistics = struct(_1=integer(1), _2=listing(Tree(I32, 0), kind=I32), _3=listing(Tree(I16, 0), kind=I16))
    nested = Tree(STRUCT, raw=b"\x1c" * 5_000 + bytes(5_001))

    def second_chunk(footer: Tree) -> None:
        chunks = footer.at(4, 0, 1)
        chunks.items.append(copy.deepcopy(chunks.items[-1]))

    def encrypted(footer: Tree) -> None:
        for chunk in footer.at(4, 0, 1).items:
            chunk.put(8, struct(_2=struct(_1=listing(binary(b"tokens")))))
            chunk.put(9, binary(bytes(64)))
        footer.put(8, struct(_1=struct(_2=binary(b"\1" * 8))))

    lies: dict[str, Callable[[Tree], object]] = {
        "no row groups": lambda f: f.put(4, listing()),
        "no rows and no row groups": lambda f: (f.put(4, listing()), f.put(3, integer(0))),
        "no list of row groups": lambda f: f.drop(4),
        "one column chunk too many": second_chunk,
        "one column chunk too few": lambda f: f.at(4, 0, 1).items.pop(),
        "no column chunks": lambda f: f.at(4, 0).put(1, listing()),
        "a chunk without metadata": lambda f: f.at(4, 0, 1, TOKENS).drop(3),
        "encrypted columns under a clear footer": encrypted,
        "a signing key of an encrypted footer": lambda f: f.put(9, binary(bytes(12))),
        "size statistics of other types": lambda f: f.at(4, 0, 1, TOKENS, 3).put(16, size_statistics),
        "size statistics that are a number": lambda f: f.at(4, 0, 1, TOKENS, 3).put(16, integer(1)),
        "size statistics with levels": lambda f: f.at(4, 0, 1, TOKENS, 3).put(16, struct(_3=listing(integer(16)))),
        "a column above 2 GiB": lambda f: f.at(4, 0, 1, TOKENS, 3).put(6, integer(2**31 + 1)),
        "a column of 2^62 bytes": lambda f: f.at(4, 0, 1, TOKENS, 3).put(7, integer(2**62)),
        "a negative size": lambda f: f.at(4, 0, 1, TOKENS, 3).put(7, integer(-1)),
        "a chunk outside the file": lambda f: f.at(4, 0, 1, TOKENS, 3).put(9, integer(2**40)),
        "a negative offset": lambda f: f.at(4, 0, 1, TOKENS, 3).put(9, integer(-8)),
        "two columns in one place": lambda f: f.at(4, 0, 1, 5, 3).put(9, f.at(4, 0, 1, 4, 3, 9)),
        "a chunk of another column": lambda f: f.at(4, 0, 1, TOKENS, 3).put(3, listing(binary(b"logprobs"))),
        "a chunk of another type": lambda f: f.at(4, 0, 1, TOKENS, 3).put(1, integer(1, I32)),
        "a chunk in another file": lambda f: f.at(4, 0, 1, TOKENS).put(1, binary(b"/etc/passwd")),
        "statistics of values": lambda f: f.at(4, 0, 1, 0, 3).put(12, struct(_1=binary(bytes(3)), _2=binary(bytes(99)))),
        "a Bloom filter": lambda f: f.at(4, 0, 1, TOKENS, 3).put(14, integer(4)),
        "a nullable column": lambda f: f.at(2, 1 + TOKENS).put(3, integer(1, I32)),
        "a repeated column": lambda f: f.at(2, 1 + TOKENS).put(3, integer(2, I32)),
        "a text column": lambda f: f.at(2, 1 + TOKENS).put(6, integer(0, I32)),
        "a schema of 10^5 columns": lambda f: f.at(2).items.extend([f.at(2, 1)] * 10**5),
        "a schema without a root": lambda f: f.put(2, listing()),
        "codec brotli": lambda f: f.at(4, 0, 1, TOKENS, 3).put(4, integer(4, I32)),
        "codec snappy": lambda f: f.at(4, 0, 1, TOKENS, 3).put(4, integer(1, I32)),
        "encoding DELTA_BYTE_ARRAY": lambda f: f.at(4, 0, 1, TOKENS, 3).put(2, listing(integer(7, I32))),
        "structs nested 5,000 deep": lambda f: f.put(7, listing(nested)),
        "metadata of 10^5 entries": lambda f: f.at(5).items.extend([struct(_1=binary(b""), _2=binary(b""))] * 10**5),
        "a header twice": lambda f: f.at(5).items.append(f.at(5, 0)),
        "a header of 1 MiB": lambda f: f.at(5, 0).put(2, binary(bytes(1 << 20))),
    }
    files = {name: draft_of(data).write(lie) for name, lie in lies.items()}
    pages, footer = taken_apart(data)
    raw = write_tree(footer)
    files["bytes behind the file"] = data + b"garbage"
    files["bytes between pages and footer"] = closed(pages + bytes(64), footer)
    files["bytes behind the footer's struct"] = pages + raw + b"\0" + (len(raw) + 1).to_bytes(4, "little") + _MAGIC
    files["a footer longer than the file"] = data[:-8] + (2**31 - 1).to_bytes(4, "little") + _MAGIC
    files["a footer of no bytes"] = data[:-8] + bytes(4) + _MAGIC
    files["an encrypted footer"] = b"PARE" + data[4:-4] + b"PARE"
    files["nothing"] = b""
    return files


def bombs(data: bytes) -> dict[str, bytes]:
    """X2: files that are small and claim, or decode to, what nobody should hold. `data` is an honest window file."""
    rows = int(taken_apart(data)[1].at(3).value)
    lies: dict[str, Callable[[Tree], object]] = {
        "10^8 rows": lambda f: (f.put(3, integer(10**8)), f.at(4, 0).put(3, integer(10**8))),
        "10^8 rows that no group has": lambda f: f.put(3, integer(10**8)),
        "2^62 values in a chunk": lambda f: f.at(4, 0, 1, TOKENS, 3).put(5, integer(2**62)),
        "one value less than rows": lambda f: f.at(4, 0, 1, TOKENS, 3).put(5, integer(rows - 1)),
        "a decoded size that is too small": lambda f: f.at(4, 0, 1, TOKENS, 3).put(6, integer(8)),
        "a decoded size that is too large": lambda f: f.at(4, 0, 1, TOKENS, 3).put(6, integer(100_000)),
        "row groups by the thousand": lambda f: f.put(4, listing(*[f.at(4, 0)] * 5000)),
    }
    files = {name: draft_of(data).write(lie) for name, lie in lies.items()}
    files |= _lying_pages(data, rows)
    files |= _written_by_arrow(data)
    return files


def _lying_pages(data: bytes, rows: int) -> dict[str, bytes]:
    """Changes of the token column's page, header and frame; the footer is made to fit."""
    zeros = bytes(1 << 26)
    compress = zstandard.ZstdCompressor(level=1, write_content_size=True).compress
    silent = zstandard.ZstdCompressor(level=1, write_content_size=False).compress
    honest = draft_of(data).pages[TOKENS][0]
    plain = zstandard.ZstdDecompressor().decompress(honest.payload)
    count = honest.header.at(5)

    def page(payload: bytes, decoded: int, **header: Tree) -> bytes:
        draft = draft_of(data)
        base = {"_1": integer(0, I32), "_2": integer(decoded, I32), "_3": integer(len(payload), I32), "_5": count}
        fields = sorted({**base, **header}.items(), key=lambda pair: int(pair[0][1:]))
        draft.pages[TOKENS] = [Page(struct(**dict(fields)), payload)]
        return draft.write()

    def described(**fields: Tree) -> Tree:
        base = {"_1": integer(rows, I32), "_2": integer(0, I32), "_3": integer(3, I32), "_4": integer(3, I32)}
        return struct(**{**base, **fields})

    bomb = compress(zeros)
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
    dictionary = struct(_1=integer(1, I32), _2=integer(0, I32))
    files = {
        "a frame of 64 MiB that the page denies": page(bomb, len(plain)),
        "a frame that hides its size": page(silent(zeros), len(plain)),
        "a frame that claims 2^60 bytes": page(_claiming(compress(plain), 2**60), len(plain)),
        "a frame that claims 2^31 - 1 bytes, as the page does": page(_claiming(compress(plain), 2**31 - 1), 2**31 - 1),
        "two frames": page(compress(plain) + compress(plain), len(plain)),
        "a frame and garbage": page(compress(plain) + b"garbage", len(plain)),
        "a skippable frame first": page(skippable + compress(plain), len(plain)),
        "a window of 2 GiB": page(_claiming(compress(plain), len(plain), 31), len(plain)),
        "half a frame": page(compress(plain)[:-9], len(plain)),
        "no frame": page(plain, len(plain)),
        "a page of 2^31 - 1 bytes": page(compress(plain), len(plain), _3=integer(2**31 - 1, I32)),
        "a negative page": page(compress(plain), len(plain), _3=integer(-1, I32)),
        "a dictionary page": page(compress(plain), len(plain), _1=integer(2, I32), _7=dictionary),
        "a dictionary page before the data, denied": _before(data, Page(_dictionary_header(plain, compress), compress(plain))),
        "values by dictionary": page(compress(plain), len(plain), _5=described(_2=integer(8, I32))),
        "values by DELTA_BYTE_ARRAY": page(compress(plain), len(plain), _5=described(_2=integer(7, I32))),
        "a data page of version 2": page(compress(plain), len(plain), _1=integer(3, I32), _8=described()),
        "more values than rows": page(compress(plain), len(plain), _5=described(_1=integer(rows + 1, I32))),
        "10^9 values": page(compress(plain), len(plain), _5=described(_1=integer(10**9, I32))),
        "no values": page(compress(plain), len(plain), _5=described(_1=integer(0, I32))),
        "a value of 4 GiB": page(compress(b"\xff" * 4 + plain[4:]), len(plain)),
        "a value longer than a rollout's": page(compress(_value(49_156) * rows), 49_160 * rows),
        "bytes behind the last value": page(compress(plain + bytes(4)), len(plain) + 4),
        "a page header of 1 MiB": page(compress(plain), len(plain), _9=binary(bytes(1 << 20))),
    }
    draft = draft_of(data)
    draft.pages[TOKENS] = draft.pages[TOKENS] * 500
    return files | {"500 pages of all rows": draft.write()}


def _before(data: bytes, page: Page) -> bytes:
    draft = draft_of(data)
    draft.pages[TOKENS].insert(0, page)
    return draft.write()


def _dictionary_header(plain: bytes, compress: Callable[[bytes], bytes]) -> Tree:
    sizes = {"_2": integer(len(plain), I32), "_3": integer(len(compress(plain)), I32)}
    return struct(_1=integer(2, I32), **sizes, _7=struct(_1=integer(16, I32), _2=integer(0, I32)))


def _value(size: int) -> bytes:
    return size.to_bytes(4, "little") + bytes(size)


def _claiming(frame: bytes, size: int, window_log: int = 23) -> bytes:
    """A zstd frame with another content size, in a header of eight bytes for it and a window of 2^window_log bytes."""
    old = zstandard.frame_header_size(frame)
    descriptor = 0b1100_0000 | (frame[4] & 0b0000_0100)
    return frame[:4] + bytes([descriptor, (window_log - 10) << 3]) + size.to_bytes(8, "little") + frame[old:]


def _written_by_arrow(data: bytes) -> dict[str, bytes]:
    """The bombs that Arrow's own writer makes: one long value in every row, a few kilobytes on the wire."""
    metadata = pq.read_schema(io.BytesIO(data)).metadata
    rows = 2048
    value = np.random.default_rng(0).integers(0, 256, 49152, np.uint8).tobytes()
    columns = {
        "g": pa.array(np.arange(rows) // 16, pa.int32()),
        "r": pa.array(np.arange(rows) % 16, pa.int32()),
        "tokens": pa.array([value] * rows, pa.binary()),
        "prompt_length": pa.array([1] * rows, pa.int32()),
        "logprobs": pa.array([bytes(4)] * rows, pa.binary()),
        "sketches": pa.array([bytes(16)] * rows, pa.binary()),
        "reward": pa.array([0.0] * rows, pa.float64()),
        "success": pa.array([False] * rows, pa.bool_()),
    }
    schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in columns.items()])
    table = pa.table(columns, schema=schema).replace_schema_metadata({k: metadata[k] for k in (HEADER_KEY, SIGNATURE_KEY)})

    def written(**options: object) -> bytes:
        sink = io.BytesIO()
        plain = {"compression": "zstd", "write_statistics": False, "use_dictionary": False}
        pq.write_table(table, sink, **{**plain, **options})
        return sink.getvalue()

    def denied(raw: bytes) -> bytes:
        """The footer says PLAIN, and no dictionary."""
        pages, footer = taken_apart(raw)
        for one in footer.at(4, 0, 1).items:
            chunk = one.at(3)
            if any(number == 11 for number, _ in chunk.fields):
                chunk.put(9, chunk.at(11))
                chunk.drop(11)
            chunk.drop(13)
            chunk.put(2, listing(integer(0, I32)))
        footer.at(4, 0, 1, TOKENS, 3).put(6, integer(64_000))
        return closed(pages, footer)

    delta = written(column_encoding={"tokens": "DELTA_BYTE_ARRAY"}, data_page_size=1 << 30)
    dictionary = written(use_dictionary=["tokens"])
    return {
        "DELTA_BYTE_ARRAY": delta,
        "DELTA_BYTE_ARRAY, denied": denied(delta),
        "dictionary": dictionary,
        "dictionary, denied": denied(dictionary),
        "pages of version 2": written(data_page_version="2.0"),
        "with page indexes": written(write_page_index=True, write_statistics=True),
        "with checksums": written(write_page_checksum=True),
    }
