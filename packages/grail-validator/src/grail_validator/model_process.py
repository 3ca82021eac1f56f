"""The validator's models, in a child process that is replaced when it breaks.

All forward passes run there: a fault of a device, a kernel that never returns or memory that the system takes back ends the
child, costs the miner whose work it had its verdict (inconclusive: nothing is said of its file), and the next miner's work goes
on in a new child. This process holds no weights and does not import torch. The child is started once and stays over windows;
it has a session of its own, an environment without anybody's secrets, and no life of its own (`model_child`).

    it says so                out of memory for a single row, a device that failed, a mistake of ours
    it ends                   killed, aborted, crashed
    it is silent              a job has JOB_SECONDS and its tokens at LEAST_TOKENS_PER_SECOND, within its file's time
    it answers something else no frame, another job, another length than what was asked has, numbers that no measurement has

Each ends the child and is a MachineFaultError of the job it had. What miners send decides neither how often a child is started
in vain, since a new one loads and tries its models before it gets any work, nor does one miner's death count against another's:
only children that do not come that far count, and after MAX_FAILED_STARTS of them in one window there is nothing to judge its
rest with. Nor is a child ended over work that even at its best pace would outlast the file's time: another one would have to
load everything anew, and that is in nobody's time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from grail_core.child_process.faults import error_of
from grail_core.errors import (
    CheckpointError,
    DiskFullError,
    MachineFaultError,
    OutOfTimeError,
    StorageError,
)
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.sketches import Projections
from grail_core.proof.work import AskedAlternatives, ComparedRollout, MeasuredBatch, ModelFacts, ProofRow, forward_tokens
from grail_core.protocol.constants import PROOF_BATCH_SIZE
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest
from grail_core.telemetry import get_logger
from grail_validator import model_frames as frames
from grail_validator.compare_frames import AlternativeNames, compared_bytes, compared_of
from grail_validator.compared_models import ComparedModels
from grail_validator.model_frames import AskedRows, Frame, FrameError, Kind
from grail_validator.model_handle import COMMAND, ModelHandle
from grail_validator.models import WindowModel

log = get_logger(__name__)

MAX_FAILED_STARTS: Final = 3
"""Children of one window that ended before their models were loaded and tried. No miner's work has come near them."""
START_SECONDS: Final = 600.0
"""For importing torch and Transformers; a busy machine of two cores takes 20."""
LOAD_SECONDS, LEAST_LOAD_BYTES_PER_SECOND = 600.0, 4 << 20
JOB_SECONDS, LEAST_TOKENS_PER_SECOND = 60.0, 20
"""A machine that computes fewer tokens a second takes more than a window for one honest file of 64 answers of 256 tokens."""
_PASSES_OF_MEASURING: Final = 2
"""In the validator's numerics and by the float32 reference; a comparison takes the first again where no states were kept."""
_error_of: Final = partial(error_of, names=frames.ERRORS, process="model process")
_SLOW: Final = "a single file may be made to be slow; if many end so, this machine is too slow for the network"


class Cached(Protocol):
    """The part of `CheckpointSource` that is needed: a verified folder in the cache."""

    def materialise(self, manifest: CheckpointManifest) -> Path: ...


@dataclass(frozen=True)
class _Wanted:
    """What a child is to load: this window's model, and what is compared with it."""

    manifest: CheckpointManifest
    earlier: Mapping[str, CheckpointManifest]
    compared: ComparedModels


@dataclass
class _Child:
    handle: ModelHandle
    ready: bool = False
    loaded: _Wanted | None = None
    facts: ModelFacts | None = None
    names: AlternativeNames = field(default_factory=AlternativeNames)


