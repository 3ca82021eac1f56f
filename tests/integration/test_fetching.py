"""What fetching leaves behind: nothing once a window is judged, nothing where there is no room, nothing lost by a stop."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grail_core.errors import DiskFullError, StorageError
from grail_core.keys import ss58
from grail_core.protocol import MinerStatus, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.types import Digest, Hotkey
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import verdict_key, window_key
from grail_validator import sealed_files
from grail_validator.cases import WindowStage
from grail_validator.ledger import WorkBegun
from grail_validator.sealed_files import MAX_ELSEWHERE_BLOCKS, MAX_ONCE_MORE_BLOCKS, TRIES_AT_BLOCKS, WindowFiles
from grail_validator.service import ValidatorService
from tooling.testing.faults import events
from tooling.testing.mining import upload
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model

MINERS = ("miner-0", "miner-1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(tmp_path: Path, model: Path) -> SmallNetwork:
    """Two honest miners, sighted by both validators; the challenge is out, and all tries are due."""
    network = SmallNetwork(tmp_path, model=model)
    network.advance_to(FIRST_WINDOW + 1)
    for name in MINERS:
        upload(network, network.mining(name), name, network.mine(network.mining(name), FIRST_WINDOW, range(1)), FIRST_WINDOW)
    network.advance_to(FIRST_WINDOW + 30)
    for name in ("validator-0", "validator-1"):
        network.validator(name).first_sight.sight(FIRST_WINDOW)
    network.advance_to(FIRST_WINDOW + 42)
    return network


def key_of(network: SmallNetwork, name: str) -> str:
    return window_key(ss58(network.signers[name].hotkey), FIRST_WINDOW)


def verdict(validator: ValidatorService) -> VerdictBody:
    return SignedVerdict.decode(validator.participant.own_store.get(verdict_key(FIRST_WINDOW), max_bytes=10**7)).body


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_file_is_off_the_disk_when_the_next_one_is_opened(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    validator, of, there = network.validator("validator-0"), WindowFiles.of, list[int]()
    size = max(len(network.participant(name).own_store.get(key_of(network, name), max_bytes=10**7)) for name in MINERS)
    validator.participant = replace(validator.participant, file_cache_bytes=size)

    def watched(files: WindowFiles, *args: Any) -> bytes | None:
        there.append(len(files_below(files.participant.files.root)))
        return of(files, *args)

    monkeypatch.setattr(WindowFiles, "of", watched)
    assert validator.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.SCORED
    assert there == [1, 1]
    assert files_below(validator.participant.files.root) == []
    assert [miner.status for miner in verdict(validator).miners if miner.content_digest] == [MinerStatus.ACCEPTED] * 2
    other = network.validator("validator-1")
    other.advance(FIRST_WINDOW, threading.Event())
    assert verdict(other).canonical() == verdict(validator).canonical()  # which had them both at once


def test_a_disk_that_cannot_hold_the_largest_file_is_told_before_anything_is_fetched(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    validator, asked = network.validator("validator-0"), list[str]()
    small = replace(validator.participant, file_cache_bytes=100)
    validator.participant, get = small, FilesystemStore.get

    def watched(store: FilesystemStore, key: str, **options: Any) -> bytes:
        asked.append(key)
        return get(store, key, **options)

    monkeypatch.setattr(FilesystemStore, "get", watched)
    with pytest.raises(DiskFullError, match=f"a drawn file of window {FIRST_WINDOW} has .* room for 100"):
        validator.advance(FIRST_WINDOW, threading.Event())
    assert not [key for key in asked if key in {key_of(network, name) for name in MINERS}]
    assert validator.ledger.stage(FIRST_WINDOW) is WindowStage.SIGHTED
    again = network.validator("validator-0")  # the operator has made room
    assert again.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.SCORED


@pytest.fixture
def stopped(network: SmallNetwork, monkeypatch: pytest.MonkeyPatch) -> ValidatorService:
    """A validator that was stopped when it had judged one file and the other drips."""
    get, stop, over = FilesystemStore.get, threading.Event(), threading.Event()

    def dripping(store: FilesystemStore, key: str, **options: Any) -> bytes:
        if key == key_of(network, "miner-1"):
            over.wait(60)
            raise StorageError("a few bytes came", where=key)
        return get(store, key, **options)

    validator = network.validator("validator-0")
    kept = validator.ledger.record_measured

    def then_stop(*args: Any) -> None:
        kept(*args)
        stop.set()
        over.set()  # a store that is read over a socket is left by itself

    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, "get", dripping)
        patch.setattr(validator.ledger, "record_measured", then_stop)
        assert validator.advance(FIRST_WINDOW, stop) is None
    return validator


def test_a_validator_that_is_stopped_between_two_files_goes_on_with_the_second(
    network: SmallNetwork, stopped: ValidatorService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stopped.ledger.stage(FIRST_WINDOW) is WindowStage.SIGHTED
    assert list(stopped.ledger.measured(FIRST_WINDOW)) == [network.signers["miner-0"].hotkey]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("file-")]
    assert stopped.ledger.begin_work(FIRST_WINDOW) == WorkBegun(frozenset(), False)  # it ended in order
    stopped.ledger.end_work(FIRST_WINDOW)
    read: list[str] = []
    get = FilesystemStore.get

    def watched(store: FilesystemStore, key: str, **options: Any) -> bytes:
        read.append(key)
        return get(store, key, **options)

    monkeypatch.setattr(FilesystemStore, "get", watched)
    again, other = network.validator("validator-0"), network.validator("validator-1")
    assert again.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.SCORED
    assert key_of(network, "miner-0") not in read
    assert key_of(network, "miner-1") in read
    other.advance(FIRST_WINDOW, threading.Event())
    assert verdict(again).canonical() == verdict(other).canonical()


def test_a_process_that_ends_again_and_again_while_it_waits_for_files_gives_up_no_window(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for _ in range(4):
        validator = network.validator("validator-0")
        with monkeypatch.context() as patch:
            # As a process that is killed while it waits: nothing after that is done any more.
            patch.setattr("grail_validator.arrivals._POLL_SECONDS", 0.001)
            patch.setattr("grail_validator.arrivals.Arrivals._settle", lambda *_: threading.Event().wait(0.2))
            end_work = validator.ledger.end_work

            def idle_then_killed(window: Any, end_work: Any = end_work, ledger: Any = validator.ledger) -> None:
                end_work(window)
                patch.setattr(ledger, "end_work", lambda _: None)
                killed()

            patch.setattr(validator.ledger, "end_work", idle_then_killed)
            with pytest.raises(KeyboardInterrupt):
                validator.advance(FIRST_WINDOW, threading.Event())
    with events() as names:
        assert network.validator("validator-0").advance(FIRST_WINDOW, threading.Event()) is WindowStatus.SCORED
    assert "window_not_scored" not in names


@pytest.mark.parametrize(
    ("after_tries", "own", "status"),
    [(True, True, MinerStatus.ACCEPTED), (False, True, MinerStatus.FAILED), (False, False, MinerStatus.INCONCLUSIVE)],
    ids=["its line is up again at the end", "the file alone is gone", "cut off to the end"],
)
def test_a_line_that_breaks_while_files_are_fetched_fails_no_honest_miner(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch, after_tries: bool, own: bool, status: MinerStatus
) -> None:
    """One file has come, the other's store is out of reach for all tries; then the miner's bucket is asked once more."""
    get, head, tries, looked = FilesystemStore.get, FilesystemStore.head, [0], list[str]()

    def unreachable(store: FilesystemStore, key: str, **options: Any) -> bytes:
        if key == key_of(network, "miner-1"):
            tries[0] += 1
            if tries[0] <= len(TRIES_AT_BLOCKS) or not after_tries:
                raise StorageError("no route to host", where=key)
        return get(store, key, **options)

    def of_own(store: FilesystemStore, key: str) -> Any:
        looked.append(key)
        if key == verdict_key(FIRST_WINDOW) and looked.count(key) == 1 and not own:  # it is up again when the verdict is put
            raise StorageError("no route to host", where=key)
        return head(store, key)

    validator = network.validator("validator-0")
    with monkeypatch.context() as patch:
        patch.setattr(FilesystemStore, "get", unreachable)
        patch.setattr(FilesystemStore, "head", of_own)
        assert validator.advance(FIRST_WINDOW, threading.Event()) is WindowStatus.SCORED
    assert tries[0] == len(TRIES_AT_BLOCKS) + 1
    found = {miner.hotkey: miner.status for miner in verdict(validator).miners}
    assert found[network.signers["miner-0"].hotkey] is MinerStatus.ACCEPTED
    assert found[network.signers["miner-1"].hotkey] is status


def test_stores_that_drip_to_the_end_take_no_time_from_one_that_answers_again(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who say that they have their files share the time evenly, whoever is looked for first."""
    files = WindowFiles(network.participant("validator-0"), FIRST_WINDOW)
    drawn = [(Hotkey(bytes([number]) * 32), 100) for number in range(8)]
    seals = {hotkey: SimpleNamespace(content_digest=Digest(bytes(32)), size=size) for hotkey, size in drawn}
    files._neurons = {hotkey: SimpleNamespace(hotkey=hotkey) for hotkey in seals}  # type: ignore[misc]
    limits: list[float] = []
    now = [0.0]

    def dripping(_: WindowFiles, *rest: Any) -> bool:
        limits.append(rest[-1])
        now[0] += rest[-1]  # all that it was given
        return False

    monkeypatch.setattr(sealed_files, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(WindowFiles, "_say_again", lambda _: set(seals))
    monkeypatch.setattr(WindowFiles, "_download", dripping)
    monkeypatch.setattr(WindowFiles, "_holders", lambda *_: [])
    for hotkey, seal in seals.items():
        assert files.elsewhere(hotkey, seal) is None  # type: ignore[arg-type]
    left_s = (files._elsewhere_until or 0.0) - now[0]
    assert left_s == pytest.approx(files._seconds(MAX_ELSEWHERE_BLOCKS))  # nor from looking into other validators' buckets
    assert limits == pytest.approx([files._seconds(MAX_ONCE_MORE_BLOCKS) / 8] * 8)
