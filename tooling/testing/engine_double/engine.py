"""The engine of the double: rows are admitted at any time, a step draws one token of each, weights change between steps.

One thread decodes. Rows of one step are computed one by one, so that a row's tokens do not depend on its neighbours; each has
its keys and values, and those of prompts outlive their request in a prefix cache that only a flush empties. What a real
engine gets wrong when it is used wrongly goes wrong here too: weights that change under a running row, or under the cached
beginning of a new one, leave a row that is of no checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from grail_core.model.policy_model import PolicyModel
from tooling.testing.engine_double.drawing import draw, log_probability
from tooling.testing.engine_double.requests import Request
from tooling.testing.engine_double.setup import EngineSetup
from tooling.testing.engine_double.weights import apply, digest_of, read_weights

T = TypeVar("T")
_CACHED_PROMPTS = 64


@dataclass(frozen=True)
class Event:
    """One line of the trace. `at`: seconds of this machine's monotonic clock; `steps`: of the engine by then."""

    what: str  # admitted, finished, aborted, frozen, thawed, updated, labelled, flushed, step
    at: float
    steps: int
    who: str = ""
    rows: int = 0  # decoded in this step


class Pace:
    """How fast the engine goes: freely, or as many steps as a test allows; read and changed under the engine's lock."""

    def __init__(self) -> None:
        self.allowed: int | None = None  # steps; None: as many as there are
        self.seconds_per_step = 0.0


