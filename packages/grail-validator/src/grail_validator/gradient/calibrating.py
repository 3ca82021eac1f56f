"""`calibrate --work gradient`: how far honest replays lie from a validator's own gradient, on this machine and checkpoint.

Rounds are trained as a miner trains them, with random seeds, UIDs and batch sizes; every inner step of them is opened on drawn
chunks and measured as a validator measures it, in the ways in which two honest machines of a class may differ: micro-batches
and attention. It reports, and changes nothing: the bound is a constant of the software, and where it is enforced follows from
the model's size (`proof.replay.SHIPPED`). Another kind of machine is not in it: whoever has two compares their figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
from rich.table import Table

from grail_core.checkpoints.cached import read_checkpoint
from grail_core.corpus import Corpus
from grail_core.errors import ConfigurationError
from grail_core.gradient.layout import Layout, StateArrays
from grail_core.participant.deployment import network_parameters
from grail_core.participant.round_models import float32_weights
from grail_core.participant.settings import Settings
from grail_core.proof.inner import Trained, train_round
from grail_core.proof.replay import SHIPPED, OpenedChunk, OpenedStep, judge, measure
from grail_core.proof.trained_model import I32, TrainedModel
from grail_core.protocol.gradient import challenge as draws
from grail_core.protocol.gradient.assignment import Assignment
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.reading import Json
from grail_core.protocol.types import Digest
from grail_core.telemetry.console import PlainConsole
from grail_core.telemetry.progress import progress
from grail_envs.corpus.opening import corpus_of

LEAST_REPLAYS: Final = 1000
"""Honest replays from which a bound may be enforced for a class pair and size."""
FALSE_REJECTS: Final = 1e-6
_NORMAL_TAIL: Final = 4.753424
"""Standard deviations that a normal variable exceeds with that probability."""
_UIDS: Final = 64


@dataclass(frozen=True)
class Way:
    """One way of measuring. `values`: of the gradient statistic, one a replay, in the same order for every way."""

    name: str
    values: tuple[float, ...]

    @property
    def tail(self) -> float:
        """What honest work exceeds with probability FALSE_REJECTS, by a log-normal fit whose spread is taken two of its own
        standard errors too wide. No number of replays shows a normal tail so far out: it is an assumption, and is told."""
        logs = np.log(np.maximum(self.values, 1e-12))
        spread = float(logs.std(ddof=1)) * (1 + 2 / math.sqrt(2 * (len(logs) - 1)))
        return math.exp(float(logs.mean()) + _NORMAL_TAIL * spread)


@dataclass(frozen=True)
class ReplayFigures:
    """What came out. `arithmetic`: honest steps whose other statistics rejected, which nothing honest does."""

    parameters: int
    compute: str
    ways: tuple[Way, ...]
    arithmetic: int

    @property
    def replays(self) -> int:
        return len(self.ways[0].values)

    @property
    def dead_zone(self) -> float:
        """The calibration's own error: how far the worst way's mean lies above the average way's."""
        means = [float(np.mean(way.values)) for way in self.ways]
        return max(means) - sum(means) / len(means)

    @property
    def threshold(self) -> float:
        return max(way.tail for way in self.ways) + self.dead_zone

    @property
    def enforceable(self) -> bool:
        return self.replays >= LEAST_REPLAYS and not self.arithmetic and self.threshold <= SHIPPED.gradient

    def to_json(self) -> dict[str, Json]:
        ways: list[Json] = []
        for way in self.ways:
            quantiles: list[Json] = [f"{float(q):.6g}" for q in np.quantile(way.values, (0.5, 0.9, 0.99, 1))]
            ways.append({"name": way.name, "p50_p90_p99_max": quantiles, "tail": f"{way.tail:.6g}"})
        return {
            "replays": self.replays,
            "parameters": self.parameters,
            "compute": self.compute,
            "ways": ways,
            "dead_zone": f"{self.dead_zone:.6g}",
            "threshold": f"{self.threshold:.6g}",
            "bound": f"{SHIPPED.gradient:g}",
            "enforced_now": self.parameters <= SHIPPED.parameters,
            "enforceable": self.enforceable,
            "arithmetic_rejects": self.arithmetic,
        }

    def lines(self) -> Iterator[str]:
        """For a person, below the table of ways."""
        now = "enforced" if self.parameters <= SHIPPED.parameters else "reported alone"
        yield f"with the dead zone of {self.dead_zone:.2g} honest work stays below {self.threshold:.4g} but for 1 in a million"
        yield f"the bound is {SHIPPED.gradient:g}; for {self.parameters} parameters it is {now}"
        if self.arithmetic:
            yield f"{self.arithmetic} honest steps fail the optimiser's arithmetic: this machine rounds otherwise"
        elif self.replays < LEAST_REPLAYS:
            yield f"{self.replays} replays decide nothing: {LEAST_REPLAYS} are asked for, give --count"
        elif self.enforceable:
            yield "it could be enforced here, if the fitted tail is believed"
        else:
            yield "it could not be enforced here: honest work would be rejected more often than 1 in a million"


