"""`grail-validator doctor`: what every role's doctor asks, and by which table this network's work is judged now.

For the table alone (`--table`) the network's parameters, its chain and the trainer's bucket are needed, and no wallet and no
model: what a class is held to follows from the signed manifest, the table that it pins and the shape in the model's
configuration. The ledger has its own commands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click
from rich.table import Table

from grail_core.checkpoints.fetch import model_files
from grail_core.checkpoints.pinned_table import LIMIT_ROLLOUTS, PinnedTable
from grail_core.checkpoints.source import CheckpointSource
from grail_core.checkpoints.trainer_life import TrainerLife, upgrade_line
from grail_core.errors import ConfigurationError, GrailError, ProtocolViolationError
from grail_core.examination import report
from grail_core.examination.findings import CHECKPOINT, broken
from grail_core.examination.known import VALIDATOR, Known
from grail_core.model.described import ModelDescription
from grail_core.participant.deployment import network_parameters, open_chain, open_reader
from grail_core.participant.settings import Resolution, Settings
from grail_core.proof.alternative_test import WEIGHTS_ALTERNATIVES
from grail_core.proof.calibration import Coverage, Shape, share_of_pooled
from grail_core.proof.coverage import PairCoverage, coverage_of
from grail_core.proof.replay import ReplayBounds
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES
from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.gradient.spec import GRADIENT
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Window
from grail_core.protocol.windows import window_of
from grail_core.telemetry.console import PlainConsole
from grail_envs.examination import examine_role

_PACKAGE = "grail-validator"
WORDS = {
    Coverage.FULL: "enforced",
    Coverage.EXTENDED: "enforced with doubled dead zone: the model is larger than any that the table was made on",
    Coverage.NONE: "reported only: the coarse bounds alone decide",
}


@dataclass(frozen=True)
class Standing:
    """What judges a network's work at one checkpoint."""

    params: NetworkParameters
    manifest: CheckpointManifest
    pinned: PinnedTable
    shape: Shape
    classes: tuple[PairCoverage, ...]
    life: TrainerLife
    window: Window  # the running one

    @property
    def uncovered(self) -> list[PairCoverage]:
        return [one for one in self.classes if one.coverage is Coverage.NONE]

    def to_json(self) -> dict[str, Any]:
        return {
            "network": self.params.name,
            "checkpoint": {"sequence": self.manifest.sequence, "digest": self.manifest.digest.hex()},
            "shape": {"layers": self.shape.layers, "hidden_size": self.shape.hidden_size},
            "calibration": {"version": self.pinned.table.version, "digest": self.pinned.digest.hex()},
            "protocol": {
                "version": PROTOCOL_VERSION,
                "announced": self.life.announced and self.life.announced.to_json(),
                "required": self.life.required,
            },
            "trainer_silent_windows": self.life.silent_windows,
            "uncalibrated": self.params.uncalibrated,
            "float32_permille": self.params.float32_permille,
            "alternatives": [*WEIGHTS_ALTERNATIVES, *SAMPLING_ALTERNATIVES],
            "classes": [
                {
                    "use": one.use,
                    "class": one.miner,
                    "measured_in": one.measured_in,
                    "coverage": one.coverage.value,
                    "thresholds": {name: f"{value:.4g}" for name, value in thresholds(one, self.shape).items()},
                }
                for one in self.classes
            ],
        }


def thresholds(one: PairCoverage, shape: Shape) -> dict[str, float]:
    """Of every statistic that the table enforces of this use of the pair, for a sample of 64 rollouts; none where it enforces
    nothing, and none of a statistic that cannot reach it."""
    if one.pair is None or one.coverage is Coverage.NONE:
        return {}
    share = share_of_pooled()
    wider = 1.0 if one.coverage is Coverage.EXTENDED else 0.0
    found = {}
    for name, null in one.pair.nulls.items():
        threshold = null.threshold(LIMIT_ROLLOUTS, share) + wider * null.dead_zone
        if (name == "twin_margin") == (one.use == "generation") and threshold < null.high:
            found[name] = threshold
    return found


def standing(settings: Settings) -> Standing:
    """What judges now, on the network of these settings.

    Raises:
        CheckpointError: no checkpoint is in force, or one that pins no table which this network follows.
        ConfigurationError: GRAIL_CALIBRATION is another table than the checkpoint pins; both digests are in the text.
        ChainError, StorageError: chain or bucket cannot be read.
    """
    params = network_parameters(settings)
    chain = open_chain(settings)
    source = CheckpointSource(
        chain,
        open_reader(settings, params, chain),
        params,
        params.network_id(chain.genesis_hash),
        settings.cache_dir,
        cache_limit_bytes=settings.checkpoint_cache_gib << 30,
        calibration=settings.calibration,
    )
    window, view = window_of(chain.current_block()), source.view()
    life = source.life(window, view)
    manifest = source.valid_at(window, view)
    pinned = source.table(manifest)
    model = ModelDescription.of(model_files(manifest, source.bucket()))
    shape = Shape(model.layers, model.hidden_size)
    return Standing(params, manifest, pinned, shape, tuple(coverage_of(pinned.table, params, shape)), life, window)


