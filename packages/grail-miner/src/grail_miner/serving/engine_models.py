"""`Models` with somebody else's engine: SGLang or vLLM draws, and another `Models` behind it proves.

Every row joins the engine as it comes, and its tokens come all at once when it is finished. An engine has one model at a time.
Where a second is held (the network's next checkpoint), it is rolled to that with the first row that asks for it, once no row of
the one before runs; it never goes back, so a row that comes too late for its checkpoint fails by name. An engine that fails
costs every row that runs: the caller is told by an error, and the next rows have it loaded, or started, again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from grail_core.errors import EngineError, GrailError, ProtocolViolationError
from grail_core.generation.base import ServedWeights
from grail_core.generation.engine_folder import EngineFolders
from grail_core.generation.joining import Joining, JoiningGenerator
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.serving.models import BURST_SECONDS, Drawn, HeldModel, Models, ModelToHold, NewRow, RowId, ToProve

LOST: Final = "the engine behind this node gave no usable answer to this request, in several tries; ask again, or otherwise"
GONE_ON: Final = "the engine behind this node went on to the network's next checkpoint; ask again"


class EngineModels:
    """See `Models`.

    Args:
        generator: the engine's, over which nobody else draws. proofs: of the same models; draws nothing.
        folders: where the engine reads weights.
        burst_seconds: for so long `advance` waits for what is finished.
    """

    def __init__(
        self,
        generator: JoiningGenerator,
        proofs: Models,
        folders: EngineFolders,
        *,
        burst_seconds: float = BURST_SECONDS,
    ) -> None:
        self._generator, self._proofs, self._folders = generator, proofs, folders
        self._burst_seconds = burst_seconds
        self._weights: dict[bytes, ServedWeights] = {}  # by container id, the oldest first
        self._passed: set[bytes] = set()  # containers that the engine does not go back to
        self._serving: bytes | None = None  # what rows were last drawn with
        self._joined: Joining | None = None
        self._waiting: deque[NewRow] = deque()
        self._running: set[RowId] = set()  # at the engine

    def require_drawable(self, prompt: int, policy: GenerationPolicy) -> None:
        """Ahead of any row, from any thread. Args, errors: as `JoiningGenerator.require_joinable`."""
        self._generator.require_joinable(prompt, policy)

    def hold(self, wanted: ModelToHold) -> HeldModel:
        """See `Models`; the first model is loaded by the engine at once.

        Raises:
            EngineError: the engine does not serve it. StorageError: no folder for the engine can be made.
            ConfigurationError: the engine is not there, or not one that this was tried with.
        """
        weights = self._weights.get(wanted.container_id)
        if weights is None:
            weights = self._folders.stage(_weights_of(wanted))
            if not self._weights:  # before the proofs' model is loaded: an engine that is not there is told at once
                self._serve(wanted.container_id, weights)
        proving = self._proofs.hold(wanted)
        self._weights[wanted.container_id] = weights
        return HeldModel(proving.proof_class, self._generator.numerics_class)

    def release(self, container_id: bytes) -> None:
        """See `Models`."""
        self._weights.pop(container_id, None)
        self._passed.discard(container_id)
        self._folders.retain({weights.version for weights in self._weights.values()})
        self._proofs.release(container_id)

    def advance(self, rows: Sequence[NewRow], cancelled: Sequence[RowId], stopped: Sequence[RowId] = ()) -> list[Drawn]:
        """See `Models`. Rows that are lost alone are told as failed."""
        self._waiting.extend(rows)
        try:
            for one in (*cancelled, *stopped):
                self._cancel(one)
            failed = self._begin()
            return failed + self._finished(0.0 if failed else self._burst_seconds)
        except BaseException:
            self._drop_rows()
            raise

    def prove(self, job: ToProve) -> list[RolloutProof]:
        """See `Models`. What the engine draws goes on meanwhile."""
        return self._proofs.prove(job)

    def tend(self) -> None:
        """See `Models`; the engine is looked at by the next row."""
        self._proofs.tend()

    def close(self) -> None:
        self._drop_rows()
        self._generator.close()
        self._folders.close()
        self._proofs.close()

    def _begin(self) -> list[Drawn]:
        """Hand to the engine what may join it, in the order in which it came. Returns the rows that cannot be drawn."""
        failed = []
        while self._waiting:
            row = self._waiting[0]
            if row.container_id in self._passed:
                failed.append(Drawn(row.id, (), True, GONE_ON))
            elif self._running and row.container_id != self._serving:
                break  # the engine is rolled once these are finished
            else:
                joined = self._rows_of(row.container_id)
                try:
                    joined.add(row.id, row.request)
                    self._running.add(row.id)
                except (OutOfVocabularyError, OverlongSequenceError, ProtocolViolationError) as error:
                    failed.append(Drawn(row.id, (), True, error.what))
            self._waiting.popleft()
        return failed

    def _rows_of(self, container_id: bytes) -> Joining:
        """The rows of this model at the engine, which serves it from now on. Raises EngineError."""
        weights = self._weights[container_id]
        if self._joined is not None and self._serving == container_id and (self._running or self._serves(weights)):
            return self._joined
        try:
            self._close_joined()
            if not self._serves(weights):
                self._serve(container_id, weights)
            self._joined, self._serving = self._generator.joining(), container_id
        except EngineError:
            raise
        except GrailError as error:  # of a folder, or of a start: an operator's to mend, and no request's fault
            raise EngineError(error.what, where=error.where, hint=error.hint) from error
        return self._joined

    def _serves(self, weights: ServedWeights) -> bool:
        return self._generator.version == weights.version

    def _serve(self, container_id: bytes, weights: ServedWeights) -> None:
        self._generator.serve(weights)
        self._folders.point(weights.folder)
        older = list(self._weights)
        if container_id in older:
            self._passed.update(older[: older.index(container_id)])

    def _finished(self, seconds: float) -> list[Drawn]:
        if self._joined is None or not self._running:
            return []
        drawn = []
        for one in self._joined.poll(seconds):
            row = RowId(one.id)
            self._running.discard(row)
            drawn.append(Drawn(row, (), True, LOST) if one.tokens is None else Drawn(row, one.tokens, True))
        return drawn

    def _cancel(self, one: RowId) -> None:
        if one in self._running and self._joined is not None:
            self._running.discard(one)
            self._joined.cancel(one)
        else:
            self._waiting = deque(row for row in self._waiting if row.id != one)

    def _drop_rows(self) -> None:
        self._waiting.clear()
        self._running.clear()
        self._close_joined()

    def _close_joined(self) -> None:
        joined, self._joined = self._joined, None
        if joined is not None:
            joined.close()


def _weights_of(wanted: ModelToHold) -> ServedWeights:
    """Every row brings its own policy: of the folder's, which may be none that an engine follows, the length alone is kept."""
    return ServedWeights(
        version=wanted.container_id.hex(),
        folder=wanted.folder,
        policy=GenerationPolicy(wanted.policy.max_tokens),
        end_tokens=wanted.end_tokens,
        vocabulary_size=wanted.vocabulary_size,
        context_length=wanted.context_length,
    )
