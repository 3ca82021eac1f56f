"""Orders on their way to an answer: they wait in a bounded queue, join the running batch and are proved.

One thread asks the models, token after token; whoever is cancelled leaves the batch with the next burst. A model process that
ends loses its rows and no order: those that ran are tried again by themselves, the largest first, from their seeds, so that
they get the same tokens, until one of them ends it a second time; that one fails. A stream that was begun goes on where it
stopped. A stop lets what runs end, and tells what waits.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final

from grail_core.errors import MachineFaultError, OutOfMemoryError
from grail_core.generation.hf_streaming import MAX_ROWS
from grail_core.inference.receipts import Receipt
from grail_core.proof.errors import UnprovableError
from grail_core.telemetry import get_logger
from grail_miner.serving.answering import AdmittedOrder, Answering
from grail_miner.serving.models import Drawn, Models, ModelToHold, NewRow, RowId
from grail_miner.serving.stop_watch import StopWatch

log = get_logger(__name__)

MAX_RETRY_AFTER_S: Final = 60
MAX_TRIES: Final = 2
_PAUSE_S: Final = 1.0  # after a model process that failed before it did anything


class QueueFullError(Exception):
    """As many orders wait as may. `retry_after_s`: about when one of them will have its answer, in whole seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class ModelGoneError(Exception):
    """The network has left the checkpoint that this order was admitted with."""


class ShuttingDownError(Exception):
    """This server is ending and takes no more."""


class RedrawnOtherwiseError(MachineFaultError):
    """A stream that was begun cannot go on: drawn again, its tokens are others, by a near tie."""


class RowFailedError(Exception):
    """A completion of this order could not be had; its words are for whoever asked."""


@dataclass(eq=False)
class _Choice:
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

    def __init__(self, order: AdmittedOrder, notify: Callable[[], None] | None) -> None:
        self.order = order
        self.receipt: Future[Receipt] = Future()
        self.cancelled = False
        self.taken_s = time.monotonic()
        self.choices: list[_Choice] = []
        self.rows: dict[RowId, _Choice] = {}
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

    def begin(self) -> None:
        """From the first token on, once more where it was begun before."""
        shown = [list(self.tokens(choice)) if self.streamed else [] for choice in range(self.order.choices)]
        folder, stops = self.order.served.folder, self.order.asked.stop
        ends = frozenset(folder.model.end_token_ids)
        self.choices = [_Choice(StopWatch(folder.renderer.decode, stops), ends, shown=one) for one in shown]
        self.tries += 1

    def changed(self) -> None:
        """Tell who reads along."""
        if self._notify is not None:
            self._notify()

    def fail(self, error: Exception) -> None:
        if not self.receipt.done():
            self.receipt.set_exception(error)
        self.changed()


def _nobody(seconds: float) -> None:
    pass