def doctor_command(found: Resolution, faults: tuple[ConfigurationError, ...], *, offline: bool, as_json: bool) -> None:
    """Print all findings, and behind them what judges now. Raises the first broken finding's kind of GrailError."""
    known = Known()
    findings = list(examine_role(found, faults, VALIDATOR, known, offline=offline))
    judged: Standing | None = None
    if known.manifest is not None:
        try:
            judged = standing(found.settings)
            require_covered(judged)
        except GrailError as error:
            findings.append(broken(CHECKPOINT, "calibration", error))
    if as_json:
        click.echo(report.as_json(findings, {"judged_by": judged and judged.to_json()}))
    else:
        click.echo(report.as_text(findings))
        if judged is not None:
            click.echo()
            _print(judged)
    report.end(findings, "validator")


def table_command(settings: Settings, *, as_json: bool) -> None:
    """Print what judges now.

    Raises:
        ProtocolViolationError: the network refuses what no table covers, and this one leaves an admitted class uncovered.
        UpgradeRequiredError: a later version of the protocol is in force.
    """
    found = standing(settings)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        _print(found)
    found.life.require(found.window, _PACKAGE)
    require_covered(found)


def require_covered(found: Standing) -> None:
    """Raises ProtocolViolationError: the network refuses what no table covers, and a class that it admits is not covered."""
    if found.params.uncalibrated == "refused" and found.uncovered:
        first = found.uncovered[0]
        raise ProtocolViolationError(
            f"{len(found.uncovered)} admitted pairs are not covered: seals that name them are refused by every validator",
            where=f"{first.use} in {first.miner}, measured in {first.measured_in}",
            hint="the trainer pins another table (`grail-trainer publish --calibration`), from `grail-validator calibrate`",
        )


def _print(found: Standing) -> None:
    console = PlainConsole()
    shape, pinned = found.shape, found.pinned
    console.say(
        f"network {found.params.name}, checkpoint {found.manifest.sequence}: {shape.layers} layers of {shape.hidden_size}"
    )
    _print_life(console, found)
    if found.manifest.environment.env_id == GRADIENT:
        bounds = ReplayBounds()
        console.say(
            f"gradient work: the gradient of a replayed step is held to {bounds.gradient:g} in a model of up to "
            f"{bounds.parameters:,} parameters, and only reported in a larger one; of the table, rounds use the sketches"
        )
    console.say(f"calibration {pinned.table.version}, digest {pinned.digest.hex()}, measured on {pinned.table.place}")
    _print_classes(console, found)
    for coverage in dict.fromkeys(one.coverage for one in found.classes):
        console.say(f"{coverage.value}: {WORDS[coverage]}")
    console.say(
        f"held against float32, alternatives included, where its coin falls: {found.params.float32_permille / 10:g} % of the "
        "drawn files of a miner who is always drawn, more of others; the coarse bounds alone judge the rest"
    )
    console.say(
        f"named alternatives ({', '.join((*WEIGHTS_ALTERNATIVES, *SAMPLING_ALTERNATIVES))}) are enforced wherever both "
        "uses are covered and the file's sketch_ratio passes; at fewer than 64 rollouts thresholds are wider"
    )
    console.say(f"what no table covers is {found.params.uncalibrated} on this network; the coarse bounds are always enforced")


def _print_life(console: PlainConsole, found: Standing) -> None:
    """What the trainer announced, and whether anything was heard of it."""
    upgrade, silent = found.life.announced, found.life.silent_windows
    if upgrade is not None:
        left = upgrade.windows_left(found.window)
        told = f"protocol version {upgrade.version} holds from block {upgrade.block} on, in {left} windows"
        console.say(f"{told}: {upgrade_line(_PACKAGE)}")
    if silent:
        console.say(f"the trainer is silent: no checkpoint has come into force for {silent} windows; the one in force stays so")


def _print_classes(console: PlainConsole, found: Standing) -> None:
    """A table on a terminal; in a pipe, where a table would cut names that are searched for, a line for each pair."""
    head = f"thresholds at {LIMIT_ROLLOUTS} rollouts"
    table = Table("use", "class", "measured in", "coverage", head)
    for one in found.classes:
        told = ", ".join(f"{name} {value:.3g}" for name, value in thresholds(one, found.shape).items())
        if console.is_terminal:
            table.add_row(one.use, one.miner, one.measured_in, one.coverage.value, told)
        else:
            held = f"; {head}: {told}" if told else ""
            console.say(f"{one.use} in {one.miner}, measured in {one.measured_in}: {one.coverage.value}{held}")
    if console.is_terminal:
        console.print(table)
