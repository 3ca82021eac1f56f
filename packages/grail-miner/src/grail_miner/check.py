"""A file before the checks of a validator, on the miner's own machine: the same code, the same words, before it is uploaded.

Window, checkpoint, hotkey and beacon round stand in the file's header; what they are checked against lies in the cache of
checkpoints, so no chain is needed. What only a chain knows (that this block and round are the window's) is asked with `online`,
and else said to be taken. Nobody knows what a challenge will draw: the sample measured here is drawn by chance.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from grail_core.beacon.bls import is_valid
from grail_core.checkpoints.cached import CachedCheckpoint, cached_checkpoint, read_checkpoint
from grail_core.checkpoints.pinned_table import CALIBRATION_FILE, given_table, pinned_object, pinned_table
from grail_core.checkpoints.source import CheckpointSource
from grail_core.errors import CheckpointError, ConfigurationError, ProtocolViolationError, StorageError
from grail_core.files.confined.opening import Confined
from grail_core.files.evidence import MinerEvidence
from grail_core.files.window_file import WindowFileError
from grail_core.gradient.opening import MAGIC as OPENING_MAGIC
from grail_core.gradient.update_file import MAGIC as UPDATE_MAGIC
from grail_core.keys import ss58
from grail_core.model.described import ModelDescription
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.participant.deployment import network_parameters, open_beacon, open_chain, open_reader
from grail_core.participant.settings import Settings
from grail_core.proof.alternatives import Alternatives, rounded_copies
from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.proof.in_process import InThisProcess
from grail_core.proof.work import ModelWork
from grail_core.protocol import Finding, Seal, WindowHeader
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.constants import MAX_FILE_BYTES, ROLLOUTS_PER_PROBLEM
from grail_core.protocol.context import WindowContext
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.seals import MAX_SEAL_BYTES
from grail_core.protocol.types import Block, Digest
from grail_core.telemetry.console import PlainConsole
from grail_core.verification.causes import lines_of, lost_draws, told_of
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Sampling, examine, first_reject
from grail_core.verification.header import refused_classes
from grail_core.verification.measure import ChallengedSample, WholeGroup
from grail_core.verification.seal import read_seal
from grail_core.verification.window_file import Submission
from grail_core.verification.wording import accept, reject
from grail_envs.bound import BoundEnvironments
from grail_miner.proving.references import reference_fits


@dataclass(frozen=True)
class CheckRequest:
    """What the command line asks for. `rollouts` None: as many as a validator draws; 0: no model; `every`: all."""

    file: Path
    seal: Path | None = None
    checkpoint: Path | None = None
    rollouts: int | None = None
    every: bool = False
    online: bool = False


@dataclass
class Checked:
    """What the checks say. `taken` is what was not asked of anybody."""

    header: WindowHeader | None = None
    findings: list[Finding] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    sampled: int = 0
    lost: str = ""  # how many opened positions lose the seeded draw

    @property
    def rejected(self) -> Finding | None:
        return first_reject(self.findings)


def check_command(settings: Settings, asked: CheckRequest, *, as_json: bool) -> None:
    """Print what a validator would say of a file.

    Raises:
        ProtocolViolationError: a check rejects.
        CheckpointError: the checkpoint that the file names is not here. StorageError: the file cannot be read.
    """
    checked = check(settings, asked)
    if as_json:
        click.echo(json.dumps(_json(checked), indent=2))
    else:
        _print(checked)
    rejected = checked.rejected
    if rejected is not None:
        raise ProtocolViolationError(
            f"a validator would reject this file: {rejected.check}",
            where=str(asked.file),
            hint="the lines above name the likely cause; do not seal it",
        )


def check(settings: Settings, asked: CheckRequest) -> Checked:
    """Every check that can be made here, the cheapest first; the first one that rejects ends it."""
    params = network_parameters(settings)
    data = _read(asked.file, MAX_FILE_BYTES)
    if data.startswith((UPDATE_MAGIC, OPENING_MAGIC)):
        raise ConfigurationError(
            "this is a file of gradient work, and no window file: it is not checked before it is sealed",
            where=str(asked.file),
            hint="`grail-validator explain ROUND --hotkey …` says what a validator found in it",
        )
    digest = Digest(hashlib.sha256(data).digest())
    checked = Checked()
    with Confined() as confined:
        try:
            checked.header = header = confined.open_file(data, None).header
        except WindowFileError as error:
            checked.findings.append(reject("file", detail=error.what))
            return checked
        checkpoint = _checkpoint(settings, params, asked, header)
        table = _table(settings, params, checkpoint)
        model = ModelDescription.of(checkpoint.files)
        context = _context(settings, params, asked, header, checkpoint, checked)
        if checked.rejected is not None:
            return checked
        shape = Shape(model.layers, model.hidden_size)
        checked.findings += _seal(asked, context, header, digest, len(data), shape, table)
        if checked.rejected is not None:
            return checked
        examined = CheckContext(
            window=context,
            hotkey=header.hotkey,
            environment=BoundEnvironments(settings.data_dir)(checkpoint.manifest),
            renderer=PromptRenderer.of(checkpoint.files, checkpoint.manifest.thinking_mode),
            vocabulary_size=model.vocabulary_size,
            context_length=model.context_length,
            table=table,
            open_file=confined.open_file,
        )
        sampling = _sampling(settings, asked, checkpoint, checked)
        examination = examine(data, examined, sampling, content_digest=digest)
    checked.findings += examination.findings
    if examination.evidence is not None:
        checked.sampled = len(examination.evidence.rollouts)
        checked.lost = lost_draws(examination.evidence)
    checked.taken.append("which rollouts counted in earlier windows: `unique` looks at this file alone")
    return checked


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise StorageError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) > most:
        raise ProtocolViolationError(f"the file has more than {most} bytes, the most there may be", where=str(path))
    return data


def _checkpoint(settings: Settings, params: NetworkParameters, asked: CheckRequest, header: WindowHeader) -> CachedCheckpoint:
    if asked.checkpoint is not None:
        return read_checkpoint(asked.checkpoint, params.trainer_hotkey)
    found = cached_checkpoint(settings.cache_dir, header.checkpoint_digest, params.trainer_hotkey)
    if found is None and asked.online:
        found = _fetched(settings, params, header)
    if found is None:
        raise CheckpointError(
            f"the checkpoint that the file names ({header.checkpoint_digest.hex()[:16]}…) is not on this machine",
            where=str(settings.cache_dir),
            hint="--online fetches it (a miner keeps newer weights in memory alone); or name its folder with --checkpoint",
        )
    return found


def _fetched(settings: Settings, params: NetworkParameters, header: WindowHeader) -> CachedCheckpoint | None:
    """From the trainer's bucket into the cache; None where the bucket has none of this digest."""
    chain = open_chain(settings)
    directory = open_reader(settings, params, chain)
    source = CheckpointSource(chain, directory, params, params.network_id(chain.genesis_hash), settings.cache_dir)
    manifest = source.view().by_digest.get(header.checkpoint_digest)
    return None if manifest is None else read_checkpoint(source.materialise(manifest), params.trainer_hotkey)


