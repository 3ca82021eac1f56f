"""All questions of the doctor in their order, what is known of one handed to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from grail_core.errors import ConfigurationError, GrailError
from grail_core.examination import deployment, folders
from grail_core.examination.findings import (
    CHECKPOINT,
    DATA,
    ENGINE,
    MACHINE,
    Finding,
    broken,
    broken_of,
    not_asked,
    ok,
    warning,
)
from grail_core.examination.known import MINER, Known
from grail_core.generation.options import require_model_len
from grail_core.participant.classes import require_covered
from grail_core.participant.compute import read_minima
from grail_core.participant.settings import Resolution, Settings
from grail_core.proof.coverage import uncovered
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.policy import GenerationPolicy
from grail_envs import examination as environments
from grail_miner.doctor import engine, machine
from grail_miner.equipment import numerics_classes
from grail_miner.layout import Layout, plan


@dataclass(frozen=True)
class Asked:
    """What a person wants to know."""

    model: Path | None = None  # folder of the model to hold against the memory; None: the checkpoint's, where it is cached
    environment: str | None = None  # for the minima; None: the checkpoint's
    offline: bool = False  # ask nothing outside this machine


@dataclass
class Examination:
    """What was found, in the order that it was asked."""

    findings: list[Finding] = field(default_factory=list)
    layout: Layout | None = None

    @property
    def broken(self) -> list[Finding]:
        return broken_of(self.findings)


def examine(found: Resolution, asked: Asked, faults: tuple[ConfigurationError, ...] = ()) -> Examination:
    """Ask everything. Errors become findings."""
    settings, known, done = found.settings, Known(), Examination()
    looked = machine.look()
    done.findings += machine.software(looked)
    try:
        done.layout = plan(settings, len(looked.gpus))
        done.findings += engine.engine(settings, done.layout, offline=asked.offline)
    except GrailError as error:
        done.findings += engine.without_layout(settings, len(looked.gpus), error, offline=asked.offline)
    done.findings += deployment.examine(found, faults, MINER, known, offline=asked.offline)
    if known.params is not None and done.layout is not None:
        done.findings += _classes(done.layout, known.params, known)
    done.findings += environments.sandbox(known)
    if asked.offline:
        done.findings.append(not_asked(DATA, "environment", "--offline"))
    else:
        done.findings += environments.work(settings, known)
    done.findings += _sizes(settings, asked, known, looked, done.layout)
    return done


def _classes(layout: Layout, params: NetworkParameters, known: Known) -> Iterator[Finding]:
    """Whether the network admits how this layout computes, and what the checkpoint's table makes of it."""
    try:
        proof, generation = numerics_classes(layout, params)
        yield ok(CHECKPOINT, "numerics classes", f"proofs {proof}, generation {generation}: the network admits both")
    except GrailError as error:
        yield broken(CHECKPOINT, "numerics classes", error)
        return
    if known.pinned is None or known.shape is None:
        yield not_asked(CHECKPOINT, "calibration", "the checkpoint pins the table")
        return
    try:
        require_covered(proof, generation, known.pinned.table, known.shape, params)
    except GrailError as error:
        yield broken(CHECKPOINT, "calibration", error)
        return
    if uncovered(known.pinned.table, params, known.shape, proof=proof, generation=generation):
        told = f"{known.pinned.name} does not cover these classes at this model's shape: the coarse bounds alone judge them"
        yield warning(CHECKPOINT, "calibration", told, "nothing: this network takes such work")
    else:
        yield ok(CHECKPOINT, "calibration", f"{known.pinned.name} covers both at this model's shape")


def _sizes(settings: Settings, asked: Asked, known: Known, looked: machine.Machine, layout: Layout | None) -> Iterator[Finding]:
    """The model against devices and limits, the machine against the minima."""
    size: engine.ModelSize | None = None
    folder = asked.model or _cached(settings, known)
    if folder is None:
        yield not_asked(ENGINE, "memory", "no model is known here: give its folder with --model, or mine once")
    else:
        try:
            size = engine.model_size(folder)
        except GrailError as error:
            yield broken(ENGINE, "memory", error)
    if size is not None and layout is not None:
        yield from engine.memory(layout, looked, size, settings.pipeline_max_model_len)
    if layout is not None and not layout.in_process and known.manifest is not None and known.context_length is not None:
        yield _room(settings.pipeline_max_model_len, known.manifest.policy, known.context_length)
    spec = known.manifest.environment if known.manifest else None
    environment = asked.environment or (spec.env_id if spec else None)
    figures = read_minima()
    if environment is not None and environment not in figures.environments:
        known_ones = f"figures are there for {', '.join(sorted(figures.environments))}"
        yield warning(MACHINE, "no minima", f"none are known for {environment!r}; {known_ones}")
    least, what = machine.figures_for(figures, environment, size.parameters if size else 0)
    yield from machine.minima(looked, least, what)
    kept = folders.of_role(settings, least["disk_gib"])
    if settings.pipeline_symlink_dir is not None:
        kept.append(folders.Folder("links to weights", "GRAIL_PIPELINE_SYMLINK_DIR", settings.pipeline_symlink_dir))
    yield from folders.folders(kept)
    yield from folders.budget(settings)


def _room(max_model_len: int, policy: GenerationPolicy, context_length: int) -> Finding:
    try:
        require_model_len(max_model_len, policy, context_length)
    except GrailError as error:
        return broken(ENGINE, "context", error)
    return ok(ENGINE, "context", f"room for {max_model_len} tokens is enough for this checkpoint's policy")


def _cached(settings: Settings, known: Known) -> Path | None:
    """The folder of the running window's checkpoint, where an earlier run left it."""
    if known.manifest is None or known.params is None or known.chain is None:
        return None
    from grail_core.checkpoints.cache import CheckpointCache
    from grail_core.checkpoints.source import cache_of

    cache = CheckpointCache(cache_of(settings.cache_dir, known.params.network_id(known.chain.genesis_hash)))
    return cache.entry(known.manifest.digest)
