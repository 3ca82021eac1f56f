"""What `grail-validator calibrate` does beside measuring: prompts, sampling, figures, and whether the table may be enforced."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from grail_core.calibration import measure as core
from grail_core.calibration.plot import plot
from grail_core.checkpoints.pinned_table import (
    CALIBRATION_FILE,
    PinnedTable,
    excesses,
    parse_table,
    read_own_copy,
    read_table_file,
    shipped,
)
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.generation.defaults import sampling_defaults
from grail_core.model.policy_model import Attention
from grail_core.model.prompts import PromptRenderer
from grail_core.participant.deployment import network_parameters
from grail_core.participant.settings import Settings
from grail_core.proof.calibration import (
    LEAST_CHECKPOINTS,
    LEAST_SHAPES,
    LEAST_TOKENS,
    MOST_VERSION,
    CalibrationTable,
    PairCalibration,
    is_version,
    thresholds_of,
)
from grail_core.protocol.network import NETWORKS, NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_core.telemetry.console import PlainConsole
from grail_core.telemetry.progress import progress
from grail_core.text import printable
from grail_validator.table_changes import TableChange, changes

SAMPLES = (16, 46, 64)
"""Sample sizes that thresholds are told for: one group, two groups and 14 singles, and the most a validator opens."""


@dataclass(frozen=True)
class CalibrationRequest:
    """The command's options. None leaves it to the model folder's generation_config.json."""

    models: Sequence[Path]
    prompts: Path | None
    env_id: str | None
    count: int
    attentions: Sequence[Attention]
    max_tokens: int | None
    temperature: float | None
    end_tokens: Sequence[int]
    version: str
    out: Path


def calibrate_command(settings: Settings, asked: CalibrationRequest, *, as_json: bool) -> core.Calibration:
    """Measure, write the table and its plot, and say whether the table may be enforced.

    Raises:
        ConfigurationError: a version that no table has, prompts that are none, an output folder that is not there, a checkpoint
            given twice, no such device, no table to compare with.
        CheckpointError: a folder that is no model, or one that names no end token.
        EnvironmentUnavailableError: no such environment, or its data set is not there.
    """
    if not os.access(asked.out.parent, os.W_OK) or asked.out.suffix == ".svg":
        raise ConfigurationError(
            "the table cannot be written there",
            where=str(asked.out),
            hint="a .json file in a folder that exists; .svg is its plot",
        )
    for folder in asked.models:
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                "no model in this folder",
                where=str(folder),
                hint="--model takes Transformers folders: config.json, *.safetensors",
            )
    if not is_version(asked.version):
        raise ConfigurationError(
            f"a table's version is a printable text of 1 to {MOST_VERSION} characters",
            where="--version",
            hint="for example bf16-h100/1",
        )
    pinned = _pinned(settings, asked)
    params = NETWORKS.get(settings.network) or network_parameters(settings)  # a named one needs no trainer for its limits
    sources = [
        core.Source(str(folder), folder, prompts, *_sampling(folder, asked))
        for folder, prompts in zip(asked.models, _prompts(asked, settings.data_dir), strict=True)
    ]
    with progress() as told:
        found = core.calibrate(sources, version=asked.version, attentions=asked.attentions, device=settings.device, told=told)
    proposal = Proposal.of(found.table, pinned, params)
    picture = asked.out.with_suffix(".svg")
    asked.out.write_bytes(found.table.to_bytes())
    picture.write_text(plot(found), encoding="utf-8")
    if as_json:
        click.echo(json.dumps({**_report(found), **proposal.to_json()}))
    else:
        _print(found)
        for line in proposal.lines():
            click.echo(printable(line))
    click.echo(f"{asked.out}: table {found.table.version}; {picture}: its plot", err=True)
    return found


@dataclass(frozen=True)
class Proposal:
    """A measured table beside the one that is pinned, and what of it the network does not admit."""

    pinned: PinnedTable
    network: str
    changed: list[TableChange]
    beyond: list[str]

    @classmethod
    def of(cls, table: CalibrationTable, pinned: PinnedTable, params: NetworkParameters) -> Proposal:
        return cls(pinned, params.name, changes(pinned.table, table), list(excesses(table, params)))

    def to_json(self) -> dict[str, Any]:
        return {
            "pinned": {"version": self.pinned.table.version, "digest": self.pinned.digest.hex()},
            "changes": [one.to_json() for one in self.changed],
            "beyond_limits": self.beyond,
        }

    def lines(self) -> Iterator[str]:
        yield f"against calibration {self.pinned.name}:" if self.changed else f"changes nothing against {self.pinned.name}"
        for one in self.changed:
            yield f"  {one.line}"
        yield f"{self.network} would refuse it:" if self.beyond else f"{self.network} admits it"
        for line in self.beyond:
            yield f"  {line}"


def _pinned(settings: Settings, asked: CalibrationRequest) -> PinnedTable:
    """Raises ConfigurationError: the table to compare with cannot be read."""
    checkpoints = (folder / CALIBRATION_FILE for folder in asked.models)
    beside = next((file for file in checkpoints if file.is_file()), None)
    if beside is not None:
        return parse_table(read_table_file(beside))
    return shipped() if settings.calibration is None else parse_table(read_own_copy(settings.calibration))


def standing(table: CalibrationTable) -> list[str]:
    """For each pair, in words: whether its statistics may be enforced, for models up to which shape, or what is missing."""
    return [_standing(pair) for pair in table.pairs.values()]


def _standing(pair: PairCalibration) -> str:
    name = f"miner {pair.miner}, validator {pair.validator}"
    if pair.covers(pair.largest):
        return (
            f"{name}: may be enforced, for models of at most {pair.largest.layers} layers and "
            f"{pair.largest.hidden_size} dimensions, and up to twice as deep or wide with the dead zone doubled"
        )
    missing = []
    if pair.tokens < LEAST_TOKENS:
        missing.append(f"{pair.tokens:,} of {LEAST_TOKENS:,} tokens")
    if pair.checkpoints < LEAST_CHECKPOINTS:
        missing.append(f"{pair.checkpoints} of {LEAST_CHECKPOINTS} checkpoints")
    if len(set(pair.shapes)) < LEAST_SHAPES:
        missing.append(f"{len(set(pair.shapes))} of {LEAST_SHAPES} shapes")
    return f"{name}: reports only, with {' and '.join(missing)}"


def _prompts(asked: CalibrationRequest, data_dir: Path | None) -> Iterator[list[tuple[int, ...]]]:
    """Those of each checkpoint. A file's are dealt out one by one; an environment's problems are others for each."""
    if asked.prompts is not None:
        given = _read_prompts(asked.prompts)
        if len(given) < len(asked.models):
            raise ConfigurationError(
                f"{len(given)} prompts are too few for {len(asked.models)} checkpoints",
                where=str(asked.prompts),
                hint="each checkpoint needs at least one of its own",
            )
        yield from (given[i :: len(asked.models)] for i in range(len(asked.models)))
        return
    from grail_envs import load
    from grail_envs.adapters.consent import consent_to

    consent_to(str(asked.env_id))  # whoever started this command typed it
    environment = load(str(asked.env_id), data_dir=data_dir)
    for index, folder in enumerate(asked.models):
        renderer = PromptRenderer(folder)
        seeds = np.random.default_rng(index).integers(2**63, size=asked.count).tolist()
        yield [renderer.render(environment.messages(environment.problem(seed))) for seed in seeds]


def _read_prompts(path: Path) -> list[tuple[int, ...]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the prompts cannot be read: {error}", where=str(path)) from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, list) or not value or not all(type(token) is int and token >= 0 for token in value):
            raise ConfigurationError(
                "this line is no prompt", where=f"{path}, line {number}", hint="one JSON list of token ids a line: [12, 7, 431]"
            )
        prompts.append(tuple(value))
    return prompts


def _sampling(folder: Path, asked: CalibrationRequest) -> tuple[GenerationPolicy, frozenset[int]]:
    """Policy and end tokens: the options, else what the folder says."""
    found = sampling_defaults(folder, asked.end_tokens)
    policy = replace(
        found.policy,
        max_tokens=asked.max_tokens or found.policy.max_tokens,
        temperature=asked.temperature or found.policy.temperature,
    )
    return policy, frozenset(found.end_tokens)


def _thresholds(pair: PairCalibration) -> dict[str, dict[str, float]]:
    """Statistic → sample size → threshold, for rollouts as long as calibration's."""
    of_sizes = thresholds_of(pair, SAMPLES)
    return {name: {str(size): value for size, value in by_size.items()} for name, by_size in of_sizes.items()}