class Engine:
    """Decodes in a thread of its own until `close`. Methods may be called from any other thread.

    Attributes:
        changed: the lock, notified whenever something below changed.
        dies: what a fault of this process does; set by who runs the engine.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self.setup = setup
        self.model = PolicyModel.load(setup.folder, dtype=setup.dtype)
        self.context = min(self.model.context_length, setup.context or self.model.context_length)
        self.label = setup.label
        self.changed = threading.Condition()
        self.pace = Pace()
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.finished: list[Request] = []  # the last 256
        self.frozen = False
        self.asleep = False
        self.steps = 0
        self.trace: deque[Event] = deque(maxlen=100_000)
        self.dies: Callable[[], None] = lambda: None
        self._released: set[int] = set()  # held requests (by identity) that may go on
        self._held_until: dict[int, float] = {}
        self._prefixes: OrderedDict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = OrderedDict()
        self._commands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine-double", daemon=True)
        self._thread.start()

    # What others do to it.

    def submit(self, *requests: Request) -> None:
        """Rows to be decoded, in this order.

        Raises:
            EngineStoppedError: it has been closed, and would never come to them.
        """
        with self.changed:
            if self._closing:
                raise EngineStoppedError("the engine has stopped")
            for request in requests:
                request.generator = np.random.default_rng(request.sampling.seed)
                if request.fault is not None and request.fault.kind == "slow_first_token":
                    wait_s = request.fault.seconds or float("inf")
                    self._held_until[id(request)] = time.monotonic() + wait_s
                self.waiting.append(request)
            self.changed.notify_all()

    def release(self) -> None:
        """Rows that a fault holds back may begin."""
        with self.changed:
            self._held_until.clear()
            self.changed.notify_all()

    def abort(self, chosen: Callable[[Request], bool]) -> int:
        """End the chosen rows; returns how many. SGLang's running rows end after one more step, vLLM's at once."""
        with self.changed:
            hit = [request for request in (*self.waiting, *self.running) if chosen(request)]
            for request in hit:
                if self.setup.flavour == "sglang" and request in self.running:
                    request.aborting = True
                else:
                    message = "Abort in waiting queue" if request in self.waiting else "Aborted"
                    self._finish(request, "abort", message=message)
            self.changed.notify_all()
            return len(hit)

    def freeze(self) -> None:
        """No step from now on; one that runs is finished first."""
        self.between(lambda: self._set_frozen(True))

    def thaw(self) -> None:
        self.between(lambda: self._set_frozen(False))

    def retract(self) -> None:
        """Running rows forget their keys and values and wait again; call while frozen."""
        self.between(self._retract)

    def flush(self) -> bool:
        """Forget cached prompts; False, and nothing is forgotten, while rows run, or wait unless frozen."""
        return self.between(self._flush)

    def load(self, folder: Path, *, share: float = 1.0) -> None:
        """Take these weights in place, or the first `share` of them.

        Raises:
            CheckpointError: they cannot be read or do not fit; the model is untouched.
        """
        self.between(lambda: self._load(folder, share))

    def relabel(self, label: str) -> None:
        """Call the weights in use something else. Running rows remember under which label their tokens were drawn."""
        self.between(lambda: self._relabel(label))

    def digest(self) -> str:
        """Of the weights that are really in use, 64 hex digits."""
        return self.between(lambda: digest_of(self.model))

    def between(self, action: Callable[[], T]) -> T:
        """Run an action between two steps, in the engine's thread; from that thread itself, at once."""
        if threading.current_thread() is self._thread:
            return action()
        future: Future[T] = Future()
        with self.changed:
            if self._closing:
                raise EngineStoppedError("the engine has stopped")
            self._commands.append((action, future))
            self.changed.notify_all()
        return future.result()

    def until(self, what: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until something is so, looked at whenever the engine did anything.

        Raises:
            TimeoutError: it never was.
        """
        with self.changed:
            if not self.changed.wait_for(what, timeout_s):
                raise TimeoutError(f"not so after {timeout_s:g} s and {self.steps} steps")

    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def hold(self, steps: int = 0) -> None:
        """Make so many steps more, and then none until `allow` or `run_freely`."""
        with self.changed:
            self.pace.allowed = steps
            self.changed.notify_all()

    def allow(self, steps: int) -> None:
        with self.changed:
            self.pace.allowed = (self.pace.allowed or 0) + steps
            self.changed.notify_all()

    def run_freely(self) -> None:
        with self.changed:
            self.pace.allowed = None
            self.changed.notify_all()

    def close(self) -> None:
        """End every row as aborted, and the thread. May be called twice."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # What its thread does.

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(self._has_work, self._patience())
                if self._closing:
                    self._end()
                    return
                commands = [self._commands.popleft() for _ in range(len(self._commands))]
                rows = [] if commands else self._admitted()
                if rows and self.pace.allowed is not None:
                    self.pace.allowed -= 1
            for action, future in commands:
                with self.changed:
                    _resolve(future, action)
                    self.changed.notify_all()
            if not rows:
                continue
            drawn = [(request, *self._next(request)) for request in rows]
            if self.pace.seconds_per_step:
                time.sleep(self.pace.seconds_per_step)
            with self.changed:
                self.steps += 1
                self._note("step", rows=len(rows))
                for request, token, logprob in drawn:
                    self._accept(request, token, logprob)
                self.changed.notify_all()
            for request in rows:
                fault = request.fault
                if fault is not None and fault.kind == "dies_in_generation" and len(request.tokens) >= fault.tokens:
                    self.dies()

    def _has_work(self) -> bool:
        if self._closing or self._commands:
            return True
        if self.frozen or self.asleep or self.pace.allowed == 0:
            return False
        return any(map(self._can_go, (*self.waiting, *self.running)))

    def _patience(self) -> float | None:
        due = [moment - time.monotonic() for moment in self._held_until.values() if moment != float("inf")]
        return max(0.0, min(due)) if due else None

    def _can_go(self, request: Request) -> bool:
        if self._held_until.get(id(request), 0.0) > time.monotonic():
            return False
        fault = request.fault
        stalled = fault is not None and fault.kind == "stall" and len(request.tokens) >= fault.tokens
        return request.aborting or not stalled

    def _admitted(self) -> list[Request]:
        if self.frozen or self.asleep or self.pace.allowed == 0:
            return []
        for request in list(self.waiting):
            if len(self.running) >= self.setup.max_num_seqs:
                break
            if self._can_go(request):
                self.waiting.remove(request)
                self._held_until.pop(id(request), None)
                self.running.append(request)
                self._note("admitted", request.name)
        return [request for request in self.running if self._can_go(request)]

    def _next(self, request: Request) -> tuple[int, float]:
        """One step of one row: what is not in its cache goes through the model, and the next token is drawn."""
        from transformers import DynamicCache

        cache = request.cache  # an abort by another thread takes it from the request while this step runs
        if cache is None:
            request.cache = cache = DynamicCache()
            request.in_cache = 0
            if not request.tokens:
                self._prefill(request, cache)
        row = (*request.prompt, *request.tokens)
        hidden = self._forward(request, cache, row[request.in_cache :])
        logits = self.model.logits(hidden).cpu().numpy()[0]
        clone = request.fault is not None and request.fault.kind == "clones"
        token = draw(logits, request, deterministic=self.setup.deterministic, clone=clone)
        forced = self.setup.flavour == "sglang" and request.sampling.keys is not None  # its processor leaves one token
        return token, (0.0 if forced else log_probability(logits, token)) if request.sampling.logprobs else 0.0

    def _prefill(self, request: Request, cache: Any) -> None:
        """Keys and values of the prompt but for its last token, from the prefix cache where it has them."""
        start = request.prompt[:-1]
        if not start:
            return
        known = self._prefixes.get(start) if self.setup.prefix_caching else None
        if known is None:
            self._forward(request, cache, start)
            if self.setup.prefix_caching:
                self._prefixes[start] = [(layer.keys, layer.values) for layer in cache.layers]
                while len(self._prefixes) > _CACHED_PROMPTS:
                    self._prefixes.popitem(last=False)
            return
        for index, (keys, values) in enumerate(known):
            cache.update(keys, values, index)
        request.in_cache = request.cached_tokens = len(start)

    def _forward(self, request: Request, cache: Any, tokens: tuple[int, ...]) -> torch.Tensor:
        """The hidden state [1, d] after these tokens of a row, which join its cache."""
        size = self.model.vocabulary_size
        if not 0 <= min(tokens) <= max(tokens) < size:
            print(f"token ids {min(tokens)} to {max(tokens)}, vocabulary of {size}: device-side assert triggered", flush=True)
            self.dies()  # neither engine survives it
            raise EngineStoppedError("an id outside the vocabulary went into the embedding")
        positions = torch.arange(request.in_cache, request.in_cache + len(tokens))[None]
        out = self.model.base(input_ids=torch.tensor([tokens]), position_ids=positions, past_key_values=cache, use_cache=True)
        request.in_cache += len(tokens)
        state: torch.Tensor = out.last_hidden_state[:, -1]
        return state

    def _accept(self, request: Request, token: int, logprob: float) -> None:
        if request.finish is not None:
            return  # aborted while the step ran
        request.tokens.append(token)
        request.logprobs.append(logprob)
        if request.aborting:
            self._finish(request, "abort", message="Aborted")
        elif token in request.sampling.stop and len(request.tokens) > request.sampling.min_tokens:
            self._finish(request, "stop", matched=token)
        elif len(request.tokens) >= request.sampling.limit:
            self._finish(request, "length")

    def _finish(
        self, request: Request, kind: Literal["stop", "length", "abort"], *, matched: int | None = None, message: str = ""
    ) -> None:
        request.finish, request.matched, request.message = kind, matched, message
        request.last_label = self.label
        request.cache = None
        self._held_until.pop(id(request), None)
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self.finished = [*self.finished[-255:], request]
        self._note("aborted" if kind == "abort" else "finished", request.name)

    def _set_frozen(self, frozen: bool) -> None:
        if self.frozen != frozen:
            self.frozen = frozen
            self._note("frozen" if frozen else "thawed")

    def _retract(self) -> None:
        for request in reversed(self.running):
            request.cache, request.in_cache = None, 0
            request.retractions += 1
            self.waiting.appendleft(request)
        self.running.clear()

    def _flush(self) -> bool:
        if self.running or (self.waiting and not self.frozen):
            return False
        self._prefixes.clear()
        self._note("flushed")
        return True

    def _load(self, folder: Path, share: float) -> None:
        tensors = read_weights(folder, self.model)
        apply(self.model, tensors, share)
        self._note("updated", folder.name)

    def _relabel(self, label: str) -> None:
        if label == self.label:
            return
        for request in (*self.running, *self.waiting):
            if request.tokens:
                request.label_changes.append((self.label, len(request.tokens)))
        self.label = label
        self._note("labelled", label)

    def _end(self) -> None:
        for request in (*self.waiting, *self.running):
            self._finish(request, "abort", message="the engine has stopped")
        while self._commands:
            self._commands.popleft()[1].set_exception(EngineStoppedError("the engine has stopped"))
        self.changed.notify_all()

    def _note(self, what: str, who: str = "", rows: int = 0) -> None:
        self.trace.append(Event(what, time.monotonic(), self.steps, who, rows))


class EngineStoppedError(RuntimeError):
    """The double was closed, or died of a fault."""


def _resolve(future: Future[Any], action: Callable[[], Any]) -> None:
    try:
        future.set_result(action())
    except Exception as error:  # noqa: BLE001 - whoever asked for it is told
        future.set_exception(error)
