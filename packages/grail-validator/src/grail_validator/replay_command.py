"""`grail-validator replay`: finds what was published, judges it again window by window, and says what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grail_core.beacon.bls import is_valid
from grail_core.beacon.drand import DrandBeacon
from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.cached import cached_checkpoint
from grail_core.checkpoints.fetch import materialise, model_files
from grail_core.checkpoints.pinned_table import (
    CALIBRATION_FILE,
    PinnedTable,
    given_table,
    pinned_object,
    pinned_table,
    read_own_copy,
)
from grail_core.checkpoints.source import cache_of
from grail_core.errors import CheckpointError, ProtocolViolationError, StorageError
from grail_core.files.confined.opening import Confined
from grail_core.keys import from_ss58, ss58
from grail_core.model.described import ModelDescription
from grail_core.model.prompts import PromptRenderer
from grail_core.participant.buckets import folder_of_buckets, neighbours, open_bucket, own_bucket
from grail_core.participant.deployment import network_parameters
from grail_core.participant.settings import Settings
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.base import ObjectStore
from grail_core.telemetry.console import PlainConsole
from grail_envs.bound import BoundEnvironments
from grail_validator.explain import find_ledger
from grail_validator.ledger import Ledger
from grail_validator.published import BucketVerdicts, LedgerVerdicts, Published, files_of
from grail_validator.replay import NO_VERDICT, PublicCheckpoint, Replayer, Sources
from grail_validator.replay_report import Outcome, Replay

if TYPE_CHECKING:
    from grail_validator.gradient.replaying import RoundCheckpoint, RoundReplayer


@dataclass(frozen=True)
class ReplayRequest:
    """What the command line asks for. `bucket` None: this machine's ledger and bucket."""

    windows: tuple[int, ...]
    every: bool
    bucket: str | None
    beside: tuple[str, ...]
    validator: str | None
    ledger: Path | None


def replay_command(settings: Settings, asked: ReplayRequest, *, as_json: bool) -> None:
    """Judge published windows again and print each outcome.

    Raises:
        ProtocolViolationError: a window is not what its verdict says.
        StorageError: none is different, and one could not be judged again.
    """
    if settings.calibration is not None:
        read_own_copy(settings.calibration)
    params = network_parameters(settings)
    published = _published(settings, params, asked)
    expected = None if asked.validator is None else Hotkey(from_ss58(asked.validator))
    windows = [Window(window) for window in asked.windows] or published.verdicts.windows()
    if not windows:
        raise ProtocolViolationError(
            "no verdict is there", where=asked.bucket or "this machine's ledger", hint="give a validator's bucket with --from"
        )
    done: list[Replay] = []
    with Confined() as confined:
        beacon = Rounds(settings, params)
        checkpoints = Checkpoints(settings, params, published)
        sources = Sources(params, published, confined, checkpoints.at, beacon.get, beacon.is_round)
        replayer = Replayer(sources, expected)
        rounds = RoundsAgain(sources, checkpoints, expected)
        for window in windows:
            done.append(rounds.replayed(window) or replayer.window(window))
            if not as_json:
                _print(done[-1])
    if as_json:
        click.echo(json.dumps([one.to_json() for one in done], indent=1))
    _end(done)


def _published(settings: Settings, params: NetworkParameters, asked: ReplayRequest) -> Published:
    beside = [open_bucket(name, settings, params) for name in asked.beside]
    if asked.bucket is not None:
        own = open_bucket(asked.bucket, settings, params)
        root, name = folder_of_buckets(asked.bucket, settings), Path(asked.bucket.removeprefix("fs:")).name
        return Published(BucketVerdicts(own), own, _with_neighbours(beside, root, name))
    window = Window(asked.windows[0] if asked.windows else 0)
    ledger = Ledger.reading(asked.ledger if asked.ledger is not None else find_ledger(settings, window))

    def held(window: Window) -> bytes | None:
        files = files_of(ledger, window)
        return None if files is None else files.evidence or None

    mine = own_bucket(settings, params)
    root = settings.storage_root
    return Published(LedgerVerdicts(ledger), mine, _with_neighbours(beside, root, settings.storage_bucket or ""), held)


