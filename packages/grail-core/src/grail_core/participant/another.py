"""Two of one: a signed object of this hotkey in its own bucket that this state did not write, so somebody else runs the hotkey.

The lock on a state folder keeps two processes of one machine apart; two machines, or two disks, meet in the bucket alone. Each
role keeps what it signs before it stores it (a ledger, a journal), so what a process was killed over is found there again to
the byte, or by what it was made of, and is not taken for another's. What lay in the bucket before a start says nothing against
it: the state may be a copy that was brought back. Which of the two ends is whoever looks second.
"""

from __future__ import annotations

from typing import Final

from grail_core.clock import utc_text
from grail_core.participant.state import AlreadyRunningError

MARGIN_MS: Final = 5_000
"""By which a store's clock may be ahead: what is that little younger than a start may be of before it."""


class WrittenByAnotherError(AlreadyRunningError):
    """This hotkey runs somewhere else, too, with a state of its own."""


def written_by_another(what: str, key: str, stored_at_ms: int) -> WrittenByAnotherError:
    """The error that ends the second of two. `what`: a manifest, a verdict."""
    return WrittenByAnotherError(
        f"{what} of this hotkey was stored at {utc_text(stored_at_ms)} that this process did not write: the hotkey runs "
        "somewhere else, too, with another GRAIL_STATE_DIR",
        where=key,
        hint="leave one of the two running; two of one contradict each other, and nobody believes either",
    )


def require_before_start(what: str, key: str, stored_at_ms: int, started_ms: int) -> None:
    """Of an object that this state did not write: it is no sign of another process if it lay there before the start.

    Raises:
        WrittenByAnotherError: it was stored since.
    """
    if stored_at_ms > started_ms + MARGIN_MS:
        raise written_by_another(what, key, stored_at_ms)
