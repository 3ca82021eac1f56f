"""Orders on their way to an answer: they wait in a bounded queue, join the running batch and are proved.

One thread asks the models, token after token; whoever is cancelled leaves the batch with the next burst. Of those that wait the
next is the first of the client with the fewest completions in the batch. A model process that ends loses its rows and no order:
those that ran are tried again in halves, the largest first, from their seeds, so that they get the same tokens, until one of
them ends it by itself; that one fails. A stream that was begun goes on where it stopped. A stop lets what runs end, and tells
what waits.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Final

from grail_core.errors import MachineFaultError, OutOfMemoryError
from grail_core.generation.hf_streaming import MAX_ROWS
from grail_core.inference.receipts import Receipt
from grail_core.proof.errors import UnprovableError
from grail_core.telemetry import get_logger
from grail_miner.serving.answering import AdmittedOrder, Answering
from grail_miner.serving.models import Drawn, Models, ModelToHold, NewRow, RowId
from grail_miner.serving.tickets import RedrawnOtherwiseError, Ticket

log = get_logger(__name__)

MAX_RETRY_AFTER_S: Final = 60
MAX_TRIES: Final = 2
"""Of an order by itself, and of a proof."""
_MAX_TRIES_IN_COMPANY: Final = 8  # halves of 64 are single ones after six more
_TEND_S: Final = 2.0  # between two looks at models that have nothing to do
_PAUSE_S: Final = 1.0  # after a model process that failed before it did anything


class QueueFullError(Exception):
    """As many orders wait as may, and one of this client's among them.

    `retry_after_s`: about when one of them will have its answer, in whole seconds.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class ModelGoneError(Exception):
    """The network has left the checkpoint that this order was admitted with."""


class ShuttingDownError(Exception):
    """This server is ending and takes no more."""