def _with_neighbours(beside: Sequence[ObjectStore], root: Path | None, name: str) -> list[ObjectStore]:
    return [*beside, *(neighbours(root, name) if root is not None else ())]


@dataclass
class Rounds:
    """Beacon rounds from the relays that the settings name, or from this machine's cache; nobody is asked twice in vain."""

    settings: Settings
    params: NetworkParameters
    _silent: bool = False

    def get(self, number: int) -> SignedRound | None:
        """None where no relay gives it: then what rests on it is taken as said."""
        found = self._beacon(() if self._silent else self._relays).past(number)
        self._silent = self._silent or found is None
        return found

    def is_round(self, round_: SignedRound) -> bool:
        return is_valid(self.params.beacon.public_key, round_.round, round_.signature)

    @cached_property
    def _relays(self) -> tuple[str, ...]:
        return tuple(url.strip() for url in self.settings.beacon_urls.split(",") if url.strip())

    def _beacon(self, relays: tuple[str, ...]) -> DrandBeacon:
        return DrandBeacon(self.params.beacon, relays, self.settings.cache_dir / "beacon", clock=None, attempts=1)


@dataclass
class Checkpoints:
    """The trainer's checkpoints without their weights: from this machine's cache, or from whichever bucket is the trainer's."""

    settings: Settings
    params: NetworkParameters
    published: Published
    _opened: dict[Digest, PublicCheckpoint] = field(default_factory=dict)

    @cached_property
    def _environments(self) -> BoundEnvironments:
        return BoundEnvironments(self.settings.data_dir)

    def at(self, network_id: Digest, digest: Digest) -> PublicCheckpoint:
        """Raises CheckpointError where nobody has it, EnvironmentUnavailableError where its environment is not here."""
        if digest not in self._opened:
            manifest, files = self._cached(network_id, digest) or self._fetched(network_id, digest)
            pinned = self._pinned(manifest, files)
            renderer = PromptRenderer.of(files, manifest.thinking_mode)
            model = ModelDescription.of(files)
            self._opened = {digest: PublicCheckpoint(manifest, self._environments(manifest), renderer, model, pinned)}
        return self._opened[digest]

    def weights_at(self, network_id: Digest, digest: Digest) -> RoundCheckpoint:
        """With its weights, for a round of gradient work. Errors: as `at`; CheckpointError where they are no float32."""
        from grail_core.gradient.layout import Layout
        from grail_core.participant.round_models import float32_weights
        from grail_core.proof.calibration import Shape
        from grail_core.protocol.gradient.spec import GradientSpec
        from grail_validator.gradient.replaying import RoundCheckpoint

        manifest, bucket = self._with_bucket(network_id, digest)
        theta, pinned = float32_weights(materialise(manifest, bucket)), self._pinned(manifest, model_files(manifest, bucket))
        layout = Layout.of([(name, value.shape) for name, value in theta.items()], GradientSpec.of(manifest.environment))
        model = ModelDescription.of(model_files(manifest, bucket))
        shape = Shape(model.layers, model.hidden_size)
        return RoundCheckpoint(manifest, theta, layout, shape, pinned.table, pinned.name)

    def _pinned(self, manifest: CheckpointManifest, files: dict[str, bytes]) -> PinnedTable:
        if self.settings.calibration is not None:
            return given_table(manifest, self.settings.calibration, self.params)
        pinned_object(manifest)  # refused here where the checkpoint has none
        return pinned_table(manifest, files[CALIBRATION_FILE], self.params)

    def _cached(self, network_id: Digest, digest: Digest) -> tuple[CheckpointManifest, dict[str, bytes]] | None:
        found = cached_checkpoint(self.settings.cache_dir, digest, self.params.trainer_hotkey)
        return (found.manifest, found.files) if found is not None and found.manifest.network_id == network_id else None

    def _fetched(self, network_id: Digest, digest: Digest) -> tuple[CheckpointManifest, dict[str, bytes]]:
        manifest, bucket = self._with_bucket(network_id, digest)
        return manifest, model_files(manifest, bucket)

    def _with_bucket(self, network_id: Digest, digest: Digest) -> tuple[CheckpointManifest, CheckpointBucket]:
        """The manifest, and the bucket in which its files are."""
        for store in self.published.buckets:
            bucket = CheckpointBucket(
                store,
                cache_of(self.settings.cache_dir, network_id),
                trainer=self.params.trainer_hotkey,
                network_id=network_id,
            )
            try:
                manifest = bucket.sequence().by_digest.get(digest)
                if manifest is not None:
                    model_files(manifest, bucket)
                    return manifest, bucket
            except (CheckpointError, StorageError):
                continue  # it may be another's bucket; who gets none is told below
        raise CheckpointError(
            f"the checkpoint {digest.hex()[:16]}… of this network's trainer is in none of the buckets",
            hint="name the trainer's bucket with --beside; GRAIL_NETWORK must be this network's parameters",
        )