def calibrate_replays(
    settings: Settings, folders: Sequence[Path], count: int, out: Path | None, *, as_json: bool
) -> ReplayFigures:
    """Measure, print, and write the figures.

    Args:
        folders: one checkpoint of gradient work with its manifest. count: replays.

    Raises:
        ConfigurationError: not one folder, or none of the network's gradient work.
        CheckpointError, EnvironmentUnavailableError: as whoever opens checkpoint and corpus.
    """
    if len(folders) != 1:
        raise ConfigurationError("replays are calibrated on one checkpoint at a time", where="--model")
    found = read_checkpoint(folders[0], network_parameters(settings).trainer_hotkey)
    try:
        spec = GradientSpec.of(found.manifest.environment)
    except ValueError as error:
        raise ConfigurationError(f"no checkpoint of gradient work: {error}", where=str(folders[0])) from error
    corpus = corpus_of(found.manifest.environment, data_dir=settings.data_dir)
    with progress() as told:
        figures = measure_replays(folders[0], spec, found.manifest.sequence, corpus, count, device=settings.device, told=told)
    value = figures.to_json()
    if out is not None:
        out.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(value, indent=1))
        return figures
    table = Table("measured", "median", "99 %", "largest", "fitted 1e-6")
    for way in figures.ways:
        middle, high, most = np.quantile(way.values, (0.5, 0.99, 1))
        table.add_row(way.name, *(f"{float(one):.4g}" for one in (middle, high, most, way.tail)))
    PlainConsole().print(table)
    for line in figures.lines():
        click.echo(line)
    return figures


def measure_replays(
    folder: Path,
    spec: GradientSpec,
    sequence: int,
    corpus: Corpus,
    count: int,
    *,
    device: str = "cpu",
    seed: int = 0,
    told: Callable[[str, int, int], None] = lambda *_: None,
) -> ReplayFigures:
    """Honest replays of the checkpoint in this folder: whole rounds, until there are `count` steps or a few more.

    Errors: as `TrainedModel.load`; UnprovableError where training leaves a number that is not finite.
    """
    if count < 2:
        raise ConfigurationError("two replays are the least that have a spread", where="--count")
    theta = float32_weights(folder)
    layout = Layout.of([(name, value.shape) for name, value in theta.items()], spec)
    miner = TrainedModel.load(folder, device=device)
    validators: dict[str, tuple[TrainedModel, int | None]] = {
        "as the miner": (miner, None),
        "one sequence a pass": (miner, 1),
        "eager attention": (TrainedModel.load(folder, attention="eager", device=device), None),
    }
    values: dict[str, list[float]] = {name: [] for name in validators}
    rng = np.random.default_rng(seed)
    rejected = 0
    while len(values["as the miner"]) < count:
        batches, drawn = _round(spec, corpus, layout, rng)
        trained = train_round(miner, theta, batches, spec, sequence)
        for step in sorted(set(trained.states) - {max(trained.states)}) if spec.optimiser == "adamw" else (0,):
            if spec.optimiser == "adamw" and step + 1 not in trained.states:
                continue
            opened = _opened(trained, step, drawn, layout, spec)
            for name, (model, rows) in validators.items():
                own = measure(model, opened, batches[step], spec, rows=rows)
                gradient, *rest = judge(opened.chunks, own, spec, sequence=sequence, step=step, parameters=layout.size)
                values[name].append(float(gradient.value))
                rejected += any(one.rejects for one in rest)
            told(f"{folder.name}: replays", min(count, len(values["as the miner"])), count)
    ways = tuple(Way(name, tuple(some)) for name, some in values.items())
    return ReplayFigures(layout.size, spec.compute, ways, rejected)


def _round(spec: GradientSpec, corpus: Corpus, layout: Layout, rng: np.random.Generator) -> tuple[list[I32], tuple[int, ...]]:
    """The batches of a random miner of a random round, and the chunks that its challenge draws."""
    assignment = Assignment(spec, Digest(rng.bytes(32)), Digest(rng.bytes(32)))
    uid = int(rng.integers(0, max(1, min(_UIDS, spec.sequences // (2 * spec.assigned)))))
    size = int(rng.integers(spec.batch_least, spec.batch_most + 1))
    steps = range(spec.inner_steps)
    batches = [np.stack([corpus.sequence(index) for index in assignment.batch(uid, step, size)]) for step in steps]
    return batches, draws.opened(spec, rng.bytes(32), layout.chunks).chunks


def _opened(trained: Trained, step: int, drawn: Sequence[int], layout: Layout, spec: GradientSpec) -> OpenedStep:
    """A step of one's own as a miner opens it."""
    chunks = []
    empty = np.zeros(0, np.float32)
    adamw = spec.optimiser == "adamw"
    before = trained.states[step]
    after = trained.states[step + 1] if adamw else trained.end

    def part(state: Mapping[str, np.ndarray] | StateArrays, number: int) -> np.ndarray:
        return layout.chunk_of(state, number) if adamw else empty

    for number in drawn:
        tensor, chunk = layout.place(number)
        start = chunk * tensor.chunk
        chunks.append(
            OpenedChunk(
                tensor=layout.tensor_of(number),
                start=start,
                stop=start + tensor.chunk_size(chunk),
                theta_after=layout.chunk_of(after.theta, number),
                first=part(before.first, number),
                second=part(before.second, number),
                first_after=part(after.first, number),
                second_after=part(after.second, number),
                delta=empty if adamw else layout.chunk_of(trained.delta, number),
            )
        )
    return OpenedStep(step, before.theta, chunks)