class RowFailedError(Exception):
    """A completion of this order could not be had; its words are for whoever asked."""


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
        self._trials: list[list[Ticket]] = []  # ran when the models failed: they run by themselves, group after group
        self._on_trial: list[Ticket] = []  # the group that runs by itself
        self._running: list[Ticket] = []
        self._by_row: dict[RowId, Ticket] = {}
        self._leaving: list[RowId] = []  # rows that the models need not know any more
        self._stopped: list[RowId] = []  # rows that they need not draw any more, and will prove
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

    def has_room(self, client: str) -> bool:
        """Whether an order of this client would be taken now."""
        with self._changed:
            self._drop_cancelled()
            return len(self._waiting) < self._max_queue or all(one.client != client for one in self._waiting)

    def submit(self, order: AdmittedOrder, notify: Callable[[], None] | None = None, *, client: str = "") -> Ticket:
        """Take an order. One of each client may wait even where the queue is full, so that nobody fills it for the others.

        Args:
            client: by its name. Orders of one client are begun as they came.
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
            if len(self._waiting) >= self._max_queue and any(one.client == client for one in self._waiting):
                raise QueueFullError(min(MAX_RETRY_AFTER_S, 1 + int(self._seconds)))
            ticket = Ticket(order, notify, client)
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
            return len(self._waiting) + sum(map(len, self._trials))

    @property
    def running(self) -> int:
        """Orders of which something is drawn or proved."""
        with self._changed:
            return len(self._running)

    def stop_taking(self) -> None:
        """From now on nothing is taken, and what waits is told so; what runs goes on."""
        with self._changed:
            self._stopping = True
            left = [*self._waiting, *self._tried()]
            self._waiting.clear()
            self._trials.clear()
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
        groups = ([ticket for ticket in group if not ticket.cancelled] for group in self._trials)
        self._trials = [group for group in groups if group]

    def _tried(self) -> list[Ticket]:
        return [ticket for group in self._trials for ticket in group]

    # The thread.

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            try:
                goes_on = self._turn()
            except BaseException as error:  # noqa: BLE001 - a mistake of ours: a thread that ended would leave everybody waiting
                _tell(error, "scheduling", len(self._running))
                with self._changed:
                    everybody = {*self._running, *self._by_row.values(), *self._waiting, *self._tried()}
                    self._leave_rows(list(self._by_row))
                    self._running, self._trials, self._on_trial = [], [], []
                    self._waiting.clear()
                for ticket in everybody:
                    ticket.fail(_as_exception(error))

    def _turn(self) -> bool:
        """One burst. False: it was the last."""
        with self._changed:
            something = self._changed.wait_for(
                lambda: self._waiting or self._trials or self._running or self._changes or self._stopping, timeout=_TEND_S
            )
        if not something:
            self._tend()
            return True
        self._change_models()
        with self._changed:
            self._leave_cancelled()
            begun = self._take()
            if self._stopping and not self._running:
                self._fail_changes()
                self._models.close()
                return False
        self._advance(begun)
        return True

    def _tend(self) -> None:
        """Nothing is asked: models that ended meanwhile are brought back, and whether that was possible is their health."""
        try:
            self._models.tend()
        except Exception as error:  # noqa: BLE001 - it is tried again, and orders that come are told
            if not self._failing:
                _tell(error, "replacing", 0)
            self._failing = True
        else:
            self._failing = False

    def _advance(self, begun: Sequence[NewRow]) -> None:
        leaving, self._leaving = self._leaving, []
        stopped, self._stopped = self._stopped, []
        if not (begun or leaving or stopped or self._by_row):
            return
        try:
            drawn = self._models.advance(begun, leaving, stopped)
        except BaseException as error:  # noqa: BLE001 - a panic in a library's Rust is no Exception; signals go to the main thread
            _tell(error, "drawing", len(self._running))
            self._lost(list(self._running), error, progress=any(ticket.choices[0].tokens for ticket in self._running))
            return
        self._failing = False
        for ticket in self._spread(drawn):
            if ticket.cancelled:
                self._leave(ticket)
            else:
                self._prove(ticket)

    def _change_models(self) -> None:
        while self._changes:
            wanted, done = self._changes.popleft()
            try:
                self._hold(wanted)
            except Exception as error:  # noqa: BLE001 - whoever asked for them is told
                _tell(error, "loading", len(self._running))
                with self._changed:  # where a process ended of it, its rows are gone
                    self._again(self._unfinished())
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
            used = {one.order.model_digest for one in (*self._waiting, *self._tried(), *self._running)}
            unused = self._held - self._wanted - used
            self._held -= unused
        for container_id in unused:
            try:
                self._models.release(container_id)
            except Exception as error:  # noqa: BLE001 - it has ended, with every row, and holds this one no more
                _tell(error, "releasing", len(self._running))
                with self._changed:
                    self._again(self._unfinished())

    def _take(self) -> list[NewRow]:
        """The orders that begin now, and their rows."""
        self._drop_cancelled()
        rows: list[NewRow] = []
        if self._running and (self._on_trial or self._trials):
            return rows
        self._on_trial = self._trials.pop(0) if self._trials else []
        for ticket in self._on_trial:
            rows += self._begin(ticket)
        while self._waiting and not self._on_trial:
            ticket = self._next_waiting()
            if self._running and len(self._by_row) + ticket.order.choices > self._max_rows:
                break
            self._waiting.remove(ticket)
            rows += self._begin(ticket)
        return rows

    def _next_waiting(self) -> Ticket:
        """The first of the client that has the fewest rows, so that who asks much keeps nobody else waiting for all of it."""
        rows = Counter(ticket.client for ticket in self._by_row.values())
        return min(self._waiting, key=lambda ticket: rows[ticket.client])

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
        self._leave_rows(ticket.rows)

    def _leave_rows(self, rows: Iterable[RowId]) -> None:
        for row in rows:
            self._by_row.pop(row, None)
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
                del self._by_row[one.id]
                self._stopped.append(one.id)
        for ticket in touched:
            if not ticket.has_first:
                ticket.has_first = True
                self.first_token(time.monotonic() - ticket.taken_s)
            ticket.changed()
        return [ticket for ticket in touched if ticket.whole]

    def _prove(self, ticket: Ticket) -> None:
        """And once more where the models fail at it: it is drawn, and needs no row of theirs."""
        completions = [tuple(choice.tokens) for choice in ticket.choices]
        job = replace(self.answering.proof_job(ticket.order, completions), rows=tuple(ticket.rows))
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                outcome: Receipt | Exception = self.answering.receipt(ticket.order, completions, self._models.prove(job))
                self._failing = False
            except UnprovableError as error:
                outcome = error
            except BaseException as error:  # noqa: BLE001 - as in `_advance`
                self._failing = True
                _tell(error, "proving", 1)
                outcome = _as_exception(error)
                with self._changed:
                    self._again(self._unfinished())
                if tries_left:
                    continue
            self._ended(ticket, outcome)
            return

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
        """These ran when the models failed: they are tried again in halves, and one that ran alone fails with its last try.
        Whose fault it was is among them, so the others need not be by themselves any more."""
        self._failing = True
        most = MAX_TRIES if len(blamed) == 1 else _MAX_TRIES_IN_COMPANY
        last = [ticket for ticket in blamed if ticket.tries >= most]
        with self._changed:
            self._forget_rows(blamed)
            self._waiting.extendleft(reversed(self._tried()))
            self._trials, self._on_trial = [], []
            again = [ticket for ticket in blamed if ticket not in last and not ticket.cancelled]
            if self._stopping:
                last, again = list(blamed), []
            again.sort(key=lambda ticket: -ticket.size)
            half = (len(again) + 1) // 2
            self._trials = [group for group in (again[:half], again[half:]) if group]
            if not progress and len(blamed) <= 1:
                self._changed.wait_for(lambda: self._stopping, timeout=_PAUSE_S)
        for ticket in last:
            ticket.fail(_as_exception(error))

    def _unfinished(self) -> list[Ticket]:
        """What runs and has rows that can be lost."""
        return [ticket for ticket in self._running if not ticket.whole]

    def _again(self, tickets: Sequence[Ticket]) -> None:
        """These lost their rows without a fault of theirs."""
        for ticket in tickets:
            ticket.tries -= 1
        self._forget_rows(tickets)
        self._waiting.extendleft(reversed(tickets))

    def _forget_rows(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            self._running.remove(ticket)
            self._leave_rows(ticket.rows)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)


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
