"""What a model refuses before it computes anything: tokens it has no embedding for, rows longer than its context, and a
folder that is not there."""

from __future__ import annotations

from pathlib import Path

from grail_core.errors import CheckpointError, GrailError
from grail_core.text import printable


class ProofError(GrailError):
    """Something in a proof, or on the way to one, cannot be used."""


class OutOfVocabularyError(ProofError):
    """A token id that the model has no embedding for; refused before it reaches the model."""


class OverlongSequenceError(ProofError):
    """A row of more tokens than the model's context."""


_MOST_NAMED = 3


def no_model_folder(folder: Path) -> CheckpointError:
    """What is said where a folder is not there: the model folders beside it, if there are some."""
    try:
        beside = sorted(path.name for path in folder.parent.iterdir() if (path / "config.json").is_file())
    except OSError:
        beside = []
    if beside:
        named = ", ".join(printable(name, 64) for name in beside[-_MOST_NAMED:])
        hint = f"model folders beside it: {named}"
    else:
        hint = (
            "name a folder with config.json and weights; `grail checkpoint export WINDOW DIR` writes a network's, "
            "`grail-trainer init` makes a tiny one"
        )
    return CheckpointError("no such model folder", where=str(folder), hint=hint)
