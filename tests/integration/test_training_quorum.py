"""Whose word a trainer takes, with real verdicts, buckets, files and stake: a sliver of stake is not asked, and nothing refused
is read twice."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grail_core.errors import StorageError
from grail_core.files.verdicts import VerdictReader
from grail_core.protocol import MinerStatus, VerdictBody, WindowStatus
from grail_core.protocol.signed_verdicts import MAX_VERDICT_BYTES
from grail_core.protocol.types import Block, Digest
from grail_core.storage import time_limits
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import file_key, verdict_key
from grail_core.verification.examine import examine
from grail_core.verification.verdict import contradictions, inputs_of
from grail_core.verification.window_file import check_file
from grail_trainer.data import batch, intake, wanted_files
from grail_trainer.data.intake import PATIENCE_BLOCKS
from grail_trainer.hyper_parameters import IntakeSettings
from grail_trainer.service import TrainerService
from tooling.testing.faults import events
from tooling.testing.learning_network import LearningNetwork, learning_model, published_log, service
from tooling.testing.small_network import FIRST_WINDOW
from tooling.testing.speaking import opened as opened_window
from tooling.testing.speaking import say, scored, unscored
from tooling.testing.watched import WatchedDirectory

BIG, SMALL = "validator-0", "validator-1"
AFTER_PATIENCE = Block(FIRST_WINDOW + 36 + PATIENCE_BLOCKS)
NEVER = threading.Event
SLIVER = {BIG: 9 * 10**15, SMALL: 10**9 - 10**12}
"""The small one is left with what just gives a permit, one in nine million."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (intake, wanted_files):
        monkeypatch.setattr(module, "MIN_PAUSE_SECONDS", 0)
        monkeypatch.setattr(module, "seconds_of", lambda *_: 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learning_model(tmp_path_factory.mktemp("model") / "sat")


Open = Callable[..., LearningNetwork]


@pytest.fixture
def opened(tmp_path: Path, model: Path) -> Open:
    """A network in its first window. `more`: rao that validators have beyond the 10¹² of each, or less."""

    def open_(more: Mapping[str, int] | None = None) -> LearningNetwork:
        network = LearningNetwork(tmp_path, model=model)
        for name, amount in (more or {}).items():
            network.chain.stake(network.signers[name], amount)
        network.advance_to(FIRST_WINDOW + 1)
        return network

    return open_


def trainer_of(network: LearningNetwork, model: Path) -> TrainerService:
    return service(network.participant("trainer"), model)


def learned(trainer: TrainerService) -> set[str]:
    """Digests of the files that the first window was learned from."""
    if not trainer.state.journal or not trainer.state.journal.learned:
        return set()
    return {member["content_digest"] for member in published_log(trainer.participant)["groups"]}


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def watched_trainer(network: LearningNetwork, model: Path) -> tuple[TrainerService, WatchedDirectory]:
    participant = network.participant("trainer")
    watched = WatchedDirectory(participant.directory)
    return service(dataclasses.replace(participant, directory=watched), model), watched


# --- who decides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["down", "inconclusive", "void"])
def test_one_of_two_equal_validators_goes_on_without_the_other(opened: Open, model: Path, other: str) -> None:
    network = opened()
    data = network.mine_and_upload("miner-0")
    network.claim(BIG, {"miner-0": data})
    if other != "down":
        say(network, SMALL, unscored(network, WindowStatus(other)))
    else:
        network.advance_to(AFTER_PATIENCE)
    trainer = trainer_of(network, model)
    assert trainer.run(NEVER(), windows=1) == 1
    assert learned(trainer) == {digest_of(data).hex()}


def test_a_sliver_of_stake_names_no_file_and_is_not_even_asked(opened: Open, model: Path) -> None:
    network = opened(SLIVER)
    named, other = network.mine_and_upload("miner-0"), network.mine_and_upload("miner-1")
    network.claim(BIG, {"miner-0": named})
    network.claim(SMALL, {"miner-1": other})
    trainer, watched = watched_trainer(network, model)
    assert trainer.run(NEVER(), windows=1) == 1
    assert learned(trainer) == {digest_of(named).hex()}
    assert {bucket for bucket, _ in watched.reads} == {network.directory(BIG).commitment()}


def test_a_sliver_of_stake_does_not_speak_for_those_who_are_silent(opened: Open, model: Path) -> None:
    network = opened(SLIVER)
    data = network.mine_and_upload("miner-0")
    network.claim(SMALL, {"miner-0": data})
    network.advance_to(Block(FIRST_WINDOW + (IntakeSettings().max_windows_old + 1) * 30))
    trainer, watched = watched_trainer(network, model)
    assert trainer.run(NEVER(), windows=1) == 0
    assert not [key for _, key in watched.reads if key.startswith("grail/files/")]


def test_a_window_that_half_of_the_stake_can_never_score_is_passed_over_at_once(opened: Open, model: Path) -> None:
    network = opened(SLIVER)
    data = network.mine_and_upload("miner-0")
    network.claim(SMALL, {"miner-0": data})
    say(network, BIG, unscored(network, WindowStatus.VOID))
    assert trainer_of(network, model).run(NEVER(), windows=1) == 0


def test_what_a_real_validator_publishes_contradicts_nothing(opened: Open, model: Path) -> None:
    network = opened()
    network.mine_and_upload("miner-0")
    for body in network.judge():
        seen = opened_window(network)
        registered = {n.uid: n.hotkey for n in network.chain.metagraph(Block(FIRST_WINDOW)).neurons}
        inputs = inputs_of(seen.context, seen.challenge)
        assert body.status is WindowStatus.SCORED
        assert contradictions(body, inputs, seen.challenge.select_seed, registered) == ()


def forged_coin(body: VerdictBody) -> VerdictBody:
    return dataclasses.replace(body, miners=tuple(dataclasses.replace(miner, coin=0) for miner in body.miners))


def other_chain(body: VerdictBody) -> VerdictBody:
    return dataclasses.replace(body, inputs=dataclasses.replace(body.inputs, block_hash=b"x" * 32))


def other_checkpoint(body: VerdictBody) -> VerdictBody:
    return dataclasses.replace(body, inputs=dataclasses.replace(body.inputs, checkpoint_digest=Digest(b"x" * 32)))


def not_drawn(body: VerdictBody) -> VerdictBody:
    miners = tuple(dataclasses.replace(miner, status=MinerStatus.NOT_SELECTED, checked=False) for miner in body.miners)
    return dataclasses.replace(body, miners=miners)


@pytest.mark.parametrize("forge", [forged_coin, other_chain, other_checkpoint, not_drawn])
def test_a_verdict_that_contradicts_chain_or_coin_is_told_and_ignored_whole(
    opened: Open, model: Path, forge: Callable[[VerdictBody], VerdictBody]
) -> None:
    network = opened()
    data = network.mine_and_upload("miner-0")
    network.claim(BIG, {"miner-0": data})
    say(network, SMALL, forge(scored(network, {"miner-0": (data, MinerStatus.ACCEPTED)})))
    trainer = trainer_of(network, model)
    with events() as names:
        assert trainer.run(NEVER(), windows=1) == 1  # the other has half of the stake, and no patience is asked for
    assert names.count("verdict_ignored") == 1
    speaker = network.signers[BIG].hotkey.hex()
    assert list(published_log(trainer.participant)["verdicts"]) == [speaker]


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, MAX_VERDICT_BYTES + 1], ids=["no verdict", "oversize"])
def test_a_refused_verdict_is_read_once_at_most(opened: Open, model: Path, size: int) -> None:
    network = opened()
    data = network.mine_and_upload("miner-0")
    network.claim(BIG, {"miner-0": data})
    network.participant(SMALL).own_store.put(verdict_key(FIRST_WINDOW), b"x" * size)
    trainer, watched = watched_trainer(network, model)
    chain = trainer.participant.chain
    polls = 0
    current_block = chain.current_block

    def patience_ends_with_the_twelfth_poll() -> Block:
        nonlocal polls
        polls += 1
        if polls == 12:
            network.advance_to(AFTER_PATIENCE)
        return current_block()

    chain.current_block = patience_ends_with_the_twelfth_poll  # type: ignore[method-assign]
    with events() as names:
        assert trainer.run(NEVER(), windows=1) == 1
    assert polls >= 12
    assert names.count("verdict_unreadable") == 1
    assert watched.reads.count((network.directory(SMALL).commitment(), verdict_key(FIRST_WINDOW))) == (size == 100)