def _report(found: core.Calibration) -> dict[str, Any]:
    pairs = [
        {
            "miner": pair.miner,
            "validator": pair.validator,
            "tokens": pair.tokens,
            "rollouts": pair.rollouts,
            "checkpoints": pair.checkpoints,
            "largest": {"layers": pair.largest.layers, "hidden_size": pair.largest.hidden_size},
            "enforced": pair.covers(pair.largest),
            "thresholds": _thresholds(pair),
        }
        for pair in found.table.pairs.values()
    ]
    return {
        "version": found.table.version,
        "place": found.table.place,
        "pairs": pairs,
        "conditions": [one.to_json() for one in found.observations],
    }


def _print(found: core.Calibration) -> None:
    console = PlainConsole()
    click.echo(printable(f"table {found.table.version}, measured on {found.table.place}"))
    for pair in found.table.pairs.values():
        table = Table(
            "condition", "rms", "largest", "margin", "largest", "logprob", "largest", title=f"{pair.miner} → {pair.validator}"
        )
        for name, members in found.conditions_of(pair).items():
            figures = [one.to_json() for one in members]
            keys = ("rms", "rms_max", "margin", "margin_max", "logprob", "logprob_max")
            table.add_row(
                name if members[0].fitted else f"({name})", *(f"{max(figure[key] for figure in figures):.2g}" for key in keys)
            )
        console.print(table)
        for name, by_size in _thresholds(pair).items():
            told = ", ".join(f"{value:.3g} at {size}" for size, value in by_size.items())
            console.print(f"  {name} threshold by rollouts: {told}", soft_wrap=True)
    click.echo("Figures are those of the worst checkpoint; in brackets: for the record, not fitted.")
    for line in standing(found.table):
        click.echo(line)
