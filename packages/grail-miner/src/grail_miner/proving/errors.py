"""What can be wrong with a group that no number of tries would prove."""

from __future__ import annotations

from grail_core.proof.errors import UnprovableError


class PoisonousGroupError(UnprovableError):
    """Workers ended over it, one after the other. It is dropped as one without a sketch is: it costs one group, and no more."""
