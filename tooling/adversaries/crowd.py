"""One window with a liar for each lie and one honest miner, before a validator as shipped: real chain, keys, buckets and model.

A lie makes the bytes of its miner's file; they are sealed as properly as a miner can, by the header that the file holds or,
where it holds none, the honest miner's with another hotkey. There are few enough of them that everybody is drawn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_core.environment import Environment
from grail_core.files.confined.opening import Confined, Spent
from grail_core.files.window_file import WindowFileError, header_of, read_window_file, write_window_file
from grail_core.keys import ss58
from grail_core.protocol import MinerStatus, MinerVerdict, RolloutRecord, Seal, SignedVerdict, VerdictBody, WindowHeader
from grail_core.protocol.constants import CHECKED_MINERS_EXPECTED, WINDOW_LENGTH
from grail_core.protocol.context import WindowContext
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.seals import ROLLOUTS
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import seal_key, verdict_key, window_key
from grail_core.verification.examine import first_reject
from grail_miner.groups import Group
from grail_miner.mining import Mining
from grail_validator.service import ValidatorService
from tooling.adversaries.miners import pack_without_rules
from tooling.adversaries.rows import Row, Try
from tooling.testing.mining import loaded_by
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork

HONEST = "honest"
MOST = CHECKED_MINERS_EXPECTED - 1
"""Liars beside the honest miner of whom each is drawn for certain."""


@dataclass
class Liar:
    """A miner that is free to sign what it likes. `honest` is the honest miner's file of the same window."""

    network: SmallNetwork
    name: str
    window: Window = FIRST_WINDOW
    honest: bytes = b""

    @cached_property
    def mining(self) -> Mining:
        return self.network.mining(self.name)

    @cached_property
    def context(self) -> WindowContext:
        return self.network.participant(self.name).open_window(self.window)

    @cached_property
    def loaded(self) -> LoadedCheckpoint:
        return loaded_by(self.mining, self.context)

    def groups(self, groups: Sequence[int] = (0,)) -> list[Group]:
        """Made as the shipped miner makes them."""
        return self.mining.produce_groups(self.context, self.loaded, groups)

    def pack(self, groups: Sequence[Group]) -> bytes:
        """Signed, with the counts that the groups have, whatever the rules say of them."""
        return pack_without_rules(self.mining, self.context, self.loaded, groups)

    def made(self, change: Callable[[RolloutRecord], RolloutRecord], groups: Sequence[int] = (0,)) -> bytes:
        """The file of groups whose every rollout went through `change`."""
        return self.pack([Group(one.group, tuple(map(change, one.rollouts))) for one in self.groups(groups)])

    def written(self, change: Callable[[dict[str, Any]], object], groups: Sequence[int] = (0,)) -> bytes:
        """The same with a first row that no record can be: `change` is given its columns. Header and signature are those of the
        honest rows, as good as any, since a row that breaks its own rules has no digest."""
        made = self.groups(groups)
        file = read_window_file(self.pack(made))
        records = [record for group in made for record in group.rollouts]
        fields = {field.name: getattr(records[0], field.name) for field in dataclasses.fields(records[0])}
        change(fields)
        rows: list[Any] = [SimpleNamespace(**fields), *records[1:]]
        return write_window_file(file.header, file.signature, rows)

    def seal(self, data: bytes, header: WindowHeader | None = None) -> Seal:
        """Put file and seal into the bucket."""
        network, signer = self.network, self.network.signers[self.name]
        header = header or self._header_of(data)
        digest = Digest(hashlib.sha256(data).digest())
        network_id, own = network.participant(self.name).network_id, ss58(signer.hotkey)
        signature = signer.sign(Seal.message(network_id, ROLLOUTS, header, digest, len(data)))
        seal, store = Seal(ROLLOUTS, header, digest, len(data), signature), network.participant(self.name).own_store
        store.put(window_key(own, self.window), data)
        store.put(seal_key(own, self.window), seal.encode())
        return seal

    def _header_of(self, data: bytes) -> WindowHeader:
        try:
            return header_of(data)
        except WindowFileError:
            return dataclasses.replace(header_of(self.honest), hotkey=self.network.signers[self.name].hotkey)


Lie = Callable[[Liar], bytes]


