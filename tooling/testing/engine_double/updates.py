"""One weight update as either engine carries it out, with the faults that are told of it."""

from __future__ import annotations

from pathlib import Path

from grail_core.errors import CheckpointError
from tooling.testing.engine_double.engine import Engine
from tooling.testing.engine_double.faults import Fault


def update_with(engine: Engine, folder: str, fault: Fault | None) -> None:
    """Load the folder into the engine, or what the fault leaves of that. Call between two steps.

    Raises:
        CheckpointError: the engine says that it did not.
    """
    kind = fault.kind if fault is not None else None
    if kind == "update_refused":
        raise CheckpointError("the file could not be opened", where=folder)
    if kind == "label_only":
        return
    if kind in ("update_torn", "update_torn_silently", "dies_in_update"):
        engine.load(Path(folder), share=0.5)
        if kind == "dies_in_update":
            engine.dies()
        if kind != "update_torn_silently":
            raise CheckpointError("a tensor could not be copied", where=folder)
        return
    engine.load(Path(folder))