def test_a_verdict_that_does_what_nobody_thought_of_costs_that_verdict(
    opened: Open, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened()
    data = network.mine_and_upload("miner-0")
    for name in (BIG, SMALL):
        network.claim(name, {"miner-0": data})
    network.advance_to(AFTER_PATIENCE)

    read = VerdictReader.read

    def raising(reader: VerdictReader, store: Any, window: Any, validator: Any) -> Any:
        if validator == network.signers[SMALL].hotkey:
            raise RecursionError("deeper than anybody thought")
        return read(reader, store, window, validator)

    monkeypatch.setattr(VerdictReader, "read", raising)
    trainer = trainer_of(network, model)
    with events() as names:
        assert trainer.run(NEVER(), windows=1) == 1
    assert names.count("verdict_unreadable") == 1
    assert learned(trainer) == {digest_of(data).hex()}


def test_slow_stores_of_small_validators_hold_no_round_up_together(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = LearningNetwork(tmp_path, model=model, validators=8)
    network.chain.stake(network.signers[BIG], 10**15)
    network.advance_to(FIRST_WINDOW + 1)
    data = network.mine_and_upload("miner-0")
    network.advance_to(AFTER_PATIENCE)
    big = network.signers[BIG].hotkey
    given: list[float] = []
    read = VerdictReader.read

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()

    def dripping(reader: VerdictReader, store: Any, window: Any, validator: Any) -> Any:
        if validator == big:
            if len(given) == 9:  # after the first round, and two slow ones
                network.claim(BIG, {"miner-0": data})
            return read(reader, store, window, validator)
        given.append(time_limits.seconds_left())
        clock.now += given[-1]
        raise StorageError("a few bytes came")

    monkeypatch.setattr(VerdictReader, "read", dripping)
    monkeypatch.setattr(time_limits, "time", clock)
    monkeypatch.setattr(intake, "time", clock)
    trainer = trainer_of(network, model)
    assert trainer.run(NEVER(), windows=1) == 1
    assert given == [intake.QUICK_SECONDS] * 7 + [intake.SLOW_SECONDS] * 2
    assert learned(trainer) == {digest_of(data).hex()}


def test_a_holder_that_drips_takes_its_time_once(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    network = opened({BIG: 10**9})
    files = {name: network.mine_and_upload(name) for name in ("miner-0", "miner-1")}
    metagraph = network.chain.metagraph()
    holders = tuple(n for name in (BIG, SMALL) if (n := metagraph.by_hotkey(network.signers[name].hotkey)) is not None)
    for name in (BIG, SMALL):
        for data in files.values():
            network.participant(name).own_store.put(file_key(digest_of(data)), data)
    trainer = network.participant("trainer")
    slow = trainer.directory.open(network.directory(BIG).commitment())
    get, now = FilesystemStore.get, [0.0]

    def dripping(store: FilesystemStore, key: str, **options: Any) -> bytes:
        if store is slow:
            now[0] += time_limits.seconds_left()
            raise StorageError("a few bytes came")
        return get(store, key, **options)

    monkeypatch.setattr(FilesystemStore, "get", dripping)
    monkeypatch.setattr(time_limits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(wanted_files, "seconds_of", lambda blocks, _: blocks)
    wanted = wanted_files.WantedFiles(trainer, FIRST_WINDOW, too_late=AFTER_PATIENCE)
    for name, data in files.items():
        one = intake.WantedFile(network.signers[name].hotkey, digest_of(data), holders)
        assert wanted.read(one) == data
    assert now[0] == wanted_files.MAX_FETCH_BLOCKS


def test_only_wanted_files_are_read_and_each_from_one_bucket(opened: Open, model: Path) -> None:
    network = opened()
    files = {name: network.mine_and_upload(name) for name in ("miner-0", "miner-1")}
    verdicts = {"miner-0": (files["miner-0"], MinerStatus.ACCEPTED), "miner-1": (files["miner-1"], MinerStatus.FAILED)}
    for name in (BIG, SMALL):
        network.claim(name, files)
        say(network, name, scored(network, verdicts))
    trainer, watched = watched_trainer(network, model)
    assert trainer.run(NEVER(), windows=1) == 1
    read = [key for _, key in watched.reads if key.startswith("grail/files/")]
    assert read == [file_key(digest_of(files["miner-0"]))]


def test_a_file_that_no_accepting_validator_has_is_told_and_the_rest_is_learned_from(opened: Open, model: Path) -> None:
    network = opened()
    files = {name: network.mine_and_upload(name) for name in ("miner-0", "miner-1")}
    for name in (BIG, SMALL):
        network.claim(name, files)
        network.participant(name).own_store.delete(file_key(digest_of(files["miner-1"])))
    network.advance_to(AFTER_PATIENCE)
    trainer = trainer_of(network, model)
    with events() as names:
        assert trainer.run(NEVER(), windows=1) == 1
    assert "accepted_files_missing" in names
    assert learned(trainer) == {digest_of(files["miner-0"]).hex()}
    assert not (trainer.participant.cache_dir / "accepted").exists()


def test_a_file_that_comes_within_patience_is_learned_from(opened: Open, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = opened()
    data = network.mine_and_upload("miner-0")
    for name in (BIG, SMALL):
        network.claim(name, {"miner-0": data})
        network.participant(name).own_store.put(file_key(digest_of(data)), b"not yet")
    trainer = trainer_of(network, model)
    asked = 0
    patient = wanted_files.WantedFiles._patient

    def comes_with_the_fifth(self: wanted_files.WantedFiles, tries: int, had: int) -> bool:
        nonlocal asked
        asked += 1
        if asked == 5:
            network.participant(SMALL).own_store.put(file_key(digest_of(data)), data)
        return patient(self, tries, had)

    monkeypatch.setattr(wanted_files.WantedFiles, "_patient", comes_with_the_fifth)
    with events() as names:
        assert trainer.run(NEVER(), windows=1) == 1
    assert names.count("accepted_file_unreadable") == 2  # once a bucket, however often it is asked


def test_what_is_unforeseen_with_one_file_costs_that_file(opened: Open, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = opened()
    files = {name: network.mine_and_upload(name) for name in ("miner-0", "miner-1")}
    for name in (BIG, SMALL):
        network.claim(name, files)

    def raising(data: Any, context: Any, **options: Any) -> Any:
        if context.hotkey == network.signers["miner-0"].hotkey:
            raise ZeroDivisionError("nobody thought of it")
        return examine(data, context, **options)

    monkeypatch.setattr(batch, "examine", raising)
    trainer = trainer_of(network, model)
    with events() as names:
        assert trainer.run(NEVER(), windows=1) == 1
    assert "group_dropped" in names
    assert learned(trainer) == {digest_of(files["miner-1"]).hex()}
    [dropped] = [entry for entry in published_log(trainer.participant)["dropped"] if entry["group"] is None]
    assert "ZeroDivisionError" in dropped["reason"]


def test_one_file_is_open_at_a_time(opened: Open, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = opened()
    files = {name: network.mine_and_upload(name) for name in ("miner-0", "miner-1")}
    for name in (BIG, SMALL):
        network.claim(name, files)
    opened_files: list[weakref.ref[Any]] = []

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            gc.collect()
            assert not [one for one in opened_files if one() is not None]
            result = real(*arguments, **options)
            opened_files.append(weakref.ref(getattr(result, "submission", result)))
            return result

        return wrapped

    monkeypatch.setattr(batch, "examine", counting(examine))
    monkeypatch.setattr(batch, "check_file", counting(check_file))
    trainer = trainer_of(network, model)
    assert trainer.run(NEVER(), windows=1) == 1
    assert learned(trainer) == {digest_of(data).hex() for data in files.values()}
    assert len(opened_files) == 4
