"""What gradient work trains on: numbered sequences of tokens, the same for everybody who has the corpus.

A corpus is a value like an environment: roles are handed one and import none. Its digest stands in the manifest's environment
spec, so a corpus of other bytes is another network's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class CorpusSpec:
    """What of a corpus the gradient spec names, and its digest. `vocabulary`: token ids are below it."""

    name: str
    sequence_length: int  # tokens
    sequences: int  # N, that can be assigned
    held_out: int  # after them, for curves
    vocabulary: int
    digest: str  # 64 hex digits


@runtime_checkable
class Corpus(Protocol):
    """Sequences by number; pure once it is opened."""

    @property
    def spec(self) -> CorpusSpec: ...

    def sequence(self, index: int) -> npt.NDArray[np.int32]:
        """int32[sequence_length], for 0 ≤ index < sequences + held_out. Errors: IndexError outside of it."""
        ...