class Scheduler:
    """The queue, the running batch and their thread.

    Args:
        models: used by the thread alone once it runs, and closed by it.
        max_queue: orders that may wait. max_rows: completions that run at the same time.

    Attributes:
        first_token: told how long each order waited for its first one.
    """

    def __init__(
        self,
        answering: Answering,
        models: Models,
        *,
        max_queue: int,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self.answering = answering
        self.first_token: Callable[[float], None] = _nobody
        self._models = models
        self._max_queue = max_queue
        self._max_rows = max_rows
        self._waiting: deque[Ticket] = deque()
        self._suspects: list[Ticket] = []  # ran when the models failed: they run alone, the largest first
        self._running: list[Ticket] = []
        self._by_row: dict[RowId, Ticket] = {}
        self._leaving: list[RowId] = []  # rows that the models need not draw any more
        self._next = 0
        self._held: set[bytes] = set()  # container ids that the models hold
        self._wanted: set[bytes] = set()  # those of them that orders may name
        self._changes: deque[tuple[Sequence[ModelToHold], Future[None]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._cancelled = False  # somebody was, since the thread looked
        self._seconds = 1.0  # of an answer, lately
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hold(self, wanted: Sequence[ModelToHold]) -> None:
        """Have these models from now on, and others as long as orders run that were admitted with them. Returns once they are
        loaded; what runs waits meanwhile.

        Raises:
            CheckpointError, MachineFaultError: as `Models.hold`; what was held stays. ShuttingDownError
        """
        if not self._thread.is_alive():
            self._hold(wanted)
            return
        done: Future[None] = Future()
        with self._changed:
            if self._stopping:
                raise ShuttingDownError
            self._changes.append((wanted, done))
            self._changed.notify()
        done.result()

    @property
    def changing(self) -> bool:
        """Models wait to be loaded."""
        with self._changed:
            return bool(self._changes)

    def submit(self, order: AdmittedOrder, notify: Callable[[], None] | None = None) -> Ticket:
        """Take an order.

        Args:
            notify: called from another thread, often, whenever tokens or the receipt have come; only then tokens can be read
                before the receipt is there.

        Raises:
            QueueFullError, ModelGoneError, ShuttingDownError
        """
        with self._changed:
            if self._stopping:
                raise ShuttingDownError
            if order.model_digest not in self._held:
                raise ModelGoneError
            self._drop_cancelled()
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(min(MAX_RETRY_AFTER_S, 1 + int(self._seconds)))
            ticket = Ticket(order, notify)
            self._waiting.append(ticket)
            self._changed.notify()
            return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for it any more."""
        with self._changed:
            ticket.cancelled = True
            self._cancelled = True
            self._changed.notify()

    @property
    def healthy(self) -> bool:
        """The models did what they were asked last."""
        return not self._failing

    @property
    def pending(self) -> int:
        """Orders that wait."""
        with self._changed:
            self._drop_cancelled()
            return len(self._waiting) + len(self._suspects)

    @property
    def running(self) -> int:
        """Orders of which something is drawn or proved."""
        with self._changed:
            return len(self._running)

    def stop_taking(self) -> None:
        """From now on nothing is taken, and what waits is told so; what runs goes on."""
        with self._changed:
            self._stopping = True
            left = [*self._waiting, *self._suspects]
            self._waiting.clear()
            self._suspects.clear()
            self._changed.notify_all()
        for ticket in left:
            ticket.fail(ShuttingDownError())

    def close(self) -> None:
        """`stop_taking`, and wait for what runs."""
        self.stop_taking()
        if self._thread.is_alive():
            self._thread.join()

    def _drop_cancelled(self) -> None:
        if any(ticket.cancelled for ticket in self._waiting):
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.cancelled)
        self._suspects = [ticket for ticket in self._suspects if not ticket.cancelled]

    # The thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._suspects or self._running or self._changes or self._stopping
                )
            self._change_models()
            with self._changed:
                self._leave_cancelled()
                begun = self._take()
                if self._stopping and not self._running:
                    self._fail_changes()
                    self._models.close()
                    return
            self._advance(begun)

    def _advance(self, begun: Sequence[NewRow]) -> None:
        leaving, self._leaving = self._leaving, []
        if not (begun or leaving or self._by_row):
            return
        try:
            drawn = self._models.advance(begun, leaving)
        except BaseException as error:  # noqa: BLE001 - a panic in a library's Rust is no Exception; signals go to the main thread
            _tell(error, "drawing", len(self._running))
            self._lost(list(self._running), error, progress=any(ticket.choices[0].tokens for ticket in self._running))
            return
        self._failing = False
        for ticket in self._spread(drawn):
            self._prove(ticket)

    def _change_models(self) -> None:
        while self._changes:
            wanted, done = self._changes.popleft()
            try:
                self._hold(wanted)
            except Exception as error:  # noqa: BLE001 - whoever asked for them is told
                _tell(error, "loading", len(self._running))
                with self._changed:  # where a process ended of it, its rows are gone
                    self._again(list(self._running))
                done.set_exception(error)
            else:
                done.set_result(None)

    def _fail_changes(self) -> None:
        while self._changes:
            self._changes.popleft()[1].set_exception(ShuttingDownError())

    def _hold(self, wanted: Sequence[ModelToHold]) -> None:
        held = [self._models.hold(one) for one in wanted]
        self.answering.proof_class, self.answering.generation_class = held[0].proof_class, held[0].generation_class
        self._wanted = {one.container_id for one in wanted}
        self._held |= self._wanted
        self._release_unused()

    def _release_unused(self) -> None:
        """Models that no order may name any more go with the last answer that began with them."""
        if self._held == self._wanted:
            return
        with self._changed:
            used = {one.order.model_digest for one in (*self._waiting, *self._suspects, *self._running)}
            unused = self._held - self._wanted - used
            self._held -= unused
        for container_id in unused:
            self._models.release(container_id)

    def _take(self) -> list[NewRow]:
        """The orders that begin now, and their rows."""
        self._drop_cancelled()
        rows: list[NewRow] = []
        if self._suspects:
            if not self._running:
                rows += self._begin(self._suspects.pop(0))
            return rows
        while self._waiting and (not self._running or len(self._by_row) + self._waiting[0].order.choices <= self._max_rows):
            rows += self._begin(self._waiting.popleft())
        return rows

    def _begin(self, ticket: Ticket) -> list[NewRow]:
        ticket.begin()
        ticket.rows = {}
        rows = []
        for choice, request in zip(ticket.choices, self.answering.requests(ticket.order), strict=True):
            one = RowId(self._next)
            self._next += 1
            ticket.rows[one] = choice
            self._by_row[one] = ticket
            rows.append(NewRow(one, ticket.order.model_digest, request))
        self._running.append(ticket)
        return rows

    def _leave_cancelled(self) -> None:
        if self._cancelled:
            self._cancelled = False
            for ticket in [ticket for ticket in self._running if ticket.cancelled]:
                self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        """It runs no more; what the models still draw of it they need not."""
        if ticket in self._running:
            self._running.remove(ticket)
        self._leave_rows([row for row in ticket.rows if row in self._by_row])

    def _leave_rows(self, rows: Iterable[RowId]) -> None:
        for row in rows:
            del self._by_row[row]
            self._leaving.append(row)

    def _spread(self, drawn: Sequence[Drawn]) -> list[Ticket]:
        """Hand the tokens to their orders. Returns those that are drawn to their end."""
        touched: dict[Ticket, None] = {}
        for one in drawn:
            ticket = self._by_row.get(one.id)
            if ticket is None:
                continue  # it was cancelled or stopped meanwhile
            choice = ticket.rows[one.id]
            try:
                if one.failed is not None:
                    raise RowFailedError(one.failed)
                choice.take(one.tokens, one.finished)
            except (RedrawnOtherwiseError, RowFailedError) as error:
                touched.pop(ticket, None)
                self._leave(ticket)
                ticket.fail(error)
                continue
            touched[ticket] = None
            if one.finished:
                del self._by_row[one.id]
            elif choice.finished:  # by a stop text, of which the models know nothing
                self._leave_rows([one.id])
        for ticket in touched:
            if not ticket.has_first:
                ticket.has_first = True
                self.first_token(time.monotonic() - ticket.taken_s)
            ticket.changed()
        return [ticket for ticket in touched if all(choice.finished for choice in ticket.choices)]

    def _prove(self, ticket: Ticket) -> None:
        completions = [tuple(choice.tokens) for choice in ticket.choices]
        try:
            job = replace(self.answering.proof_job(ticket.order, completions), rows=tuple(ticket.rows))
            proofs = self._models.prove(job)
            receipt = self.answering.receipt(ticket.order, completions, proofs)
        except UnprovableError as error:
            self._ended(ticket, error)
        except BaseException as error:  # noqa: BLE001 - as in `_advance`
            _tell(error, "proving", 1)
            others = [one for one in self._running if one is not ticket]
            self._lost([ticket], error, progress=True)
            with self._changed:  # it was none of them
                for one in others:
                    one.tries -= 1
                self._again(others)
        else:
            self._ended(ticket, receipt)

    def _ended(self, ticket: Ticket, outcome: Receipt | Exception) -> None:
        with self._changed:
            self._leave(ticket)
        self._release_unused()
        self._seconds += 0.2 * (time.monotonic() - ticket.taken_s - self._seconds)
        if isinstance(outcome, Receipt):
            ticket.receipt.set_result(outcome)
            ticket.changed()
        else:
            ticket.fail(outcome)

    # What becomes of orders whose rows are lost.

    def _lost(self, blamed: Sequence[Ticket], error: BaseException, *, progress: bool) -> None:
        """These ran when the models failed: each is tried again by itself, or fails if that was its last try."""
        self._failing = True
        told = error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
        last = [ticket for ticket in blamed if ticket.tries >= MAX_TRIES]
        with self._changed:
            self._forget_rows(blamed)
            if last:  # whose fault it was is known: the others need not be alone any more
                self._waiting.extendleft(reversed(self._suspects))
                self._suspects = []
            again = [ticket for ticket in blamed if ticket not in last and not ticket.cancelled]
            if self._stopping:
                last, again = list(blamed), []
            self._suspects = sorted([*self._suspects, *again], key=lambda ticket: -ticket.size)
            if not progress:
                self._changed.wait_for(lambda: self._stopping, timeout=_PAUSE_S)
        for ticket in last:
            ticket.fail(told)

    def _again(self, tickets: Sequence[Ticket]) -> None:
        """These lost their rows without a fault of theirs."""
        self._forget_rows(tickets)
        self._waiting.extendleft(reversed(tickets))

    def _forget_rows(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._running.remove(ticket)
            self._leave_rows([row for row in ticket.rows if row in self._by_row])


def _tell(error: BaseException, doing: str, orders: int) -> None:
    """What failed and where. Of the error's words only those about this machine are known to hold none of the request's."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    log.event(
        "models_failed",
        doing=doing,
        error=type(error).__name__,
        reason=error.what if isinstance(error, MachineFaultError | OutOfMemoryError) else "",
        at=f"{frame[0].filename}:{frame[0].lineno}" if frame else "",
        orders=orders,
    )
