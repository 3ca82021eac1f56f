"""A node's models that wait to be let through, a step at a time, and some of whose prompts fail: for what comes when."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from grail_core.generation.hf_streaming import HfStreaming
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof
from grail_core.proof.errors import UnprovableError
from grail_core.protocol.policy import GenerationPolicy
from grail_miner.serving.models import Drawn, HfModels, NewRow, RowId, ToProve
from tooling.testing.serving_node import PATIENCE_S


class GatedModels(HfModels):
    """Each burst is a step, and waits until it is let through; prompts of some lengths fail."""

    def __init__(self) -> None:
        super().__init__(burst_seconds=0.0)
        self.begun = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.bursts: list[tuple[int, int]] = []  # rows that came, and rows that left
        self.running: dict[RowId, tuple[int, ...]] = {}
        self.fails: dict[int, BaseException] = {}  # by a prompt's length
        self.unprovable: set[int] = set()
        self.failed_with: list[list[int]] = []

    def advance(self, rows: Sequence[NewRow], cancelled: Sequence[RowId], stopped: Sequence[RowId] = ()) -> list[Drawn]:
        self.bursts.append((len(rows), len(cancelled)))
        self.begun.release()
        assert self.open.acquire(timeout=PATIENCE_S)
        self.running |= {row.id: row.request.prompt for row in rows}
        for one in (*cancelled, *stopped):
            self.running.pop(one, None)
        for length, error in self.fails.items():
            if any(len(prompt) == length for prompt in self.running.values()):
                self.failed_with.append(sorted(map(len, self.running.values())))
                self._rows.clear()
                self._ids.clear()
                self.running.clear()
                model, _ = next(iter(self._held.values()))
                self._held = dict.fromkeys(self._held, (model, _fresh(model)))
                raise error
        drawn = super().advance(rows, cancelled, stopped)
        for moved in drawn:
            if moved.finished:
                del self.running[moved.id]
        return drawn

    def prove(self, job: ToProve) -> list[RolloutProof]:
        if len(job.prompt) in self.unprovable:
            raise UnprovableError("a hidden state is zero")
        return super().prove(job)

    def wait_for_burst(self) -> None:
        assert self.begun.acquire(timeout=PATIENCE_S)


def _fresh(model: PolicyModel) -> HfStreaming:
    return HfStreaming(model, GenerationPolicy(64), frozenset())