@dataclass
class RoundsAgain:
    """Rounds of gradient work among the windows asked for; what judges them is imported with the first."""

    sources: Sources
    checkpoints: Checkpoints
    validator: Hotkey | None
    _replayer: RoundReplayer | None = None

    def replayed(self, window: Window) -> Replay | None:
        """None where no verdict of a round lies there."""
        try:
            raw = self.sources.published.verdicts.read(window)
        except StorageError:
            return None  # who reads it as a window's says so
        if raw is None or b'"kind":"gradient"' not in raw:
            return None
        from grail_validator.gradient.replaying import RoundReplayer, RoundSources, round_verdict

        verdict = round_verdict(raw)
        if verdict is None:
            return None
        if self._replayer is None:
            of, checkpoint = self.sources, self.checkpoints.weights_at
            sources = RoundSources(of.params, of.published, of.confined, checkpoint, of.round_of)
            self._replayer = RoundReplayer(sources, self.validator)
        return self._replayer.round(verdict, window)


def _print(one: Replay) -> None:
    console = PlainConsole()
    if one.outcome is Outcome.EQUAL:
        console.say(f"window {one.window}: equal ({one.status}; {one.rejudged} files judged again)")
    elif one.outcome is Outcome.UNREADABLE:
        console.say(f"window {one.window}: cannot be judged again: {one.reason}")
    else:
        console.say(f"window {one.window}: DIFFERENT {one.difference or ''}".rstrip())
    for fault in one.faults:
        console.say(f"  wrong  {fault}")
    for taken in one.taken:
        console.say(f"  taken  {taken}")


def _end(done: Sequence[Replay]) -> None:
    different = [one.window for one in done if one.outcome is Outcome.DIFFERENT]
    unreadable = [one for one in done if one.outcome is Outcome.UNREADABLE]
    whose = next((ss58(one.validator) for one in done if one.validator is not None), "")
    if different:
        raise ProtocolViolationError(
            f"{len(different)} of {len(done)} verdicts are not what follows from what was published",
            where=f"{whose}, windows {', '.join(map(str, different[:20]))}",
            hint="the lines above say what differs first; ask another validator's verdict of the same window",
        )
    if unreadable:
        raise StorageError(
            f"{len(unreadable)} of {len(done)} windows cannot be judged again: {unreadable[0].reason}",
            where=f"window {unreadable[0].window}",
            hint=_instead(unreadable[0]),
        )


def _instead(one: Replay) -> str:
    if one.reason != NO_VERDICT:
        return "evidence and files are kept for some windows only; name buckets that may have them with --beside"
    if one.window % WINDOW_LENGTH:
        begin = one.window - one.window % WINDOW_LENGTH
        return f"windows are multiples of {WINDOW_LENGTH}: block {one.window} is in window {begin}"
    return "look whether the bucket is a validator's, and the window one that it judged; --all takes those that are there"
