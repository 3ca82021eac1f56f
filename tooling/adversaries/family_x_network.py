"""X4, X11, D1, D2, D12: what a miner does with seal, file and UID around the deadline, before two validators as shipped.

Each try is a network of its own in this process: real chain, buckets, keys, model and files, a virtual clock. The honest twin
is another miner of the same window, who must be accepted in every try.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grail_core.errors import StorageError
from grail_core.keys import LocalSigner, ss58
from grail_core.protocol import MinerStatus, MinerVerdict, Seal, SignedVerdict, VerdictBody
from grail_core.protocol.types import Block, Digest
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import seal_key, verdict_key, window_key
from grail_validator.service import ValidatorService
from tooling.adversaries.rows import Row, Try
from tooling.testing.mining import upload
from tooling.testing.models.tiny_qwen2 import save_byte_model
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork

LIAR, HONEST = "miner-0", "miner-1"
FAILED, ACCEPTED, ABSENT = MinerStatus.FAILED, MinerStatus.ACCEPTED, MinerStatus.ABSENT


class Stage:
    """A window that both miners have mined and sealed; the deadline is next."""

    def __init__(self, root: Path, model: Path) -> None:
        self.network = SmallNetwork(root, model=model)
        self.network.advance_to(FIRST_WINDOW + 1)
        self.files = {name: self.network.mine(self.network.mining(name), FIRST_WINDOW, range(1)) for name in (LIAR, HONEST)}
        self.seals = {name: self.store(name, data) for name, data in self.files.items()}

    def store(self, name: str, data: bytes) -> Seal:
        """File, then seal."""
        return upload(self.network, self.network.mining(name), name, data, FIRST_WINDOW)

    def seal_anew(self, data: bytes, **changes: Any) -> None:
        """The liar's seal over other bytes or a header it wishes, properly signed."""
        former = self.seals[LIAR]
        header = dataclasses.replace(former.header, **changes)
        digest = Digest(hashlib.sha256(data).digest())
        signer = self.network.signers[LIAR]
        network_id = self.network.participant(LIAR).network_id
        message = Seal.message(network_id, former.kind, header, digest, len(data))
        seal = Seal(former.kind, header, digest, len(data), signer.sign(message))
        self.bucket.put(self.window_key, data)
        self.bucket.put(self.seal_key, seal.encode())

    @property
    def bucket(self) -> Any:
        return self.network.participant(LIAR).own_store

    @property
    def window_key(self) -> str:
        return window_key(ss58(self.network.signers[LIAR].hotkey), FIRST_WINDOW)

    @property
    def seal_key(self) -> str:
        return seal_key(ss58(self.network.signers[LIAR].hotkey), FIRST_WINDOW)

    def judge(self) -> list[VerdictBody]:
        """Both validators, from first sight to published verdict, one after the other."""
        validators = [self.network.validator(f"validator-{number}") for number in range(2)]
        self.network.advance_to(FIRST_WINDOW + 30)
        for validator in validators:
            validator.first_sight.sight(FIRST_WINDOW)
        self.network.advance_to(FIRST_WINDOW + 42)
        return [_judged(validator) for validator in validators]

    def verdicts(self, name: str, bodies: list[VerdictBody]) -> list[MinerVerdict]:
        found = [body.miner(self.network.signers[name].hotkey) for body in bodies]
        return [miner for miner in found if miner is not None]


