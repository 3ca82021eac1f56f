"""What fixes an environment's problems and grades; its digest is part of every seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest


@dataclass(frozen=True)
class EnvironmentSpec:
    """What fixes an environment's problems and grades, byte for byte.

    `parameters` holds strings, integers, booleans, lists and mappings of these (no floats: they have no canonical JSON here).
    `data_digest` is the hex SHA-256 of the rows actually loaded, "" for generated environments.
    """

    env_id: str
    version: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data_digest: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "env_id": self.env_id,
            "version": self.version,
            "parameters": dict(self.parameters),
            "data_digest": self.data_digest,
        }

    @property
    def digest(self) -> Digest:
        """SHA-256 of the canonical JSON of the spec; `env_digest` in every seed."""
        return Digest(hashlib.sha256(canonical_json(self.to_json())).digest())
