"""What a model refuses before it computes anything: tokens it has no embedding for, rows longer than its context."""

from __future__ import annotations

from grail_core.errors import GrailError


class ProofError(GrailError):
    """Something in a proof, or on the way to one, cannot be used."""


class OutOfVocabularyError(ProofError):
    """A token id that the model has no embedding for; refused before it reaches the model."""


class OverlongSequenceError(ProofError):
    """A row of more tokens than the model's context."""
