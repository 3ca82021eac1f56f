"""What programs outside this project may call.

    network = open_network()                                    from GRAIL_*, BT_* and R2_*, as the commands read them
    bucket = network.bucket(hotkey("5F…"))                      anybody's bucket, to read
    verdict = read_verdict(bucket, window, network_id=…)        a signed verdict, or None
    file = verify_window_file(data, network_id=…)               a miner's file, signed and bound
    checkpoint = read_checkpoint(network, folder)               verified weights as a Transformers folder

`packages/grail-core/examples` has a program for each. A name here keeps its meaning until a minor version's changelog says
otherwise; whatever is not in `__all__` may change any day. Importing this loads neither torch nor a chain's library.

Every function raises a `GrailError` that says what is wrong, where, and what to try. Nothing here writes to a bucket or a
chain, and nothing needs a wallet.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from grail_core.chain.base import Chain
from grail_core.errors import ChainError, ConfigurationError, GrailError, ProtocolViolationError
from grail_core.files import verdicts
from grail_core.files.window_file import WindowFileError, read_window_file
from grail_core.keys import from_ss58, ss58
from grail_core.participant.settings import Settings, load_settings
from grail_core.protocol import (
    Finding,
    MinerStatus,
    MinerVerdict,
    Outcome,
    RolloutRecord,
    SignedVerdict,
    VerdictBody,
    WindowHeader,
    WindowStatus,
    window_of,
)
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.windows import require_window
from grail_core.storage.base import ObjectStore, StoreDirectory
from grail_core.storage.layout import window_key
from grail_core.verification.window_file import Submission, bind_rows

__all__ = [
    "CheckpointManifest",
    "Digest",
    "Finding",
    "GrailError",
    "Hotkey",
    "MinerStatus",
    "MinerVerdict",
    "Network",
    "ObjectStore",
    "Outcome",
    "ReadCheckpoint",
    "RolloutRecord",
    "Settings",
    "SignedVerdict",
    "VerdictBody",
    "VerifiedWindowFile",
    "Window",
    "WindowHeader",
    "WindowStatus",
    "address",
    "fetch_window_file",
    "hotkey",
    "load_settings",
    "open_network",
    "read_checkpoint",
    "read_verdict",
    "verify_window_file",
]


def hotkey(text: str) -> Hotkey:
    """The 32 bytes of an SS58 address. Raises ConfigurationError where it is none."""
    return from_ss58(text)


def address(key: Hotkey) -> str:
    """The SS58 address of a hotkey."""
    return ss58(key)


@dataclass(frozen=True)
class Network:
    """One network, to read. `settings` say where; `parameters` are what its participants agree on."""

    settings: Settings
    parameters: NetworkParameters
    chain: Chain  # what these two offer may change any day
    directory: StoreDirectory

    @cached_property
    def network_id(self) -> Digest:
        """32 bytes that stand in everything this network's participants sign."""
        return self.parameters.network_id(self.chain.genesis_hash)

    @property
    def current_window(self) -> Window:
        """The window of the newest block. Raises ChainError where the chain does not answer."""
        return window_of(self.chain.current_block())

    def hotkeys(self) -> dict[int, Hotkey]:
        """Who is registered, by UID. Raises ChainError where the chain does not answer."""
        return {neuron.uid: neuron.hotkey for neuron in self.chain.metagraph().neurons}

    def bucket(self, of: Hotkey) -> ObjectStore:
        """The bucket that a registered hotkey has committed on chain.

        Raises:
            ChainError: the chain does not answer, or nobody of this hotkey is registered or has committed a bucket.
            StorageError: what is committed is no address that this network allows.
        """
        neuron = self.chain.metagraph().by_hotkey(of)
        if neuron is None or neuron.commitment is None:
            raise ChainError(
                "this hotkey has committed no bucket" if neuron else "this hotkey is not registered here",
                where=ss58(of),
                hint="hotkeys() lists who is registered",
            )
        return self.directory.open(neuron.commitment)


def open_network(settings: Settings | None = None) -> Network:
    """The network that the environment, or these settings, name; docs/operations.md has them all (`load_settings(netuid=81)`).

    Raises:
        ConfigurationError: naming the setting that is missing or wrong.
        ChainError: the chain does not answer.
    """
    from grail_core.participant.deployment import network_parameters, open_chain, open_reader

    chosen = settings if settings is not None else load_settings()
    parameters = network_parameters(chosen)
    chain = open_chain(chosen)
    return Network(chosen, parameters, chain, open_reader(chosen, parameters, chain))


