"""What a release folder holds, by name, and `release.json`, which says what each file is.

    grail_core-0.1.0-py3-none-any.whl           a wheel for each of the five
    grail_core-0.1.0.cdx.json                   its bill of materials (CycloneDX 1.6)
    CHANGELOG-grail-core.md                     its changelog
    constraints.txt                             what it was tried with, and the five versions
    release.json                                commit, time, protocol version; of each package version, digest, requirements
    SHA256SUMS, SHA256SUMS.sig                  every other file's digest, and the operator's signature of that list

Reading `release.json` is strict: another member, type or format is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tooling.release.faults import NotTheReleaseError

FORMAT = 1
RELEASE = "release.json"
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
CONSTRAINTS = "constraints.txt"

_DIGEST = Field(pattern=r"^[0-9a-f]{64}$")
_VERSION = Field(pattern=r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$")


class Released(BaseModel):
    """One package of a release. Names are of files in the folder, `bytes` the wheel's size, `requires` what it asks of ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: str = _VERSION
    unreleased: bool
    wheel: str = Field(max_length=128)
    sha256: str = _DIGEST
    bytes: int = Field(ge=1)
    bill: str = Field(max_length=128)
    changelog: str = Field(max_length=128)
    requires: list[str] = Field(max_length=8)


class Release(BaseModel):
    """What a release says of itself. `epoch` is its commit's time in seconds; `built_with` makes the same bytes again."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int = Field(ge=FORMAT, le=FORMAT)
    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    clean: bool
    epoch: int = Field(ge=315_532_800, lt=2**33)
    protocol_version: int = Field(ge=1, le=65_535)
    built_with: dict[str, str]
    packages: dict[str, Released]

    def to_bytes(self) -> bytes:
        return (json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n").encode()


def read_release(data: bytes) -> Release:
    """What `release.json` says.

    Raises:
        NotTheReleaseError: it is none.
    """
    try:
        value: Any = json.loads(data, object_pairs_hook=_once)
        return Release.model_validate(value)
    except (ValueError, RecursionError, ValidationError) as error:
        raise NotTheReleaseError(f"it is no release: {str(error)[:800]}", where=RELEASE) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a member stands there twice")
    return value


@dataclass(frozen=True)
class Names:
    """How the files of a package in a version are called."""

    package: str
    version: str

    @property
    def wheel(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"

    @property
    def bill(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}.cdx.json"

    @property
    def changelog(self) -> str:
        return f"CHANGELOG-{self.package}.md"