class ModelProcess:
    """One child at a time, and what it has to know to be replaced. Used by one thread.

    Args:
        source: where checkpoints come from. command: what is run, before its arguments (a test's own child).
    """

    attention = "sdpa"

    def __init__(self, source: Cached, *, device: str = "cpu", command: Sequence[str] | None = None) -> None:
        self.device = device
        self._source = source
        self._command = tuple(command or COMMAND)
        self._child: _Child | None = None
        self._folders: dict[Digest, Path] = {}
        self._renderers: dict[tuple[Path, str], PromptRenderer] = {}
        self._wanted: _Wanted | None = None
        self._failed_starts = 0
        self._pace: dict[tuple[Kind, ModelFacts], float] = {}  # seconds a token, in the fastest job of a kind

    @property
    def pid(self) -> int | None:
        """Of the child, None where there is none."""
        return self._child.handle.pid if self._child is not None else None

    def start(self) -> None:
        """Start the child; it imports what it needs while this process does something else."""
        if self._child is None:
            self._child = _Child(ModelHandle(self._command, device=self.device, attention=self.attention))

    def require_ready(self) -> None:
        """Wait until the child has imported what it needs and can use its device.

        Raises:
            ConfigurationError: it cannot use it.
            MachineFaultError: there is no child to be had.
        """
        self._failed_starts = 0
        self._attempts(self._ready_child)

    def at(self, manifest: CheckpointManifest) -> Path:
        """The checkpoint's folder in the cache. Errors: as `CheckpointSource.materialise`."""
        folder = self._folders.get(manifest.digest)
        if folder is None or not folder.is_dir():
            self._folders[manifest.digest] = folder = self._source.materialise(manifest)
        return folder

    def model(
        self, manifest: CheckpointManifest, earlier: Mapping[str, CheckpointManifest], compared: ComparedModels
    ) -> WindowModel:
        """As `models.Models`: a window begins, with all its starts before it."""
        self._wanted = _Wanted(manifest, dict(earlier), compared)
        self._failed_starts = 0
        kept = {manifest.digest, *(one.digest for one in earlier.values())}
        self._folders = {digest: folder for digest, folder in self._folders.items() if digest in kept}
        key = (self.at(manifest), manifest.thinking_mode)
        self._renderers = {key: self._renderers.get(key) or PromptRenderer(*key)}
        child = self._loaded()
        assert child.facts is not None
        return WindowModel(self._renderers[key], child.facts, partial(self._work, child.facts))

    def _work(self, facts: ModelFacts) -> _Work:
        self._loaded()
        return _Work(self, facts)

    def close(self) -> None:
        """End the child. Nothing is left of it."""
        if self._child is not None:
            self._child.handle.end()
            self._child = None

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- a child that can work ------------------------------------------------------------------------------------------

    @property
    def names(self) -> AlternativeNames:
        """Of what rows are compared with."""
        return self._loaded().names

    def _loaded(self) -> _Child:
        return self._attempts(self._loaded_child)

    def _attempts(self, make: Callable[[], _Child]) -> _Child:
        """The child in the state that `make` brings it to; one that ends on the way there is replaced.

        Raises:
            CheckpointError, StorageError, ConfigurationError: as the child said.
            MachineFaultError: too many ended.
        """
        while self._failed_starts < MAX_FAILED_STARTS:
            try:
                return make()
            except FrameError as error:
                self._failed_starts += 1
                why = self._gone(str(error))
            except MachineFaultError as error:
                self._failed_starts += 1
                why = error.what
                self.close()
            log.event("model_process_not_started", reason=why, of=MAX_FAILED_STARTS, failed=self._failed_starts)
            if self._failed_starts == MAX_FAILED_STARTS:
                log.error("no model process could be started %d times: nothing to judge with (%s)", MAX_FAILED_STARTS, why)
        raise MachineFaultError(
            f"nothing to judge with: {MAX_FAILED_STARTS} model processes of this window ended before they had any work",
            hint="look for free memory and at the device; the next window tries again",
        )

    def _ready_child(self) -> _Child:
        self.start()
        child = self._child
        assert child is not None
        if not child.ready:
            frame = child.handle.first_word(child.handle.started + START_SECONDS)
            if frame.kind is Kind.FAULT:
                self.close()
                raise _error_of(frame.json())
            if frame.kind is not Kind.READY:
                raise FrameError("said something else than that it is ready")
            child.ready = True
            log.event("model_process_ready", pid=child.handle.pid, seconds=round(time.monotonic() - child.handle.started, 3))
        return child

    def _loaded_child(self) -> _Child:
        wanted = self._wanted
        if self._child is not None and self._child.loaded is not None and not self._child.handle.lives:
            self._gone("ended while it had nothing to do")  # which costs nobody anything but the start of another
        child = self._ready_child()
        if wanted is None or child.loaded == wanted:
            return child
        # One after the other: a cache that holds no two checkpoints gives one up for the next.
        for name, one in wanted.earlier.items():
            try:
                self._hold(child, one, wanted)
            except DiskFullError:
                raise
            except (CheckpointError, StorageError) as error:  # it was there when the window began, and this is another child
                log.event("alternative_unavailable", alternative=name, reason=error.what)
        self._hold(child, wanted.manifest, wanted)
        told = {
            "digest": wanted.manifest.digest.hex(),
            "earlier": {name: one.digest.hex() for name, one in wanted.earlier.items()},
            "compared": vars(wanted.compared),
            "policy": vars(wanted.manifest.policy),
        }
        frame = self._loading(child, Kind.LOAD, told, 0)
        child.facts, child.names, missing = _loaded_of(frame)
        child.loaded = wanted
        for name, reason in missing.items():
            # Evidence says which alternatives were measured, so a missing one weakens the check and hides nothing.
            log.event("alternative_unavailable", alternative=name, reason=reason)
        return child

    def _hold(self, child: _Child, manifest: CheckpointManifest, wanted: _Wanted) -> None:
        folder = self.at(manifest)
        told = {
            "digest": manifest.digest.hex(),
            "folder": str(folder),
            "wanted": [one.digest.hex() for one in (wanted.manifest, *wanted.earlier.values())],
            "dispensable": manifest.digest != wanted.manifest.digest,
        }
        frame = self._loading(child, Kind.HOLD, told, sum(path.stat().st_size for path in folder.iterdir()))
        if frame.kind is not Kind.HELD:
            raise FrameError(f"gave {frame.kind.name} in place of {Kind.HELD.name}")

    def _loading(self, child: _Child, kind: Kind, told: Mapping[str, Any], size: int) -> Frame[Kind]:
        deadline = time.monotonic() + LOAD_SECONDS + size / LEAST_LOAD_BYTES_PER_SECOND
        frame = child.handle.ask(kind, frames.pack(told), deadline, largest=frames.MAX_TEXT_BYTES)
        if frame.kind is Kind.FAULT:
            raise _error_of(frame.json())
        return frame

    def _gone(self, why: str) -> str:
        """End the child that `why` tells of, and say how it ended."""
        child, self._child = self._child, None
        if child is None:
            return f"the model process {why}"
        last = child.handle.last_line()
        code = child.handle.end(dying=why.startswith("ended"))
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with code {code}"
        log.event("model_process_replaced", reason=f"{why}{how}", said=last)
        return f"the model process {why}{how}"

    # --- one job --------------------------------------------------------------------------------------------------------

    def job(
        self, kind: Kind, payload: list[bytes | memoryview], seconds: float, *, tokens: int, answer: Kind, size: int
    ) -> memoryview:
        """The payload of the child's answer.

        Args:
            seconds: that are left to its file. tokens: of the forward passes it takes. size: of the answer, in bytes.

        Raises:
            OutOfTimeError: its file's time is over before it can be done, or was before it was: only then the child is gone.
            MachineFaultError: there is no answer. The child is gone too.
        """
        child = self._loaded()
        assert child.facts is not None
        paced = kind, child.facts
        if tokens * self._pace.get(paced, 0.0) > seconds:
            raise OutOfTimeError("the time for one file's checks is over before a forward pass can be done", hint=_SLOW)
        begun = time.monotonic()
        until = begun + min(JOB_SECONDS + tokens / LEAST_TOKENS_PER_SECOND, seconds)
        over = begun + seconds
        try:
            largest = max(size, frames.MAX_TEXT_BYTES)
            frame = child.handle.ask(kind, payload, until, largest=largest)
            if frame.kind is not Kind.FAULT and (frame.kind is not answer or len(frame.payload) != size):
                raise FrameError(f"gave {len(frame.payload)} bytes of {frame.kind.name} in place of {size} of {answer.name}")
            fault = frame.json() if frame.kind is Kind.FAULT else None
        except FrameError as error:
            late = time.monotonic() >= over
            told = self._gone(str(error))
            if late:
                raise OutOfTimeError("the time for one file's checks was over during a forward pass", hint=_SLOW) from error
            raise MachineFaultError(told, hint="it is replaced; the operator's log has what it said") from error
        if fault is not None:
            self.close()  # a device that failed once fails again in that process, and memory may be in pieces
            raise _error_of(fault)
        self._pace[paced] = min(self._pace.get(paced, math.inf), (time.monotonic() - begun) / max(1, tokens))
        return frame.payload

    def refuse(self, error: FrameError) -> NoReturn:
        """An answer of the right length that is none."""
        raise MachineFaultError(self._gone(str(error))) from error