def _context(
    settings: Settings,
    params: NetworkParameters,
    asked: CheckRequest,
    header: WindowHeader,
    checkpoint: CachedCheckpoint,
    checked: Checked,
) -> WindowContext:
    """The window that the header speaks of, held against the beacon's key, and against the chain where it is asked."""
    manifest = checkpoint.manifest
    round_ = None if header.beacon_signature is None else SignedRound(header.beacon_round, header.beacon_signature)
    if (params.beacon_policy == "required") != (round_ is not None):
        checked.findings.append(reject("file", detail=f"wrong beacon round: the network's beacon is {params.beacon_policy}"))
    elif round_ is not None and not is_valid(params.beacon.public_key, round_.round, round_.signature):
        checked.findings.append(reject("file", value=round_.round, detail="wrong beacon signature: of another beacon"))
    if manifest.valid_from > header.window:
        detail = "wrong checkpoint digest: the checkpoint comes into force after this window"
        checked.findings.append(reject("file", value=header.window, threshold=manifest.valid_from, detail=detail))
    context = WindowContext(params, manifest.network_id, header.window, header.block_hash, round_, manifest)
    if asked.online:
        _ask_chain(settings, params, context, checked)
    else:
        checked.taken.append("block hash and number of the beacon round, as the header says them: `--online` asks the chain")
        checked.taken.append("that this checkpoint is the one in force in this window")
    return context


def _ask_chain(settings: Settings, params: NetworkParameters, context: WindowContext, checked: Checked) -> None:
    chain = open_chain(settings)
    if params.network_id(chain.genesis_hash) != context.network_id:
        raise ConfigurationError(
            "the chain is not the one of the file's checkpoint",
            where="BT_NETWORK, GRAIL_NETWORK",
            hint="another chain, netuid or parameters file",
        )
    found = chain.block(context.times.first_block).hash
    if found != context.block_hash:
        detail = "wrong block hash"
        checked.findings.append(reject("file", value=context.block_hash.hex(), threshold=found.hex(), detail=detail))
    if context.beacon is not None:
        time_ms = chain.block(Block(context.times.seed_beacon_block)).timestamp_ms
        due = open_beacon(settings, params).chain.round_at(time_ms)
        if due != context.beacon.round:
            checked.findings.append(reject("file", value=context.beacon.round, threshold=due, detail="wrong beacon round"))
    checked.taken.append("that this checkpoint is the one in force in this window")