def _judged(validator: ValidatorService) -> VerdictBody:
    validator.advance(FIRST_WINDOW, threading.Event())
    raw = validator.participant.own_store.get(verdict_key(FIRST_WINDOW), max_bytes=10**7)
    return SignedVerdict.decode(raw).body


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="grail-attacks-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def staged(row: Row, tries: dict[str, Callable[[Stage], tuple[bool, str]]]) -> dict[str, Any]:
    """Each try on a stage of its own; it says whether it got through, and what became of it."""
    with _folder() as folder:
        model = save_byte_model(folder / "model")
        for number, (name, attempt) in enumerate(tries.items()):
            (folder / str(number)).mkdir()
            stage = Stage(folder / str(number), model)
            bodies: list[VerdictBody] = []
            original = stage.judge

            def judged(original: Callable[[], list[VerdictBody]] = original, kept: list[VerdictBody] = bodies) -> Any:
                kept += original()
                return kept

            stage.judge = judged  # type: ignore[method-assign]
            passed, why = attempt(stage)
            row.tries.append(Try(name, passed, "" if passed else why.partition(":")[0], why))
            row.honest_tries += len(bodies)
            row.honest_false_rejects += sum(miner.status is not ACCEPTED for miner in stage.verdicts(HONEST, bodies))
    return row.to_json()


def outcome_of(stage: Stage, allowed: set[MinerStatus]) -> tuple[bool, str]:
    """Through if a validator says what is not allowed."""
    verdicts = stage.verdicts(LIAR, stage.judge())
    wrong = [miner for miner in verdicts if miner.status not in allowed]
    return bool(wrong), "; ".join(dict.fromkeys(f"{miner.status.value}: {miner.reason}" for miner in verdicts))


# --- X4: the file goes after it was sealed ----------------------------------------------------------------------------


class _GoesAt:
    """The liar's file is gone, or denied, from the n-th time on that a validator asks its bucket for anything."""

    def __init__(self, stage: Stage, moment: int, denied: bool) -> None:
        self._key, self._moment, self._denied = stage.window_key, moment, denied
        self._bucket = stage.bucket
        self._asked, self._lock = 0, threading.Lock()

    def touched(self, key: str) -> None:
        if key not in (self._key, self._key.replace("windows", "seals").replace(".parquet", ".json")):
            return
        with self._lock:
            self._asked += 1
            gone = self._asked > self._moment
        if gone and key == self._key:
            if self._denied:
                raise StorageError("403 access denied", where=key)
            self._bucket.delete(key)


def _goes_at(moment: int, *, denied: bool) -> Callable[[Stage], tuple[bool, str]]:
    def attempt(stage: Stage) -> tuple[bool, str]:
        goes = _GoesAt(stage, moment, denied)
        get, read = FilesystemStore.get, FilesystemStore.read

        def watched_get(store: FilesystemStore, key: str, **options: Any) -> bytes:
            goes.touched(key)
            return get(store, key, **options)

        def watched_read(store: FilesystemStore, key: str, **options: Any) -> Any:
            goes.touched(key)
            return read(store, key, **options)

        FilesystemStore.get, FilesystemStore.read = watched_get, watched_read  # type: ignore[method-assign, assignment]
        try:
            verdicts = stage.verdicts(LIAR, stage.judge())
        finally:
            FilesystemStore.get, FilesystemStore.read = get, read  # type: ignore[method-assign]
        first, second = verdicts
        equal = first.to_json() == second.to_json()
        told = all(
            miner.status is ACCEPTED or (miner.status is FAILED and miner.reason and miner.declared) for miner in verdicts
        )
        words = f"{'equal' if equal else 'other'} verdicts: " + " and ".join(miner.status.value for miner in verdicts)
        return not (equal or told), f"{words} {first.reason or second.reason}".rstrip()

    return attempt


