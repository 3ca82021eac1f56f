"""`Generator` in this process: `hf` over whatever model is loaded here, for small models and machines without an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from grail_core.errors import EngineError
from grail_core.generation.base import Drawn, GenerationRequest, ServedWeights
from grail_core.generation.hf import HfGenerator
from grail_core.model.memory import free_memory, is_exhausted
from grail_core.model.policy_model import PolicyModel


class InProcessGenerator:
    """Draws with the model of the `ServedWeights`, which nobody may change while something is drawn.

    Args:
        class_of: the numerics class of a loaded model (`grail_core.proof.numerics.numerics_class_of`).
        batch_rows: as `HfGenerator`.
    """

    def __init__(self, class_of: Callable[[PolicyModel], str], batch_rows: int = 512) -> None:
        self._class_of = class_of
        self._batch_rows = batch_rows
        self._serving: tuple[str, str, HfGenerator] | None = None  # version, numerics class
        self._closed = False

    @property
    def numerics_class(self) -> str:
        return self._current()[1]

    @property
    def version(self) -> str | None:
        return None if self._serving is None else self._serving[0]

    def serve(self, weights: ServedWeights) -> None:
        """As `Generator`. Raises: EngineError without a model; CheckpointError for one that is not decoded here."""
        self._serving = None
        if weights.model is None:
            raise EngineError(
                "generation in this process needs the weights in this process",
                where=str(weights.folder),
                hint="load the checkpoint here, or generate with an engine (GRAIL_PIPELINE_BACKEND)",
            )
        generator = HfGenerator(weights.model, weights.policy, weights.end_tokens, self._batch_rows)
        self._serving = weights.version, self._class_of(weights.model), generator

    def distrust(self) -> None:
        self._serving = None

    def generate(self, requests: Sequence[GenerationRequest], cancelled: Callable[[], bool]) -> Iterator[Drawn]:
        """As `Generator`; rows that are finished are yielded between two steps."""
        generator = self._current()[2]
        try:
            yield from generator.stream(requests, lambda: self._closed or cancelled())
        except (MemoryError, RuntimeError) as error:
            if not is_exhausted(error):
                raise
            told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            free_memory()
            raise EngineError(
                f"this machine ran out of memory while it generated: {told}",
                where=f"{len(requests)} completions at a time",
                hint="fewer groups in a batch (--batch), or a device with more memory",
            ) from error

    def close(self) -> None:
        self._closed = True
        self._serving = None

    def _current(self) -> tuple[str, str, HfGenerator]:
        if self._serving is None:
            raise EngineError("no weights are served yet", hint="serve a checkpoint's weights first")
        return self._serving