def _table(settings: Settings, params: NetworkParameters, checkpoint: CachedCheckpoint) -> CalibrationTable:
    """That the checkpoint pins, as a validator reads it. Errors: as `given_table` and `pinned_table`."""
    manifest = checkpoint.manifest
    if settings.calibration is not None:
        return given_table(manifest, settings.calibration, params).table
    pinned_object(manifest)  # refused here where the checkpoint has none
    return pinned_table(manifest, checkpoint.files[CALIBRATION_FILE], params).table


def _seal(
    asked: CheckRequest,
    context: WindowContext,
    header: WindowHeader,
    digest: Digest,
    size: int,
    shape: Shape,
    table: CalibrationTable,
) -> list[Finding]:
    """First sight's refusals: of the seal, or without one of what the header would bring into it."""
    if asked.seal is None:
        return refused_classes("seal", header, context.params, known=None, table=table, shape=shape)
    read = read_seal(_read(asked.seal, MAX_SEAL_BYTES), header.hotkey, context, table=table, shape=shape)
    if not isinstance(read, Seal):
        return list(read)
    found = []
    if (read.content_digest, read.size) != (digest, size):
        told = f"the seal is of other bytes: {read.size} of them, the file has {size}"
        found.append(reject("seal", value=digest.hex(), threshold=read.content_digest.hex(), detail=told))
    elif read.header != header:
        found.append(reject("file", detail="the file's header is not the one that was sealed"))
    return found or [accept("seal", detail="signed, and of these very bytes")]


def _sampling(settings: Settings, asked: CheckRequest, checkpoint: CachedCheckpoint, checked: Checked) -> Sampling | None:
    if asked.rollouts == 0:
        checked.taken.append("rewards and proofs: no model was asked for")
        return None
    model = PolicyModel.load(checkpoint.folder, device=settings.device)
    work = _work(model, checked)
    if asked.rollouts is None and not asked.every:
        checked.taken.append("earlier checkpoints, as what may have been run instead: a validator compares with them too")
        return ChallengedSample(Digest(secrets.token_bytes(32)), work)
    checked.taken.append("alternatives that may have been run instead: a validator compares single rollouts with them")
    return _Chosen(work, None if asked.every else math.ceil((asked.rollouts or 1) / ROLLOUTS_PER_PROBLEM))


def _work(model: PolicyModel, checked: Checked) -> InThisProcess:
    """With the float32 reference and rounded copies where memory allows it; what is not done without them is said."""
    if not reference_fits(model):
        checked.taken.append(
            "what is relative to a float32 reference, for which there is no memory: sketch_ratio, twin_margin, "
            "logprob_ratio, twin_logprob, alternatives"
        )
        return InThisProcess(model, reference=False)
    return InThisProcess(model, lambda: Alternatives(model, rounded_copies(model)))


@dataclass(frozen=True)
class _Chosen:
    """Whole groups drawn by chance, every position of each: more than any challenge opens. `count` None: all there are."""

    model: ModelWork
    count: int | None

    def measure(self, submission: Submission, context: CheckContext) -> MinerEvidence:
        groups: Sequence[int] = submission.groups
        if self.count is not None and self.count < len(groups):
            groups = sorted(secrets.SystemRandom().sample(groups, self.count))
        measured = [WholeGroup(group, self.model).measure(submission, context) for group in groups]
        rollouts = tuple(rollout for one in measured for rollout in one.rollouts)
        return replace(measured[0], rollouts=rollouts, inconclusive=sum(one.inconclusive for one in measured))

    def under_alternatives(self, submission: Submission, context: CheckContext, evidence: MinerEvidence) -> MinerEvidence:
        return evidence


def _json(checked: Checked) -> dict[str, object]:
    header = checked.header
    return {
        "outcome": "reject" if checked.rejected is not None else "accept",
        "window": None if header is None else header.window,
        "hotkey": None if header is None else ss58(header.hotkey),
        "declared": None if header is None else header.declared,
        "rollouts_measured": checked.sampled,
        "lost_draws": checked.lost,
        **told_of(checked.findings),
        "taken": checked.taken,
    }


def _print(checked: Checked) -> None:
    console = PlainConsole()
    if checked.header is not None:
        header = checked.header
        console.say(f"window {header.window}, hotkey {ss58(header.hotkey)}, {header.declared} rollouts declared")
    for line in lines_of(checked.findings):
        console.say(f" {line}")
    if checked.lost:
        console.say(f"  {checked.lost}")
    for taken in checked.taken:
        console.say(f"  not asked  {taken}")
    if checked.rejected is None:
        console.say(f"a validator would accept this file ({checked.sampled} rollouts measured)")
