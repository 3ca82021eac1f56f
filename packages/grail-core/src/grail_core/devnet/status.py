"""What a development network is at: its clock, and of every participant its place on the chain and the newest that it did."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grail_core.chain.base import seconds_of
from grail_core.devnet.folder import Role
from grail_core.devnet.making import RAO, Devnet
from grail_core.devnet.network import BURN
from grail_core.devnet.presence import process_of
from grail_core.protocol import window_of
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.storage.layout import MANIFEST_PREFIX, SEAL_PREFIX, UPDATE_PREFIX, VERDICT_PREFIX

_NEWEST = {
    Role.TRAINER: ("checkpoint", (MANIFEST_PREFIX,)),
    Role.VALIDATOR: ("verdict", (VERDICT_PREFIX,)),
    Role.MINER: ("file", (SEAL_PREFIX, UPDATE_PREFIX)),
}
_WINDOW = re.compile(r"(?:.*-window-)?([0-9]{1,16})(?:\.[a-z]+)?")


@dataclass(frozen=True)
class Participant:
    """`uid` None: its registration is not in force yet. `weight`: its share of what miners earn by the weights in force."""

    name: str
    role: str
    hotkey: str  # SS58
    uid: int | None
    stake_tao: float
    permit: bool
    bucket_committed: bool
    weight: float  # 0 … 1
    newest: str  # what is counted of it: checkpoint, verdict or file
    newest_window: int | None  # of the newest one in its bucket; of a checkpoint the first window that it is in force in


@dataclass(frozen=True)
class Status:
    """`window` is the running one, by its first block; `next_window_s` None where the clock is moved by hand."""

    folder: str
    up: bool
    process: int | None
    beacon: str
    clock: str
    block: int
    block_time_s: float
    window: int
    next_window_s: float | None
    network_digest: str
    participants: tuple[Participant, ...]


def status_of(devnet: Devnet) -> Status:
    """As of now. Errors: ChainError."""
    chain, described = devnet.chain, devnet.description
    block, process = chain.current_block(), process_of(devnet.folder)
    left_ms = chain.parameters.time_of_ms(window_of(block) + WINDOW_LENGTH) - chain.now_ms()
    return Status(
        folder=str(devnet.folder.root),
        up=process is not None,
        process=process,
        beacon=described.beacon_url,
        clock=described.clock,
        block=block,
        block_time_s=seconds_of(1, described.block_time_ms),
        window=window_of(block),
        next_window_s=left_ms / 1000 if described.clock == "real" else None,
        network_digest=devnet.params.digest.hex(),
        participants=tuple(_participants(devnet)),
    )


def _participants(devnet: Devnet) -> Iterator[Participant]:
    metagraph, share = devnet.chain.metagraph(), devnet.chain.emission().incentive
    for name, signer in devnet.signers.items():
        neuron, role = metagraph.by_hotkey(signer.hotkey), devnet.roles.get(name)
        newest, prefixes = _NEWEST[role] if role is not None else ("", ())
        bucket = devnet.folder.store / name
        yield Participant(
            name=name,
            role=BURN if role is None else role.value,
            hotkey=signer.ss58,
            uid=None if neuron is None else neuron.uid,
            stake_tao=0.0 if neuron is None else neuron.stake / RAO,
            permit=neuron is not None and neuron.validator_permit,
            bucket_committed=neuron is not None and neuron.commitment is not None,
            weight=0.0 if neuron is None else float(share.get(neuron.uid, 0)),
            newest=newest,
            newest_window=max((window for prefix in prefixes for window in _windows(bucket / prefix)), default=None),
        )


def _windows(folder: Path) -> Iterator[int]:
    """The windows that the entries of a folder of a bucket are named by."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return  # nothing was put there yet
    for name in names:
        found = _WINDOW.fullmatch(name)
        if found is not None:
            yield int(found[1])
