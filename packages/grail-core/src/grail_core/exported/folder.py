"""The folder of an export: where things lie in it, what it says of itself, and the strict reader of one.

    export.json                       format, network: written first, never changed
    data/WINDOW-HOTKEY.parquet        a shard for each accepted file (or .jsonl)
    receipts/WINDOW.json              written when all shards of a window are whole: what was accepted, by whom, signed headers
    files/DIGEST.parquet              the accepted files themselves, where they were asked for
    README.md                         of the format hf: what tells `datasets` which files are data
    .parts/                           what is known of shards of a window that has no receipt yet

A window without a receipt is not in the export, whatever lies in `data/`. Nobody's folder is trusted: names are made here and
not taken from it, sizes and kinds of files are looked at before they are opened, and a shard is read as `shards` says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from grail_core.errors import ConfigurationError, ProtocolViolationError, StorageError
from grail_core.exported.rows import Row
from grail_core.exported.shards import Encoding, read_shard, require_regular
from grail_core.keys import ss58
from grail_core.protocol.constants import MAX_FILE_ROWS, WINDOW_LENGTH
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.policy import GenerationPolicy, policy_json, read_policy
from grail_core.protocol.reading import Json, Node, parse_json
from grail_core.protocol.rollouts.records import WindowHeader, header_digest
from grail_core.protocol.signatures import verify
from grail_core.protocol.types import Digest, Signature, Window
from grail_core.protocol.windows import require_window

Format = Literal["parquet", "jsonl", "hf"]
FORMATS: Final[tuple[Format, ...]] = ("parquet", "jsonl", "hf")

VERSION: Final = 1
ABOUT, DATA, RECEIPTS, FILES, CARD, PARTS = "export.json", "data", "receipts", "files", "README.md", ".parts"
MAX_ABOUT_BYTES: Final = 64 << 10
MAX_RECEIPT_BYTES: Final = 16 << 20
MAX_FILES: Final = 4096
"""Accepted files of one window: more hotkeys no verdict has."""
MAX_WINDOWS: Final = 1 << 20
_RECEIPT = re.compile(r"(\d{12,16})\.json")
_NO_EXPORT = "name a folder that `grail rollouts export` wrote"


@dataclass(frozen=True)
class About:
    """What an export is of. `network` is a name for people; the id is what binds."""

    form: Format
    network: str
    network_id: Digest

    @property
    def encoding(self) -> Encoding:
        return "jsonl" if self.form == "jsonl" else "parquet"

    def encode(self) -> bytes:
        value = {"version": VERSION, "format": self.form, "network": self.network, "network_id": self.network_id.hex()}
        return json.dumps(value, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, raw: bytes) -> About:
        """Raises ValueError."""
        m = parse_json(raw, most=MAX_ABOUT_BYTES, path="$export").members("version", "format", "network", "network_id")
        if m["version"].integer() != VERSION:
            m["version"].refuse(f"version {m['version'].integer()}, this software knows {VERSION}")
        form = m["format"].text(16)
        if form not in FORMATS:
            m["format"].refuse(f"one of {', '.join(FORMATS)}")
        return cls(form, m["network"].text(128), Digest(m["network_id"].raw(32)))


@dataclass(frozen=True)
class ExportedFile:
    """One accepted file in a window's receipt: whose it is, its signed header, and its shard."""

    hotkey: str  # SS58
    content_digest: Digest
    rows: int
    shard_bytes: int
    shard_sha256: Digest
    accepted_by: tuple[str, ...]  # validators, SS58
    header: WindowHeader
    signature: Signature  # the miner's, over the header

    def to_json(self) -> dict[str, Json]:
        return {
            "hotkey": self.hotkey,
            "content_digest": self.content_digest.hex(),
            "rows": self.rows,
            "shard_bytes": self.shard_bytes,
            "shard_sha256": self.shard_sha256.hex(),
            "accepted_by": list(self.accepted_by),
            "header": self.header.to_json(),
            "signature": self.signature.hex(),
        }

    @classmethod
    def from_node(cls, node: Node) -> ExportedFile:
        m = node.members(*cls.__dataclass_fields__)
        hotkey, header = m["hotkey"].text(64), WindowHeader.from_json(m["header"])
        if ss58(header.hotkey) != hotkey:  # it is part of a file's name
            m["hotkey"].refuse("another one than that of its signed header")
        return cls(
            hotkey,
            Digest(m["content_digest"].raw(32)),
            m["rows"].integer(1, MAX_FILE_ROWS),
            m["shard_bytes"].integer(1),
            Digest(m["shard_sha256"].raw(32)),
            tuple(item.text(64) for item in m["accepted_by"].items(MAX_FILES)),
            header,
            Signature(m["signature"].raw(64)),
        )


