"""An order that a node has taken, while it is on its way to its receipt: what is drawn of it so far.

It may be drawn again from its first token, where the models failed: what was shown of a stream stays shown, and the tokens must
be the same again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from grail_core.errors import MachineFaultError
from grail_core.inference.receipts import Receipt
from grail_miner.serving.answering import AdmittedOrder
from grail_miner.serving.models import RowId
from grail_miner.serving.stop_watch import StopWatch


class RedrawnOtherwiseError(MachineFaultError):
    """A stream that was begun cannot go on: drawn again, its tokens are others, by a near tie."""


@dataclass(eq=False)
class DrawnChoice:
    """One completion on its way."""

    watch: StopWatch
    ends: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)  # before it was begun again
    finished: bool = False

    def take(self, drawn: Sequence[int], finished: bool) -> None:
        """Some more tokens, the last of them where `finished`; behind a stop text none is taken.

        Raises:
            RedrawnOtherwiseError
        """
        for token in drawn:
            at = len(self.tokens)
            if at < len(self.shown) and self.shown[at] != token:
                raise RedrawnOtherwiseError("the answer was begun again and became another; ask again")
            self.tokens.append(token)
            if token not in self.ends and self.watch.add(token) is not None:
                break
        self.finished = finished or self.watch.length is not None
        if self.finished:
            del self.tokens[self.watch.finish() or len(self.tokens) :]


class Ticket:
    """An order that was taken: what is drawn of it, and its receipt. Read from any thread."""

    def __init__(self, order: AdmittedOrder, notify: Callable[[], None] | None, client: str = "") -> None:
        self.order = order
        self.client = client
        self.receipt: Future[Receipt] = Future()
        self.cancelled = False
        self.taken_s = time.monotonic()
        self.choices: list[DrawnChoice] = []
        self.rows: dict[RowId, DrawnChoice] = {}
        self.tries = 0
        self.has_first = False
        self._notify = notify

    @property
    def streamed(self) -> bool:
        return self._notify is not None

    def tokens(self, choice: int) -> Sequence[int]:
        """Drawn so far; empty while the order waits. What was shown once stays."""
        if choice >= len(self.choices):
            return ()
        one = self.choices[choice]
        return one.tokens if len(one.tokens) >= len(one.shown) else one.shown

    @property
    def begun(self) -> bool:
        """It was handed to the models, which read its prompt."""
        return bool(self.choices)

    @property
    def drawn(self) -> int:
        """Tokens that were drawn for it."""
        return sum(len(self.tokens(choice)) for choice in range(len(self.choices)))

    @property
    def size(self) -> int:
        """Positions that it can come to."""
        return self.order.choices * (len(self.order.prompt) + self.order.limit)

    @property
    def whole(self) -> bool:
        """It is drawn to its end."""
        return bool(self.choices) and all(choice.finished for choice in self.choices)

    def begin(self) -> None:
        """From the first token on, once more where it was begun before."""
        shown = [list(self.tokens(choice)) if self.streamed else [] for choice in range(self.order.choices)]
        folder, stops = self.order.served.folder, self.order.asked.stop
        ends = frozenset(folder.model.end_token_ids)
        self.choices = [DrawnChoice(StopWatch(folder.renderer.decode, stops), ends, shown=one) for one in shown]
        self.tries += 1

    def changed(self) -> None:
        """Tell who reads along."""
        if self._notify is not None:
            self._notify()

    def fail(self, error: Exception) -> None:
        if not self.receipt.done():
            self.receipt.set_exception(error)
        self.changed()
