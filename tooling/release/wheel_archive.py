"""A wheel that may be a stranger's, read from its bytes within limits: which files it holds, and what is wrong with them.

Nothing is written to disk and nothing of it is run. Held are: the archive's form (no bytes before or behind it, no name twice,
no absolute path, link or encryption), its sizes while it is unpacked (not what it says of them), `RECORD` in both directions,
and that it holds nothing a wheel of ours has no use for: tests, keys, binaries, caches, paths of the machine that built it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath

from packaging.metadata import InvalidMetadata, Metadata

from tooling.release.faults import NotTheReleaseError

MAX_FILES = 5_000
MAX_FILE_BYTES = 16 * 2**20
MAX_TOTAL_BYTES = 128 * 2**20
_MAX_DIRECTORY_BYTES = MAX_FILES * 512
SUFFIXES = frozenset({".py", ".typed", ".json", ".yaml", ".toml", ".md", ".txt", ".svg", ".npz", ".html", ".css", ".jinja"})
_NAME = re.compile(r"[A-Za-z0-9_.+-]+(?:/[A-Za-z0-9_.+-]+)*")
_UNWANTED = frozenset({"tests", "test", "conftest.py", "__pycache__", ".git", ".env", "node_modules", "dist", "build"})
_SECRETS = (
    ("a private key", re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----\s*[A-Za-z0-9+/=\r\n]{64}")),
    ("an access key", re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a path of somebody's machine", re.compile(rb"(?<![\w./-])/(?:home|Users)/[A-Za-z0-9_-]+/|(?<![\w./-])/root/\w")),
)


class WheelArchive:
    """The archive of one wheel.

    Raises:
        NotTheReleaseError: it is no archive, or one of another form than a wheel of ours has.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.data = name, data
        self.info = "-".join(name.split("-")[:2]) + ".dist-info"
        self.module = name.split("-")[0]
        self._require_end()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                self._require_form(archive)
                self.files = dict(self._unpacked(archive))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
            raise self._fault(f"it is no archive: {str(error)[:200]}") from error

    def _fault(self, what: str, inside: str = "") -> NotTheReleaseError:
        return NotTheReleaseError(what, where=f"{self.name}: {inside}" if inside else self.name)

    def _require_end(self) -> None:
        """The record that the archive ends with, before anything reads the directory that it tells of: a directory alone can be
        a million names."""
        if self.data[-22:-18] != b"PK\x05\x06" or self.data[-2:] != b"\0\0":
            raise self._fault("it is no archive, or something stands behind it")
        if int.from_bytes(self.data[-10:-6], "little") > _MAX_DIRECTORY_BYTES:
            raise self._fault(f"its directory is larger than that of {MAX_FILES:,} files")

    def _require_form(self, archive: zipfile.ZipFile) -> None:
        entries = archive.infolist()
        if not 0 < len(entries) <= MAX_FILES:
            raise self._fault(f"it holds {len(entries):,} files, 1 to {MAX_FILES:,} are taken")
        if min(entry.header_offset for entry in entries) != 0 or not self.data.startswith(b"PK\x03\x04"):
            raise self._fault("something stands before the archive")
        if len({entry.filename.casefold() for entry in entries}) != len(entries):
            raise self._fault("it holds a name twice")
        for entry in entries:
            self._require_entry(entry)

    def _require_entry(self, entry: zipfile.ZipInfo) -> None:
        name = entry.filename
        if len(name) > 240 or not _NAME.fullmatch(name) or ".." in PurePosixPath(name).parts:
            raise self._fault("a name that no file of a wheel has", name)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise self._fault("it is no regular file", name)
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._fault("it is encrypted, or packed in a way that wheels are not", name)
        path = PurePosixPath(name)
        if path.parts[0] not in (self.module, self.info):
            raise self._fault(f"a file outside of {self.module}/ and {self.info}/", name)
        if set(path.parts) & _UNWANTED or path.name.startswith("test_") or path.name.startswith("."):
            raise self._fault("a file that is not to be shipped", name)
        if path.parts[0] == self.module and path.suffix not in SUFFIXES:
            raise self._fault(f"a kind of file that is not to be shipped ({path.suffix or 'no suffix'})", name)

    def _unpacked(self, archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
        total = 0
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
            total += len(content)
            if len(content) > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
                raise self._fault(
                    f"unpacked it is larger than {MAX_FILE_BYTES >> 20} MiB a file or {MAX_TOTAL_BYTES >> 20} MiB in all",
                    entry.filename,
                )
            yield entry.filename, content

    @cached_property
    def _parsed(self) -> Metadata:
        try:
            return Metadata.from_email(self._of_info("METADATA"), validate=True)
        except (InvalidMetadata, ExceptionGroup, ValueError) as error:
            raise self._fault(f"its metadata cannot be read: {str(error)[:300]}", "METADATA") from error

    def metadata(self) -> Metadata:
        """What `METADATA` says. Raises NotTheReleaseError where it cannot be read."""
        return self._parsed

    def _of_info(self, name: str) -> bytes:
        content = self.files.get(f"{self.info}/{name}")
        if content is None:
            raise self._fault(f"it has no {name}")
        return content

    def problems(self, own_paths: tuple[str, ...] = ()) -> list[str]:
        """What is wrong with its files, a line each; `own_paths` are further paths that may stand in none of them."""
        return [*self._of_record(), *self._of_tags(), *self._of_contents(own_paths)]

    def _of_record(self) -> Iterator[str]:
        record = f"{self.info}/RECORD"
        try:
            rows = list(csv.reader(io.StringIO(self._of_info("RECORD").decode())))
        except (UnicodeDecodeError, csv.Error) as error:
            yield f"RECORD cannot be read: {str(error)[:200]}"
            return
        listed: dict[str, tuple[str, str]] = {}
        for row in rows:
            if len(row) != 3 or row[0] in listed:
                yield f"RECORD has a line that it cannot have: {','.join(row)[:200]}"
            else:
                listed[row[0]] = (row[1], row[2])
        for name in sorted(self.files.keys() - listed.keys()):
            yield f"{name}: RECORD does not list it"
        for name in sorted(listed.keys() - self.files.keys()):
            yield f"{name}: RECORD lists it, and it is not there"
        for name in sorted(listed.keys() & self.files.keys() - {record}):
            if listed[name] != _record_of(self.files[name]):
                yield f"{name}: RECORD lists another digest or size"

    def _of_tags(self) -> Iterator[str]:
        lines = self._of_info("WHEEL").decode(errors="replace").splitlines()
        if "Root-Is-Purelib: true" not in lines or [line for line in lines if line.startswith("Tag:")] != ["Tag: py3-none-any"]:
            yield "WHEEL: it is not a wheel of Python alone (py3-none-any)"

    def _of_contents(self, own_paths: tuple[str, ...]) -> Iterator[str]:
        for name, content in sorted(self.files.items()):
            for what, pattern in _SECRETS:
                if pattern.search(content):
                    yield f"{name}: it holds {what}"
            for path in own_paths:
                if path.encode() in content:
                    yield f"{name}: it holds a path of the machine that built it"


def _record_of(content: bytes) -> tuple[str, str]:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}", str(len(content))
