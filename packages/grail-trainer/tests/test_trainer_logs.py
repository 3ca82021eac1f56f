"""Promises of what a trainer publishes of its training: logs and anchors that a stranger reads without trusting a byte."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grail_core.errors import CheckpointError, StorageError
from grail_core.keys import LocalSigner
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.base import ObjectInfo
from grail_core.storage.filesystem import FilesystemDirectory
from grail_core.storage.layout import anchor_key, anchor_part_key, training_log_key
from grail_trainer.auditing.said_settings import said_settings
from grail_trainer.data.batch import BatchMember, DroppedGroup
from grail_trainer.hyper_parameters import GrpoSettings, HyperParameters, OptimiserSettings
from grail_trainer.learning.training_state import write_state_file
from grail_trainer.publishing.machine_facts import MachineFacts, machine_facts
from grail_trainer.publishing.own_logs import LogBefore, OwnLogs
from grail_trainer.publishing.state_anchors import (
    AnchorGoneError,
    fetch_anchor,
    kept,
    publish_anchor,
    read_anchor,
    retire_anchors,
)
from grail_trainer.publishing.training_log import (
    MAX_DROPPED,
    MAX_LOG_BYTES,
    MAX_REASON,
    FileName,
    LoggedAlarm,
    LogLink,
    PublishedCheckpoint,
    SignedLog,
    TrainingLog,
    digest_of_log,
    shortened,
)

NETWORK = Digest(bytes(range(32)))
SIGNER = LocalSigner.from_seed(b"t" * 32)
DIGEST = Digest(b"d" * 32)
MINER = Hotkey(b"m" * 32)
WINDOW = Window(300)
WIDE = "\U0001f30f"  # one character, four bytes


def a_log(**changes: Any) -> TrainingLog:
    log = TrainingLog(
        network_id=NETWORK,
        trainer=SIGNER.hotkey,
        window=WINDOW,
        number=10,
        origin=DIGEST,
        behaviour=DIGEST,
        reference=DIGEST,
        temperature="1",
        max_tokens=8,
        verdicts={Hotkey(b"v" * 32): DIGEST},
        files=(FileName(MINER, DIGEST),),
        missing=(),
        groups=(BatchMember(MINER, DIGEST, 0), BatchMember(MINER, DIGEST, 3)),
        dropped=(DroppedGroup(MINER, DIGEST, 2, "proof: far", (Finding("proof", Outcome.REJECT, "0.5", "0.3"),)),),
        dropped_total=1,
        without_variance=4,
        settings=HyperParameters().to_json(),
        machine=machine_facts("cpu"),
        state_before=DIGEST,
        state_after=Digest(b"e" * 32),
        weights_root=DIGEST,
        undone="",
        alarms=(LoggedAlarm("entropy", "slow", "0.1", "0.2", "entropy fell"),),
        statistics={"steps": 12, "loss": "0.25"},
        previous=LogLink(Window(270), DIGEST),
        anchor=DIGEST,
        checkpoint=PublishedCheckpoint(DIGEST, 9, Window(360), DIGEST),
    )
    return dataclasses.replace(log, **changes)


# --- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_comes_back_as_it_was_signed_and_is_its_trainers_alone() -> None:
    signed = SignedLog.sign(a_log(), SIGNER)
    again = SignedLog.decode(signed.encode())
    assert again.log == a_log()
    assert again.verify(NETWORK, SIGNER.hotkey)
    assert not again.verify(bytes(32), SIGNER.hotkey)
    assert not again.verify(NETWORK, MINER)
    assert digest_of_log(signed.encode(), NETWORK) == a_log().digest()


@pytest.mark.parametrize("member", [*a_log().to_json()])
def test_every_member_of_a_log_is_signed_and_asked_for(member: str) -> None:
    signed = SignedLog.sign(a_log(), SIGNER)
    value = json.loads(signed.encode())
    del value["body"][member]
    with pytest.raises(ValueError, match="log"):
        SignedLog.decode(canonical_json(value))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("window", 301),
        ("number", 0),
        ("alarms", [{}]),
        ("groups", [{"hotkey": "00" * 32, "content_digest": "00" * 32, "group": -1}]),
        ("verdicts", {"zz": "00" * 32}),
        ("settings", {"update": {"epochs": [[]]}}),
        ("statistics", {"loss": "1" * 1000}),
        ("machine", {}),
        ("version", 3),
    ],
)
def test_a_log_with_a_member_out_of_bounds_is_none(member: str, value: object) -> None:
    raw = json.loads(SignedLog.sign(a_log(), SIGNER).encode())
    raw["body"][member] = value
    with pytest.raises(ValueError, match="log"):
        SignedLog.decode(canonical_json(raw))


@given(st.binary(max_size=200))
def test_whatever_lies_there_is_a_log_or_no_log(raw: bytes) -> None:
    with pytest.raises(ValueError, match="log"):
        SignedLog.decode(raw)


def test_what_was_dropped_fits_into_a_log_however_much_it_is() -> None:
    findings = tuple(Finding("proof", Outcome.REJECT, detail=WIDE * 512) for _ in range(100))
    many = shortened([DroppedGroup(MINER, DIGEST, number, WIDE * 5000, findings) for number in range(MAX_DROPPED + 9)])
    assert len(many) == MAX_DROPPED
    assert max(len(one.reason) for one in many) == MAX_REASON
    assert len(canonical_json(a_log(dropped=many).to_json())) < MAX_LOG_BYTES * 0.8
    log = a_log(dropped=many[:50], dropped_total=len(many))
    assert SignedLog.decode(SignedLog.sign(log, SIGNER).encode()).log == log


def test_settings_come_back_out_of_a_log() -> None:
    chosen = HyperParameters(GrpoSettings(epochs=2, loss="grpo", dual_clip=3.0), OptimiserSettings(learning_rate=3e-5))
    assert said_settings(json.loads(canonical_json(chosen.to_json()))) == chosen


@pytest.mark.parametrize(
    ("section", "knob", "value"),
    [
        ("update", "epochs", 99),
        ("update", "epochs", "3"),
        ("update", "loss", "other"),
        ("update", "kl_coefficient", "nan"),
        ("update", "kl_coefficient", "1.50"),
        ("optimiser", "unheard_of", 1),
    ],
)
def test_settings_that_no_trainer_takes_are_none(section: str, knob: str, value: object) -> None:
    said: dict[str, Any] = HyperParameters().to_json()
    said[section] = said[section] | {knob: value}
    with pytest.raises(ValueError, match=r"\$settings"):
        said_settings(said)


def test_facts_that_differ_between_two_machines_are_named() -> None:
    ours = machine_facts("cpu")
    theirs = dataclasses.replace(ours, threads=ours.threads + 1, packages=dict(ours.packages) | {"torch": "0.1"})
    assert ours.differences(ours) == []
    assert [one.split(":")[0] for one in ours.differences(theirs)] == ["threads", "torch"]
    assert MachineFacts(**{**ours.__dict__}) == ours


def test_a_log_follows_the_newest_one_before_it_whatever_was_passed_over(tmp_path: Path) -> None:
    store = FilesystemDirectory(tmp_path, "trainer").own()
    assert OwnLogs(store, NETWORK).before(WINDOW, Window(30)) is None
    log = a_log(window=Window(90))
    store.put(training_log_key(Window(90)), SignedLog.sign(log, SIGNER).encode())
    assert OwnLogs(store, NETWORK).before(WINDOW, Window(30)) == LogBefore(LogLink(Window(90), log.digest()), DIGEST)
    store.put(training_log_key(Window(270)), b"no log")
    with pytest.raises(StorageError, match="no training log"):
        OwnLogs(store, NETWORK).before(WINDOW, Window(30))


# --- anchors ----------------------------------------------------------------------------------------------------------


def a_state() -> dict[str, torch.Tensor]:
    values = torch.arange(3000, dtype=torch.float32).reshape(30, 100)
    return {"master.w": values, "moment1.w": values / 7, "moment2.w": values * 3, "steps": torch.tensor(4)}


class Counting:
    """A store that breaks at its n-th put."""

    def __init__(self, store: Any, breaks_at: int) -> None:
        self._store, self.left = store, breaks_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        if self.left == 0:
            raise StorageError("503")
        self.left -= 1
        info: ObjectInfo = self._store.put(key, data, if_absent=if_absent)
        return info


def state_file(folder: Path) -> Path:
    write_state_file(folder / "state.safetensors", a_state())
    return folder / "state.safetensors"


def published(store: Any, folder: Path) -> Digest:
    return publish_anchor(store, SIGNER, NETWORK, WINDOW, state_file(folder), DIGEST, part_bytes=5000)


def test_an_anchor_that_fails_at_any_put_is_finished_by_the_next_try_and_is_not_there_before(tmp_path: Path) -> None:
    whole = FilesystemDirectory(tmp_path, "whole").own()
    digest = published(whole, tmp_path)
    parts = sum(1 for _ in whole.list("grail/anchors/")) - 1
    assert parts > 5
    for breaks_at in range(parts + 1):
        store = FilesystemDirectory(tmp_path, f"store-{breaks_at}").own()
        with pytest.raises(StorageError):
            published(Counting(store, breaks_at), tmp_path)
        with pytest.raises(AnchorGoneError):
            read_anchor(store, WINDOW, digest=digest, network_id=NETWORK, trainer=SIGNER.hotkey)
        again = Counting(store, parts + 1)
        assert published(again, tmp_path) == digest
        assert again.left == breaks_at  # nothing is uploaded twice


def test_an_anchor_gives_the_state_back_to_the_bit(tmp_path: Path) -> None:
    store = FilesystemDirectory(tmp_path, "store").own()
    digest = published(store, tmp_path)
    anchor = read_anchor(store, WINDOW, digest=digest, network_id=NETWORK, trainer=SIGNER.hotkey)
    tensors: Mapping[str, Any] = fetch_anchor(store, anchor, tmp_path / "scratch", most_tensor_bytes=40_000)
    assert {name: torch.equal(tensor, a_state()[name]) for name, tensor in tensors.items()} == dict.fromkeys(a_state(), True)
    assert not list((tmp_path / "scratch").iterdir())


def test_an_anchor_that_is_altered_or_not_the_trainers_is_not_taken(tmp_path: Path) -> None:
    store = FilesystemDirectory(tmp_path, "store").own()
    digest = published(store, tmp_path)
    anchor = read_anchor(store, WINDOW, digest=digest, network_id=NETWORK, trainer=SIGNER.hotkey)
    with pytest.raises(CheckpointError, match="not the one"):
        read_anchor(store, WINDOW, digest=DIGEST, network_id=NETWORK, trainer=SIGNER.hotkey)
    with pytest.raises(CheckpointError, match="not the one"):
        read_anchor(store, WINDOW, digest=digest, network_id=NETWORK, trainer=MINER)
    with pytest.raises(CheckpointError, match="at most"):
        fetch_anchor(store, dataclasses.replace(anchor, parts=anchor.parts * 9000), tmp_path, most_tensor_bytes=10)
    key = anchor_part_key(WINDOW, anchor.parts[1].sha256)
    store.put(key, store.get(key, max_bytes=10**6)[:-1] + b"\x00")
    with pytest.raises(CheckpointError, match="not the bytes"):
        fetch_anchor(store, anchor, tmp_path, most_tensor_bytes=40_000)
    store.delete(key)
    with pytest.raises(AnchorGoneError):
        fetch_anchor(store, anchor, tmp_path, most_tensor_bytes=40_000)
    store.put(anchor_key(WINDOW), b"{}")
    with pytest.raises(CheckpointError, match="no anchor"):
        read_anchor(store, WINDOW, digest=digest, network_id=NETWORK, trainer=SIGNER.hotkey)


windows = st.integers(0, 200).map(lambda number: Window(30 * number))


@given(st.sets(windows, max_size=12), windows, st.sets(windows, max_size=40))
def test_an_anchor_stays_as_long_as_a_window_that_begins_at_it_can_be_repeated(
    anchors: set[Window], oldest: Window, trained: set[Window]
) -> None:
    following = {one: min((window for window in trained if window > one), default=None) for one in anchors}
    left = kept(anchors, oldest, following)
    for window in trained:
        before = [one for one in anchors if one < window]
        if not before:
            continue
        needed = max(before)
        way = [one for one in trained if needed < one <= window]
        if all(one >= oldest for one in way):  # every file on the way is still there
            assert needed in left
    assert left <= anchors
    assert not anchors or max(anchors) in left
    assert all(one in left or (following[one] or oldest) < oldest for one in anchors)


def test_anchors_that_nobody_can_begin_at_any_more_are_deleted_list_first(tmp_path: Path) -> None:
    store = FilesystemDirectory(tmp_path, "store").own()
    for window in (300, 600, 900):
        publish_anchor(store, SIGNER, NETWORK, Window(window), state_file(tmp_path), DIGEST, part_bytes=5000)
    for window in (330, 660):  # the first one that was learned from behind an anchor
        store.put(training_log_key(Window(window)), b"log")
    assert retire_anchors(store, Window(900), windows=8) == [300]  # 660 is kept: 900 − 8 · 30
    assert retire_anchors(store, Window(930), windows=8) == [600]
    assert {info.key.split("/")[2] for info in store.list("grail/anchors/")} == {"900"}
    assert retire_anchors(store, Window(90_000), windows=8) == []