@dataclass(frozen=True)
class VerifiedWindowFile:
    """A window file whose miner signed exactly these rollouts.

    `rollouts` are in file order; `content_digest` is the SHA-256 of the bytes, as verdicts name the file.
    """

    header: WindowHeader
    rollouts: tuple[RolloutRecord, ...]
    content_digest: Digest


def fetch_window_file(bucket: ObjectStore, window: int, miner: Hotkey) -> bytes:
    """The file that a miner has put for a window, not verified.

    Raises:
        StorageError: there is none, it is larger than the protocol allows, or the store does not answer.
    """
    return bucket.get(window_key(ss58(miner), _window(window)), max_bytes=MAX_FILE_BYTES)


def verify_window_file(
    data: bytes, *, network_id: Digest, miner: Hotkey | None = None, window: int | None = None
) -> VerifiedWindowFile:
    """Parse a miner's file and verify what needs no model, chain or beacon.

    That is: limits on what the file says of itself; the columns; every rollout's own rules; the Merkle root over all of them;
    the header's counts; and the signature of the hotkey in the header over this network's id. It is not: that prompt and
    randomness are the assigned ones, that the rewards are right, or that the network's model drew the tokens. Those are a
    validator's checks 2 to 9; their result is in its verdict.

    Args:
        data: the file's bytes.
        network_id: `Network.network_id`.
        miner, window: what the file must be of, where you know it.

    Raises:
        ProtocolViolationError: saying which of these does not hold.
    """
    try:
        file = read_window_file(data)
    except WindowFileError as error:
        raise ProtocolViolationError(error.what, where="window file") from error
    content_digest = Digest(hashlib.sha256(data).digest())
    bound = bind_rows(file, content_digest, network_id)
    if not isinstance(bound, Submission):
        raise ProtocolViolationError("; ".join(finding.detail for finding in bound), where="window file")
    if miner is not None and file.header.hotkey != miner:
        raise ProtocolViolationError(f"the file is of {ss58(file.header.hotkey)}", where="window file")
    if window is not None and file.header.window != window:
        raise ProtocolViolationError(f"the file is of window {file.header.window}", where="window file")
    return VerifiedWindowFile(file.header, bound.rollouts, content_digest)


def read_verdict(bucket: ObjectStore, window: int, *, validator: Hotkey, network_id: Digest) -> SignedVerdict | None:
    """A validator's signed verdict of a window; None where it has published none. The signature is verified.

    Raises:
        StorageError: the store does not answer.
        ProtocolViolationError: what lies there is no verdict of this window, network and validator.
    """
    return verdicts.read_verdict(bucket, _window(window), validator, network_id)


@dataclass(frozen=True)
class ReadCheckpoint:
    """A checkpoint whose weights were verified, and the Transformers folder that they lie in."""

    manifest: CheckpointManifest
    folder: Path


def read_checkpoint(network: Network, folder: Path, *, window: int | None = None) -> ReadCheckpoint:
    """The checkpoint that is valid in a window (default: now), verified and written as an ordinary Transformers folder.

    The trainer's manifests are read and their signatures verified, the cheapest way to the weights is fetched into
    GRAIL_CACHE_DIR, every tensor is compared with the signed root. Needs `grail-core[model]`.

    Args:
        folder: must not exist, or be empty.
        window: the first block of a window.

    Raises:
        CheckpointError: none is valid then; an object is missing, wrong or unsafe; or something is in the folder already.
        StorageError, ChainError, DiskFullError: the bucket, the chain or the disk fails; a later call goes on from there.
    """
    from grail_core.checkpoints.source import CheckpointSource
    from grail_core.checkpoints.transfer import export_checkpoint

    wanted = network.current_window if window is None else _window(window)
    source = CheckpointSource(
        network.chain,
        network.directory,
        network.parameters,
        network.network_id,
        network.settings.cache_dir,
        cache_limit_bytes=network.settings.checkpoint_cache_gib << 30,
    )
    manifest = source.valid_at(wanted)
    export_checkpoint(source.materialise(manifest), Path(folder))
    return ReadCheckpoint(manifest, Path(folder))


def _window(number: int) -> Window:
    try:
        return require_window(number)
    except ValueError as error:
        raise ConfigurationError(str(error), where="window", hint="Network.current_window is one") from error
