"""Keys of nobody in particular, the same in every run."""

from __future__ import annotations

from grail_core.keys import LocalSigner

ALICE, BOB, CAROL, EVE = (LocalSigner.from_seed(bytes([number]) * 32) for number in (1, 2, 3, 4))
