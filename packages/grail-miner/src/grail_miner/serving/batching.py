"""Requests wait in a bounded queue; one thread answers what waits, one closed batch after the other.

A batch is taken in the order of arrival, up to a number of completions. Whoever vanished before its batch begins costs
nothing. A batch that fails is tried once more request by request, so that one that cannot be answered spoils nobody else's;
whatever is raised there belongs to that request, and the thread goes on. A stop lets the running batch end and tells the rest.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from grail_core.errors import MachineFaultError, OutOfMemoryError
from grail_core.inference.receipts import Receipt
from grail_core.telemetry import get_logger
from grail_miner.serving.answering import AdmittedOrder

log = get_logger(__name__)

MAX_ROWS: Final = 64
"""Completions that decode together."""
MAX_RETRY_AFTER_S: Final = 60

Answer = Callable[[Sequence[AdmittedOrder]], list[Receipt]]


class QueueFullError(Exception):
    """As many requests wait as may. `retry_after_s`: about when the running batch will have ended, in whole seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class ShuttingDownError(Exception):
    """This server is ending and takes no more."""


@dataclass
class _Waiting:
    order: AdmittedOrder
    future: Future[Receipt] = field(default_factory=Future)


class Batches:
    """The queue and its thread.

    Args:
        answer: one receipt an order, or an error for all of them; called by the thread alone, never twice at a time.
        max_queue: requests that may wait.
        max_rows: completions of a batch; a request with more is a batch of its own.
    """

    def __init__(self, answer: Answer, *, max_queue: int, max_rows: int = MAX_ROWS) -> None:
        self._answer = answer
        self._max_queue = max_queue
        self._max_rows = max_rows
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._last_s = 1.0  # what the last batch took
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, order: AdmittedOrder) -> Future[Receipt]:
        """Wait for an answer. Cancelling the future before its batch begins takes the request out of the queue.

        Raises:
            QueueFullError, ShuttingDownError
        """
        with self._changed:
            if self._stopping:
                raise ShuttingDownError
            self._drop_vanished()
            if len(self._waiting) >= self._max_queue:
                raise QueueFullError(min(MAX_RETRY_AFTER_S, 1 + int(self._last_s)))
            waiting = _Waiting(order)
            self._waiting.append(waiting)
            self._changed.notify()
            return waiting.future

    @property
    def pending(self) -> int:
        """Requests that wait; those of the running batch are not among them."""
        with self._changed:
            self._drop_vanished()
            return len(self._waiting)

    def stop_taking(self) -> None:
        """From now on nothing is taken, and what waits is told so; the running batch goes on."""
        with self._changed:
            self._stopping = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for one in left:
            if one.future.set_running_or_notify_cancel():
                one.future.set_exception(ShuttingDownError())

    def close(self) -> None:
        """`stop_taking`, and wait for the running batch."""
        self.stop_taking()
        if self._thread.is_alive():
            self._thread.join()

    def _drop_vanished(self) -> None:
        if any(one.future.cancelled() for one in self._waiting):
            self._waiting = deque(one for one in self._waiting if not one.future.cancelled())

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                batch = self._take()
            if batch:
                began = time.monotonic()
                self._serve(batch)
                self._last_s = time.monotonic() - began

    def _take(self) -> list[_Waiting]:
        """The next closed batch, without those that vanished. What is in it can no longer be cancelled."""
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].order.choices <= self._max_rows):
            one = self._waiting.popleft()
            if one.future.set_running_or_notify_cancel():
                batch.append(one)
                rows += one.order.choices
        return batch

    def _serve(self, batch: Sequence[_Waiting]) -> None:
        try:
            receipts = self._answer([one.order for one in batch])
        except BaseException as error:  # noqa: BLE001 - a panic in a library's Rust is no Exception; signals go to the main thread
            _tell(error, len(batch))
            if len(batch) == 1:
                batch[0].future.set_exception(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
                return
            for one in batch:
                self._serve([one])
            return
        for one, receipt in zip(batch, receipts, strict=True):
            one.future.set_result(receipt)


def _tell(error: BaseException, requests: int) -> None:
    """What failed and where. Of the error's words only those about this machine are known to hold none of the request's."""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    log.event(
        "batch_failed",
        error=type(error).__name__,
        reason=error.what if isinstance(error, MachineFaultError | OutOfMemoryError) else "",
        at=f"{frame[0].filename}:{frame[0].lineno}" if frame else "",
        requests=requests,
    )