@dataclass(frozen=True)
class Receipt:
    """What was exported of one window, and on whose word.

    `missing`: accepted files that are not in it, with why; `reason`: why nothing was accepted, "" where something was. The
    policy is that of the checkpoint that drew the rollouts; None where there are none.
    """

    window: Window
    files: tuple[ExportedFile, ...] = ()
    missing: tuple[tuple[str, str, str], ...] = ()  # hotkey, content digest, reason
    reason: str = ""
    final: bool = True  # asked again later it would be the same: nothing is missing, and enough validators have spoken
    checkpoint: str = ""
    environment: str = ""
    policy: GenerationPolicy | None = None
    end_token_ids: tuple[int, ...] = ()
    verdicts: tuple[tuple[str, str, int], ...] = ()  # validator, digest of the body that it signed, stake in rao

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def encode(self) -> bytes:
        return canonical_json(
            {
                "version": VERSION,
                "window": self.window,
                "final": self.final,
                "reason": self.reason,
                "checkpoint": self.checkpoint,
                "environment": self.environment,
                "policy": None if self.policy is None else policy_json(self.policy),
                "end_token_ids": list(self.end_token_ids),
                "verdicts": [{"validator": who, "body": body, "stake": str(stake)} for who, body, stake in self.verdicts],
                "files": [file.to_json() for file in self.files],
                "missing": [{"hotkey": who, "content_digest": what, "reason": why} for who, what, why in self.missing],
            }
        )

    @classmethod
    def decode(cls, raw: bytes) -> Receipt:
        """Raises ValueError with the path of what is wrong."""
        m = parse_json(raw, most=MAX_RECEIPT_BYTES, path="$receipt").members(
            *("version", "window", "final", "reason", "checkpoint", "environment", "policy", "end_token_ids"),
            *("verdicts", "files", "missing"),
        )
        if m["version"].integer() != VERSION:
            m["version"].refuse(f"this software knows version {VERSION}")
        missing = [item.members("hotkey", "content_digest", "reason") for item in m["missing"].items(MAX_FILES)]
        verdicts = [item.members("validator", "body", "stake") for item in m["verdicts"].items(MAX_FILES)]
        files = tuple(ExportedFile.from_node(item) for item in m["files"].items(MAX_FILES))
        if len({file.hotkey for file in files}) != len(files):
            m["files"].refuse("a hotkey stands twice")
        policy = m["policy"].optional(
            lambda node: read_policy(node.members("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty"))
        )
        if files and policy is None:
            m["policy"].refuse("a window with rollouts has the policy that drew them")
        return cls(
            require_window(m["window"].integer()),
            files,
            tuple((one["hotkey"].text(64), one["content_digest"].text(64), one["reason"].text(4096)) for one in missing),
            m["reason"].text(4096),
            m["final"].flag(),
            m["checkpoint"].text(64),
            m["environment"].text(128),
            policy,
            tuple(item.integer(0, 2**31 - 1) for item in m["end_token_ids"].items(256)),
            tuple((one["validator"].text(64), one["body"].text(64), int(one["stake"].text(32))) for one in verdicts),
        )


