"""What is collected, on disk: texts with claims, and what a validator measured of texts. One npz file a step.

Claims are kept whole (every position), measurements in the form of `proof.work`, so that statistics are judged anew without a
run of any model. Columns are ragged: the rollouts' arrays laid end to end, and how long each is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from grail_core.proof.batch import RolloutProof
from grail_core.proof.work import ComparedRollout, Leads, ReferenceMeasurement, RolloutMeasurement
from tooling.adversaries.deviations.observation import Rollout

Column = Sequence[npt.NDArray[Any]]
_FIELDS = ("z", "logprobs", "margins")
_REFERENCE = ("z", "logprobs", "margins", "twins", "noise", "spread")
_LEADS = ("own", "other", "rival")


@dataclass(frozen=True)
class Told:
    """Rollouts as a file holds them, and what the miner claims of each."""

    rollouts: Sequence[Rollout]
    claims: Sequence[RolloutProof]


def save_told(path: Path, told: Told) -> None:
    _save(
        path,
        {
            "tokens": [np.asarray(one.tokens, np.int32) for one in told.rollouts],
            "place": [np.array([one.group, one.rollout, one.prompt_length], np.int32) for one in told.rollouts],
            "words": [np.frombuffer(claim.sketches, "<i2") for claim in told.claims],
            "logprobs": [np.asarray(claim.logprobs, np.float32) for claim in told.claims],
        },
    )


def load_told(path: Path) -> Told:
    columns = _load(path)
    rollouts = [
        Rollout(int(place[0]), int(place[1]), tuple(tokens.tolist()), int(place[2]))
        for tokens, place in zip(columns["tokens"], columns["place"], strict=True)
    ]
    pairs = zip(columns["words"], columns["logprobs"], strict=True)
    return Told(rollouts, [RolloutProof(words.tobytes(), logprobs) for words, logprobs in pairs])


def save_measured(path: Path, measured: Sequence[RolloutMeasurement]) -> None:
    columns: dict[str, Column] = {"positions": [np.array(one.positions, np.int32) for one in measured]}
    columns |= {name: [getattr(one, name) for one in measured] for name in _FIELDS}
    columns |= {f"reference {name}": [getattr(one.reference, name) for one in measured] for name in _REFERENCE}
    _save(path, columns)


def load_measured(path: Path) -> list[RolloutMeasurement]:
    columns = _load(path)
    beside = (columns[f"reference {name}"] for name in _REFERENCE)
    references = [ReferenceMeasurement(*parts) for parts in zip(*beside, strict=True)]
    return [
        RolloutMeasurement(tuple(positions.tolist()), z, logprobs, margins, reference)
        for positions, z, logprobs, margins, reference in zip(
            columns["positions"], *(columns[name] for name in _FIELDS), references, strict=True
        )
    ]


def save_compared(path: Path, compared: Sequence[ComparedRollout]) -> None:
    """All of them under the same alternatives."""
    columns: dict[str, Column] = {"positions": [np.array(one.positions, np.int32) for one in compared]}
    columns |= {name: [getattr(one, name) for one in compared] for name in ("noise", "spread")}
    columns |= {f"z of {name}": [one.z[name] for one in compared] for name in compared[0].z}
    for name in compared[0].leads:
        columns |= {f"{part} of {name}": [getattr(one.leads[name], part) for one in compared] for part in _LEADS}
    _save(path, columns)


def load_compared(path: Path) -> list[ComparedRollout]:
    columns = _load(path)
    weights = [name.removeprefix("z of ") for name in columns if name.startswith("z of ")]
    led = [name.removeprefix("rival of ") for name in columns if name.startswith("rival of ")]
    return [
        ComparedRollout(
            tuple(positions.tolist()),
            {name: columns[f"z of {name}"][i] for name in weights},
            {name: Leads(*(columns[f"{part} of {name}"][i] for part in _LEADS)) for name in led},
            columns["noise"][i],
            columns["spread"][i],
        )
        for i, positions in enumerate(columns["positions"])
    ]


def _save(path: Path, columns: Mapping[str, Column]) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, column in columns.items():
        arrays[name] = np.concatenate(column)
        arrays[f"{name}#"] = np.array([len(one) for one in column], np.int64)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> dict[str, list[npt.NDArray[Any]]]:
    with np.load(path) as data:
        return {name: np.split(data[name], np.cumsum(data[f"{name}#"])[:-1]) for name in data.files if not name.endswith("#")}
