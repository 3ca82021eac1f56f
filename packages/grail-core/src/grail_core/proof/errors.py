"""What can be wrong with a proof before any statistic is asked: its shape, its tokens, its numbers."""

from __future__ import annotations

from grail_core.errors import GrailError


class ProofError(GrailError):
    """Something in a proof, or on the way to one, cannot be used."""


class MalformedSketchError(ProofError):
    """The sketch bytes have the wrong type, width or count, or contain the reserved value −32768."""


class OutOfVocabularyError(ProofError):
    """A token id that the model has no embedding for; refused before it reaches the model."""


class OverlongRowError(ProofError):
    """A row of more tokens than the model's context."""


class UnprovableError(ProofError):
    """A hidden state that is not finite, or zero: it has no sketch."""