def x4(*, seed: int = 0, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    """Deleted, or its read key taken back, at a random moment after the deadline."""
    chosen = random.Random(seed)
    count = tries or (4 if quick else 24)
    attempts: dict[str, Callable[[Stage], tuple[bool, str]]] = {}
    for number in range(count):
        denied, moment = bool(number % 2), chosen.randrange(0, 6)
        attempts[f"{number}: {'denied' if denied else 'deleted'} at request {moment}"] = _goes_at(moment, denied=denied)
    return staged(Row("X4", "windows before two validators"), attempts)


# --- D1, D2, D12: seal and file ---------------------------------------------------------------------------------------


def d1(*, quick: bool = False) -> dict[str, Any]:
    """Junk that was sealed, or a file replaced or removed once the challenge is known."""

    def junk(stage: Stage) -> tuple[bool, str]:
        stage.seal_anew(b"PAR1 nothing of the kind PAR1")
        return outcome_of(stage, {FAILED})

    def replaced(stage: Stage) -> tuple[bool, str]:
        stage.bucket.put(stage.window_key, stage.files[HONEST])
        return outcome_of(stage, {FAILED})

    def removed(stage: Stage) -> tuple[bool, str]:
        stage.bucket.delete(stage.window_key)
        return outcome_of(stage, {FAILED})

    tries = {"junk": junk, "replaced": replaced, "removed": removed}
    return staged(Row("D1", "windows before two validators"), dict(list(tries.items())[: 2 if quick else None]))


def d2(*, quick: bool = False) -> dict[str, Any]:
    """A seal stored after the deadline, or before the window: as if absent."""

    def late(stage: Stage) -> tuple[bool, str]:
        stage.bucket.delete(stage.seal_key)
        stage.network.advance_to(FIRST_WINDOW + 31)
        stage.store(LIAR, stage.files[LIAR])
        return outcome_of(stage, {ABSENT})

    def no_seal(stage: Stage) -> tuple[bool, str]:
        stage.bucket.delete(stage.seal_key)
        return outcome_of(stage, {ABSENT})

    def more_than_it_holds(stage: Stage) -> tuple[bool, str]:
        stage.seal_anew(stage.files[LIAR], groups=300, declared=4800)
        return outcome_of(stage, {FAILED})

    return staged(Row("D2", "windows before two validators"), {"late": late, "none": no_seal, "more": more_than_it_holds})


def d12(*, quick: bool = False) -> dict[str, Any]:
    """Sealed in time, uploaded after the challenge is known: harmless if they are the sealed bytes, failed if they are not."""

    def other_bytes(stage: Stage) -> tuple[bool, str]:
        stage.bucket.delete(stage.window_key)
        stage.network.advance_to(FIRST_WINDOW + 30)
        stage.bucket.put(stage.window_key, stage.network.mine(stage.network.mining(LIAR), FIRST_WINDOW, range(2)))
        return outcome_of(stage, {FAILED})

    def same_bytes(stage: Stage) -> tuple[bool, str]:
        stage.bucket.delete(stage.window_key)
        stage.network.advance_to(FIRST_WINDOW + 30)
        stage.bucket.put(stage.window_key, stage.files[LIAR])
        return outcome_of(stage, {ACCEPTED})

    return staged(Row("D12", "windows before two validators"), {"other bytes": other_bytes, "the sealed bytes": same_bytes})


# --- X11: a UID that changed hands ------------------------------------------------------------------------------------


def x11(*, quick: bool = False) -> dict[str, Any]:
    """Between verdict and weights the judged hotkey leaves and somebody takes its UID."""
    row = Row("X11", "sets of weights")
    with _folder() as folder:
        model = save_byte_model(folder / "model")
        stage = Stage(folder, model)
        network = stage.network
        stage.judge()
        uids = {n.hotkey: n.uid for n in network.chain.metagraph(Block(FIRST_WINDOW)).neurons}
        liar, honest = network.signers[LIAR].hotkey, network.signers[HONEST].hotkey
        network.chain.deregister(network.signers[LIAR])
        network.chain.register(LocalSigner.from_seed(b"takes the free UID".ljust(32)))
        network.chain.advance(5)
        network.validator("validator-0")._set_weights_if_due()
        network.chain.advance(5)
        weights = network.chain.weights()[network.signers["validator-0"].hotkey]
        paid = weights.get(uids[liar], 0)
        row.tries.append(Try("UID taken over", paid > 0, "weights", f"weight {paid}"))
        row.honest_tries, row.honest_false_rejects = 1, int(weights.get(uids[honest], 0) == 0)
    return row.to_json()


ATTACKS = {"X4": x4, "X11": x11, "D1": d1, "D2": d2, "D12": d12}