class _Work:
    """`ModelWork` of one window."""

    def __init__(self, process: ModelProcess, facts: ModelFacts) -> None:
        self.facts = facts
        self._process = process

    def measure(
        self,
        batch: Sequence[ProofRow],
        signs: Projections,
        policy: GenerationPolicy,
        seconds: float = math.inf,
        proof_class: str | None = None,
        *,
        reference: bool = True,
    ) -> MeasuredBatch:
        payload = self._process.job(
            Kind.MEASURE,
            frames.ask_about(AskedRows(batch, signs, policy, proof_class, reference)),
            seconds,
            tokens=(_PASSES_OF_MEASURING if reference else 1) * forward_tokens([len(row.tokens) for row in batch]),
            answer=Kind.MEASURED,
            size=frames.measured_bytes(batch, reference=reference),
        )
        try:
            return frames.measured_of(payload, batch, reference=reference)
        except FrameError as error:
            self._process.refuse(error)

    def compare(
        self,
        rows: Sequence[ProofRow],
        signs: Projections,
        policy: GenerationPolicy,
        seconds: float = math.inf,
        proof_class: str | None = None,
        *,
        asked: AskedAlternatives | None = None,
    ) -> list[ComparedRollout]:
        names, lengths = self._process.names.only(asked), [len(row.tokens) for row in rows]
        batches = [lengths[at : at + PROOF_BATCH_SIZE] for at in range(0, len(lengths), PROOF_BATCH_SIZE)]
        payload = self._process.job(
            Kind.COMPARE,
            frames.ask_about(AskedRows(rows, signs, policy, proof_class, compared=asked)),
            seconds,
            tokens=(_PASSES_OF_MEASURING + len(names.weights)) * sum(map(forward_tokens, batches)),
            answer=Kind.COMPARED,
            size=compared_bytes(rows, names),
        )
        try:
            return compared_of(payload, rows, names, self.facts.vocabulary_size)
        except FrameError as error:
            self._process.refuse(error)


def _loaded_of(frame: Frame[Kind]) -> tuple[ModelFacts, AlternativeNames, dict[str, str]]:
    """Raises FrameError: it does not say what was loaded."""
    if frame.kind is not Kind.LOADED:
        raise FrameError(f"gave {frame.kind.name} in place of {Kind.LOADED.name}")
    told: dict[str, Any] = frame.json()
    try:
        facts = ModelFacts(
            numerics_class=str(told["facts"]["numerics_class"]),
            **{name: int(told["facts"][name]) for name in ("layers", "hidden_size", "vocabulary_size", "context_length")},
        )
        names = AlternativeNames.told(*(tuple(str(name) for name in told[kind]) for kind in ("weights", "sampled")))
        return facts, names, {str(name): str(reason) for name, reason in told["missing"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FrameError("did not say what it loaded") from error
