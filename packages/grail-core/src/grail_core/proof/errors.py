"""What can be wrong with a proof before any statistic is asked: its shape, its tokens, its numbers."""

from __future__ import annotations

from grail_core.model.errors import ProofError


class MalformedSketchError(ProofError):
    """The sketch bytes have the wrong type, width or count, or contain the reserved value −32768."""


class UnprovableError(ProofError):
    """A hidden state that is not finite, or zero: it has no sketch."""