@dataclass
class Crowd:
    """A network with a miner for each lie, named by it here, and `honest`."""

    network: SmallNetwork
    lies: Mapping[str, Lie]
    spent: list[Spent]  # by the children that opened files
    window: Window = FIRST_WINDOW

    def next_window(self, after: int) -> Window:
        """The first window that begins after this block."""
        return Window((after // WINDOW_LENGTH + 1) * WINDOW_LENGTH)

    def miner(self, name: str) -> str:
        """The participant that tells this lie."""
        return f"miner-{[HONEST, *self.lies].index(name)}"

    def liar(self, name: str, window: Window = FIRST_WINDOW, honest: bytes = b"") -> Liar:
        return Liar(self.network, self.miner(name), window, honest)

    def mine(self, window: Window = FIRST_WINDOW, groups: Sequence[int] = (0,)) -> None:
        """Everybody's file and seal of a window."""
        self.network.advance_to(window + 1)
        honest = self.liar(HONEST, window)
        data = honest.pack(honest.groups(groups))
        honest.seal(data)
        for name, lie in self.lies.items():
            liar = self.liar(name, window, data)
            liar.seal(lie(liar))

    def validator(self, name: str = "validator-0", **handles: Any) -> ValidatorService:
        validator = self.network.validator(name, **handles)
        validator.confined = Confined(observe=self.spent.append)
        return validator

    def judge(self, *validators: ValidatorService, window: Window = FIRST_WINDOW) -> list[VerdictBody]:
        """From first sight to published verdict, one validator after the other."""
        self.network.advance_to(window + 30)
        for validator in validators:
            validator.first_sight.sight(window)
        self.network.advance_to(window + 42)
        for validator in validators:
            validator.advance(window, threading.Event())
        return [published(validator, window) for validator in validators]

    def verdict(self, body: VerdictBody, name: str) -> MinerVerdict:
        """Raises AssertionError where the body does not name the miner."""
        found = body.miner(self.network.signers[self.miner(name)].hotkey)
        assert found is not None, name
        return found


def published(validator: ValidatorService, window: Window = FIRST_WINDOW) -> VerdictBody:
    """What lies in the validator's bucket."""
    return SignedVerdict.decode(validator.participant.own_store.get(verdict_key(window), max_bytes=10**8)).body


@contextmanager
def crowd_of(
    lies: Mapping[str, Lie],
    *,
    validators: int = 1,
    max_tokens: int = 8,
    environment: Environment | None = None,
    block_time_ms: int = LOCALNET.block_time_ms,
) -> Iterator[Crowd]:
    """A network for as long as the block lasts."""
    if len(lies) > MOST:
        raise ValueError(f"{len(lies)} liars: more than {MOST} are not all drawn")
    folder = Path(tempfile.mkdtemp(prefix="grail-attacks-"))
    try:
        model = save_byte_model(folder / "model")
        (folder / "network").mkdir()
        network = SmallNetwork(
            folder / "network",
            miners=len(lies) + 1,
            validators=validators,
            max_tokens=max_tokens,
            environment=environment,
            model=model,
            block_time_ms=block_time_ms,
        )
        yield Crowd(network, lies, [])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def try_lies(row: Row, lies: Mapping[str, Lie], *, expected: Mapping[str, str], max_tokens: int = 8) -> Crowd:
    """Every lie in one window; it is accepted unless the check that is expected of it fails its file."""
    with crowd_of(lies, max_tokens=max_tokens) as crowd:
        crowd.mine()
        (body,) = crowd.judge(crowd.validator())
        for name in lies:
            row.tries.append(ruling(name, crowd.verdict(body, name), expected[name]))
        honest(row, crowd.verdict(body, HONEST))
    return crowd


def ruling(name: str, verdict: MinerVerdict, expected: str) -> Try:
    """A try of which the check `expected` has to have the word."""
    rejecting = first_reject(verdict.findings)
    check = rejecting.check if rejecting is not None else ""
    caught = verdict.status in (MinerStatus.FAILED, MinerStatus.ABSENT) and check == expected
    return Try(name, not caught, check if caught else "", f"{verdict.status.value}: {verdict.reason}")


def honest(row: Row, verdict: MinerVerdict) -> None:
    """The honest twin in the same window."""
    row.honest_tries += 1
    row.honest_false_rejects += verdict.status is not MinerStatus.ACCEPTED
