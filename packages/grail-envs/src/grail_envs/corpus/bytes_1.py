"""`bytes-1`: a corpus that needs no file, for local networks and tests (design section 3).

Sequence i is `grammar.sentences` of PRF("grail/corpus/bytes-1", i) with the empty network id, as digests of weights have it:
the same for every network. Tokens are bytes, and one end token after some sentences. The corpus has no file to hash, so its
digest is that of its first sequences; another grammar is another digest, and another corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from grail_core.corpus import CorpusSpec
from grail_core.protocol.encoding import tagged_stream
from grail_envs.corpus.grammar import END, entropy_by_position, sentences

NAME: Final = "bytes-1"
TAG: Final = "grail/corpus/bytes-1"
LENGTH: Final = 64
SEQUENCES: Final = 1 << 20
HELD_OUT: Final = 4096
DIGESTED: Final = 4096
"""Sequences from the first on, of which the digest is SHA-256, each token as a u16 little-endian."""
DIGEST: Final = "db46eb32166a599e87c693bc9b2c60518a7ccd3c7c58d445ff4c6f7e66bdf5ec"
ENTROPY: Final = 0.4267620948714957
"""Nats a predicted token: the mean of H(token t | tokens 0 … t − 1) over t = 1 … 63, computed by `entropy`. A model's mean
next-token loss over many sequences does not fall below it."""


class Bytes1:
    """The corpus. `sequence` is a function of the index alone."""

    spec: Final = CorpusSpec(NAME, LENGTH, SEQUENCES, HELD_OUT, END + 1, DIGEST)

    def sequence(self, index: int) -> npt.NDArray[np.int32]:
        """int32[64]. Errors: IndexError outside 0 … sequences + held_out − 1."""
        if not 0 <= index < SEQUENCES + HELD_OUT:
            raise IndexError(f"{NAME} has no sequence {index}")
        text = sentences(tagged_stream(b"", TAG, index, length=LENGTH), LENGTH)
        return np.frombuffer(text.encode("utf-32-le"), dtype="<i4").astype(np.int32)


def digest_of(sequence: Callable[[int], npt.NDArray[np.int32]]) -> str:
    """What stands in `DIGEST`, computed: of sequences 0 … DIGESTED − 1."""
    digest = hashlib.sha256()
    for index in range(DIGESTED):
        digest.update(sequence(index).astype("<u2").tobytes())
    return digest.hexdigest()


def entropy() -> float:
    """What stands in `ENTROPY`, computed."""
    return sum(entropy_by_position(LENGTH)[1:]) / (LENGTH - 1)
