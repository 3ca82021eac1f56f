"""A participant of a network: its handles to chain, storage and beacon, and the windows they open.

Built once from settings at start-up, where everything that can be wrong with a deployment is found and said; the services
hold one and ask nothing else for the outside world.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grail_core.beacon.base import Beacon
from grail_core.chain.base import Chain, Neuron, time_of_block_ms
from grail_core.checkpoints.bucket import CheckpointBucket
from grail_core.checkpoints.cache import DEFAULT_LIMIT_BYTES, CheckpointCache
from grail_core.checkpoints.source import CheckpointSource, cache_of
from grail_core.clock import utc_text
from grail_core.errors import ChainError
from grail_core.file_cache import DEFAULT_BUDGET_BYTES, FileCache
from grail_core.participant.bucket_trial import bucket_named, tried_commitment
from grail_core.participant.deployment import require_registered
from grail_core.participant.faults_told import FaultsTold
from grail_core.participant.missing import Opened, open_everything
from grail_core.participant.read_key import commit_bucket, former_commitment
from grail_core.participant.settings import Settings
from grail_core.participant.state import StateFolder, network_state
from grail_core.participant.trainer_watch import TrainerWatch
from grail_core.participant.windows import open_window
from grail_core.protocol import WindowTimes, window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.context import WindowContext
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Digest, Window
from grail_core.storage.base import ObjectStore, StoreDirectory
from grail_core.telemetry import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Participant:
    params: NetworkParameters
    chain: Chain
    directory: StoreDirectory
    beacon: Beacon
    signer: Signer
    cache_dir: Path
    state_dir: Path
    checkpoint_cache_bytes: int = DEFAULT_LIMIT_BYTES
    file_cache_bytes: int = DEFAULT_BUDGET_BYTES
    calibration: Path | None = None  # GRAIL_CALIBRATION: where else the pinned table may be had from
    package: str = "grail-core"  # what the role is installed as: what is upgraded

    @classmethod
    def from_settings(cls, settings: Settings, *, package: str = "grail-core", opened: Opened | None = None) -> Participant:
        """Open everything; all that is missing ends with one error (what, where, what to try; see `missing`).

        Args:
            opened: what a start has tried already, in place of trying it here.
        """
        handles = (opened or open_everything(settings)).require_all()
        return cls(
            params=handles.params,
            chain=handles.chain,
            directory=handles.directory,
            beacon=handles.beacon,
            signer=handles.signer,
            cache_dir=settings.cache_dir,
            state_dir=settings.state_dir,
            checkpoint_cache_bytes=settings.checkpoint_cache_gib << 30,
            file_cache_bytes=settings.file_cache_gib << 30,
            calibration=settings.calibration,
            package=package,
        )

    @cached_property
    def network_id(self) -> Digest:
        return self.params.network_id(self.chain.genesis_hash)

    @cached_property
    def faults_told(self) -> FaultsTold:
        """How often the log has the faults of this participant's waits."""
        return FaultsTold()

    @cached_property
    def state(self) -> StateFolder:
        """Where this hotkey's state in this network lies."""
        return StateFolder(network_state(self.state_dir, self.params, self.network_id), self.signer.hotkey)

    @cached_property
    def files(self) -> FileCache:
        """Others' files while they are needed, by key and digest; the processes of this machine share it."""
        return FileCache(self.cache_dir / "files" / self.network_id.hex()[:16], budget_bytes=self.file_cache_bytes)

    @cached_property
    def own_store(self) -> ObjectStore:
        return self.directory.own()

    @cached_property
    def checkpoints(self) -> CheckpointSource:
        own = self.own_checkpoints if self.signer.hotkey == self.params.trainer_hotkey else None
        return CheckpointSource(
            self.chain,
            self.directory,
            self.params,
            self.network_id,
            self.cache_dir,
            seen=self.state.seen,
            own=own,
            cache_limit_bytes=self.checkpoint_cache_bytes,
            calibration=self.calibration,
        )

    @cached_property
    def own_checkpoints(self) -> CheckpointBucket:
        """The network's checkpoints in our own bucket, for whoever publishes them."""
        return CheckpointBucket(
            self.own_store,
            CheckpointCache(cache_of(self.cache_dir, self.network_id), limit_bytes=self.checkpoint_cache_bytes),
            trainer=self.signer.hotkey,
            network_id=self.network_id,
            own=True,
            uploads=self.state.uploads,
            announcement=self.state.announcement,
            miners=lambda hotkey: self.checkpoints.miner_store(hotkey),
        )

    def join(self, settings: Settings) -> Neuron:
        """Check the registration, try our bucket, and commit it if the chain does not name it yet.

        Until when a former commitment is needed is said with it, and at every start until then.

        Raises:
            ConfigurationError, StorageError: see `tried_commitment`; nothing was committed.
            ChainError: see `commit_bucket`.
            NotRegisteredError: with the line that registers this hotkey.
        """
        neuron = require_registered(self.chain, self.signer, settings)
        commitment = tried_commitment(self.directory, neuron.commitment)
        if neuron.commitment == commitment:
            self._tell_former(neuron)
            return neuron
        term = commit_bucket(self.chain, self.signer, commitment, neuron, self.params)
        named = bucket_named(commitment, self.params)
        about: dict[str, Any] = {"commitment": named.kind, "bucket": named.name}
        if named.host:
            about["host"] = named.host
        if term is not None:  # readers of these windows still use what stood there
            about |= {"old_until_block": term.until_block, "old_until": utc_text(term.until_ms)}
            about["old_until_ms"] = term.until_ms
        log.event("bucket_committed", **about)
        return neuron

    def _tell_former(self, neuron: Neuron) -> None:
        """Whoever committed may have ended before it could say until when the former commitment is needed."""
        try:
            former = former_commitment(self.chain, self.params, neuron)
        except ChainError:
            return  # it was said then, in most cases, and `grail storage rotate-key` says it too
        if former is not None and not former.over:
            term = former.term
            log.event("bucket_changed_lately", old_until_block=term.until_block, old_until_ms=term.until_ms)

    def times(self, window: Window) -> WindowTimes:
        return WindowTimes(window, self.params)

    def current_window(self) -> Window:
        """The window of the best block, by a chain that can show the window's first one: roles leave out the windows before it.

        Raises:
            ChainError: the chain does not answer, or cannot show it.
        """
        window = window_of(self.chain.current_block())
        self.chain.block(Block(window))
        return window

    def next_window(self) -> Window:
        return Window(self.current_window() + WINDOW_LENGTH)

    def time_of_block_ms(self, block: Block) -> int:
        return time_of_block_ms(self.chain, block, self.params.block_time_ms)

    def open_window(self, window: Window) -> WindowContext:
        """Context of a window whose seed-beacon block exists; see `window_context.open_window` for its errors.

        Raises:
            UpgradeRequiredError: a protocol version is in force in it that this software does not know.
        """
        return open_window(self.chain, self.beacon, self.params, window, self._valid_at)

    def require_version(self, window: Window) -> None:
        """Look whether this software may begin a window, and say what its trainer announced.

        Raises:
            UpgradeRequiredError: it may not; with the line that upgrades this role.
            CheckpointError, StorageError, ChainError: the checkpoints cannot be read now; opening the window asks again.
        """
        self._trainer_watch.look(window, self.checkpoints.life(window))

    @cached_property
    def _trainer_watch(self) -> TrainerWatch:
        return TrainerWatch(self.package)

    def _valid_at(self, window: Window) -> CheckpointManifest:
        view = self.checkpoints.view()
        self._trainer_watch.look(window, self.checkpoints.life(window, view))
        return self.checkpoints.valid_at(window, view)

    def miners_at(self, window: Window) -> list[Neuron]:
        """Who has this window: hotkeys registered with a commitment at block T, in UID order."""
        neurons = self.chain.metagraph(Block(window)).neurons
        return [neuron for neuron in neurons if neuron.commitment is not None]

    def wait_for_block(self, block: Block, stop: threading.Event, *, finalised: bool = False) -> bool:
        return self.chain.wait_for_block(block, stop=stop, finalised=finalised)