@dataclass(frozen=True)
class ExportFolder:
    """A folder and what it says it is."""

    root: Path
    about: About

    @classmethod
    def open(cls, root: Path) -> ExportFolder:
        """An export that is there.

        Raises:
            ConfigurationError: there is none. ProtocolViolationError: what lies there is none, or of a later version.
        """
        path = root / ABOUT
        if not path.exists():
            raise ConfigurationError("there is no export in this folder", where=str(root), hint=_NO_EXPORT)
        return cls(root, _decoded(path, MAX_ABOUT_BYTES, About.decode))

    def shard(self, window: Window, hotkey: str) -> Path:
        return self.root / DATA / f"{window:012}-{hotkey}.{self.about.encoding}"

    def receipt_path(self, window: Window) -> Path:
        return self.root / RECEIPTS / f"{window:012}.json"

    def part(self, window: Window, hotkey: str) -> Path:
        """What the receipt will say of one shard, while the window is being exported."""
        return self.root / PARTS / f"{window:012}-{hotkey}.json"

    def kept_file(self, digest: Digest) -> Path:
        return self.root / FILES / f"{digest.hex()}.parquet"

    def windows(self) -> list[Window]:
        """That have a receipt, in order. Raises ProtocolViolationError for more than an export can have."""
        found: list[Window] = []
        folder = self.root / RECEIPTS
        try:
            names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        except OSError as error:
            raise StorageError(f"it cannot be listed: {error.strerror}", where=str(folder)) from error
        for name in names:
            match = _RECEIPT.fullmatch(name)
            if match is None or int(match[1]) % WINDOW_LENGTH or f"{int(match[1]):012}" != match[1]:
                continue
            found.append(Window(int(match[1])))
            if len(found) > MAX_WINDOWS:
                raise ProtocolViolationError(f"more than {MAX_WINDOWS} receipts", where=str(folder))
        return sorted(found)

    def receipt(self, window: Window) -> Receipt:
        """Raises ProtocolViolationError, StorageError."""
        path = self.receipt_path(window)
        found: Receipt = _decoded(path, MAX_RECEIPT_BYTES, Receipt.decode)
        if found.window != window:
            raise ProtocolViolationError(f"a receipt of window {found.window}", where=str(path), hint=_NO_EXPORT)
        for file in found.files:
            digest = header_digest(self.about.network_id, file.header)
            if file.header.window != window or not verify(file.header.hotkey, digest, file.signature):
                raise ProtocolViolationError(
                    f"the header of {file.hotkey} is not one that it signed for this window", where=str(path), hint=_NO_EXPORT
                )
        return found

    def rows(self, receipt: Receipt, file: ExportedFile) -> Iterator[Row]:
        """The rollouts of one accepted file, each held against what its receipt says.

        Raises:
            ProtocolViolationError: the shard is another than the receipt's, or a row breaks a rule.
            StorageError: it is not there.
        """
        path = self.shard(receipt.window, file.hotkey)
        if require_regular(path, file.shard_bytes) != file.shard_bytes:
            raise ProtocolViolationError(
                f"the shard is shorter than the {file.shard_bytes} bytes that its receipt names", where=str(path)
            )
        _require_digest(path, file.shard_sha256)
        seen: set[tuple[int, int]] = set()
        for number, row in enumerate(read_shard(path, self.about.encoding, rows=file.rows)):
            place, group = (row.group, row.rollout), f"{receipt.window}/{file.hotkey}/{row.group}"
            wrong = ""
            if (row.window, row.hotkey, row.content_digest) != (receipt.window, file.hotkey, file.content_digest.hex()):
                wrong = "a row of another file stands in the shard"
            elif row.group_id != group:
                wrong = f"group_id is not {group}"
            elif place in seen:
                wrong = f"rollout {row.rollout} of group {row.group} stands twice"
            if wrong:
                raise ProtocolViolationError(f"row {number}: {wrong}", where=str(path), hint="export it again")
            seen.add(place)
            yield row


def _require_digest(path: Path, stated: Digest) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise StorageError(f"it cannot be read: {error.strerror}", where=str(path)) from error
    if found != stated:
        raise ProtocolViolationError(
            f"the shard's SHA-256 is {found.hex()[:16]}…, its receipt names {stated.hex()[:16]}…",
            where=str(path),
            hint="it was damaged or changed after it was exported: export it again",
        )


def _decoded(path: Path, most: int, decode: Any) -> Any:
    require_regular(path, most)
    try:
        return decode(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ProtocolViolationError(f"it does not parse: {error}", where=str(path), hint=_NO_EXPORT) from error
    except OSError as error:
        raise StorageError(f"it cannot be read: {error.strerror}", where=str(path)) from error


CARD_TEXT: Final = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---
# Verified rollouts of {network}

Exported with `grail rollouts export`. Network {network_id}. Each file in `data/` has the rollouts of one miner in one window
that validators with most of the scoring stake accepted; `receipts/` says which validators, and holds the headers that the
miners signed. Rows with `sampled` were opened by a validator themselves; the others stand in files of which others were.
"""


def card_of(about: About) -> bytes:
    """README.md of the format hf: `datasets.load_dataset(DIR)` finds the data by it."""
    return CARD_TEXT.format(network=about.network, network_id=about.network_id.hex()).encode()
