"""A later version of the protocol in manifests: what is read, what counts, what is passed on, and who is told what."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.checkpoints import announcement
from grail_core.checkpoints.announcement import LEAST_NOTICE_WINDOWS, Announcement, read_announcement, write_announcement
from grail_core.checkpoints.manifests import list_manifests, select
from grail_core.checkpoints.publish import publish
from grail_core.checkpoints.trainer_life import SILENT_ROUNDS, TrainerLife, trainer_life
from grail_core.errors import CheckpointError, ConfigurationError, UpgradeRequiredError
from grail_core.participant.trainer_watch import LAST_WINDOWS, TOLD_EVERY, TrainerWatch
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.manifest import CheckpointManifest, NewerManifestError, parse
from grail_core.protocol.reading import MAX_JSON_INTEGER, Node
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Block, Window
from grail_core.protocol.upgrade import Upgrade, in_force
from grail_core.storage.filesystem import FilesystemStore
from grail_core.storage.layout import manifest_key
from tooling.testing.checkpoints import (
    MODEL_FILES,
    NETWORK_ID,
    PARAMS,
    TRAINER,
    WeightsTrainer,
    bucket_of,
    first_window,
    parts_of,
    weights,
)
from tooling.testing.clock import ManualClock
from tooling.testing.faults import events
from tooling.testing.keys import EVE
from tooling.testing.vectors.checkpoints import FOLDER

TWO = Upgrade(2, Block(9000))
BLOCK_MS = 1_500


def time_of(block: Block) -> int:
    return block * BLOCK_MS


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    """Its clock is the chain's; everything published in these tests is in time."""
    return FilesystemStore(tmp_path, "bucket-trainer", clock=ManualClock(0))


@pytest.fixture
def manifest(store: FilesystemStore, tmp_path: Path) -> CheckpointManifest:
    return WeightsTrainer(store, tmp_path / "cache").publish(0)


def signed(body: dict[str, Any], signer: Signer = TRAINER) -> bytes:
    """Whatever it says, signed as a manifest is."""
    raw = canonical_json(body)
    signature = signer.sign(tagged_hash(NETWORK_ID, "grail/manifest", raw)).hex().encode()
    return b'{"manifest":' + raw + b',"signature":"' + signature + b'"}'


def read(raw: bytes) -> CheckpointManifest:
    return parse(raw, trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)


def body_of(manifest: CheckpointManifest) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(manifest.body)
    return body


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_manifest_without_an_announcement_has_no_such_member(manifest: CheckpointManifest) -> None:
    assert manifest.upgrade is None
    assert "upgrade" not in body_of(manifest)


def test_an_announcement_is_signed_with_everything_else(manifest: CheckpointManifest) -> None:
    body = {**body_of(manifest), "upgrade": {"version": 2, "block": 9000}}
    found = read(signed(body))
    assert found.upgrade == TWO
    assert canonical_json(found.to_json()) == found.body
    assert found.digest != manifest.digest
    with pytest.raises(CheckpointError, match="not signed by this network's trainer"):
        read(signed(body, EVE))
    moved = found.to_bytes().replace(b'"block":9000', b'"block":9030')
    with pytest.raises(CheckpointError, match="not signed"):
        read(moved)


@pytest.mark.parametrize(
    "upgrade",
    [
        None,
        [],
        "2",
        2,
        {},
        {"version": 2},
        {"block": 9000},
        {"version": 2, "block": 9000, "why": "x"},
        {"version": 2, "block": 9001},
        {"version": 2, "block": 0},
        {"version": 2, "block": -30},
        {"version": 2, "block": MAX_JSON_INTEGER},
        {"version": 1, "block": 9000},
        {"version": 0, "block": 9000},
        {"version": 65_536, "block": 9000},
        {"version": True, "block": 9000},
        {"version": "2", "block": 9000},
        {"version": 2, "block": None},
    ],
    ids=json.dumps,
)
def test_an_announcement_of_any_other_form_is_no_manifest(manifest: CheckpointManifest, upgrade: object) -> None:
    with pytest.raises(CheckpointError, match=r"out of bounds: .*upgrade"):
        read(signed({**body_of(manifest), "upgrade": upgrade}))


@given(st.integers(2, 65_535), st.integers(1, (2**53 - 1) // 30).map(lambda n: Block(30 * n)))
def test_announcements_round_trip(version: int, block: Block) -> None:
    upgrade = Upgrade(version, block)
    assert Upgrade.from_json(Node(upgrade.to_json())) == upgrade


def test_the_published_vectors_are_read_as_they_say(manifest: CheckpointManifest) -> None:
    published = json.loads((FOLDER / "upgrade.json").read_text())
    assert json.loads(published["manifest"]["body"])["upgrade"] == TWO.to_json()
    for upgrade in published["refused"]:
        with pytest.raises(CheckpointError):
            read(signed({**body_of(manifest), "upgrade": upgrade}))
    for case in published["in_force"]:
        rows = [(Window(start), upgrade and Upgrade.from_json(Node(upgrade))) for start, upgrade in case["ruling"]]
        found = in_force(rows, Window(case["window"]))
        assert (found and found.to_json()) == case["in_force"]


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ruling", "window", "expected"),
    [
        ([(30, None)], 30_000, None),
        ([(30, TWO)], 8970, None),
        ([(30, TWO)], 9000, TWO),
        ([(30, TWO)], 99_000, TWO),  # a trainer that is silent since changes nothing
        ([(30, TWO), (9000, None)], 99_000, None),  # withdrawn in time: no window from 9000 on was ruled by the first
        ([(30, TWO), (9030, None)], 99_000, TWO),  # one window too late: it was in force, and stays so
        ([(30, TWO), (60, Upgrade(2, Block(12_000)))], 9000, None),  # moved
        ([(30, TWO), (60, Upgrade(2, Block(12_000)))], 12_000, Upgrade(2, Block(12_000))),
        ([(30, TWO), (9030, Upgrade(3, Block(12_000)))], 12_000, Upgrade(3, Block(12_000))),
        ([(9300, TWO)], 9300, TWO),  # the checkpoint comes into force after the block that it names
    ],
)
def test_the_newest_announcement_counts_until_one_is_in_force(
    ruling: list[tuple[int, Upgrade | None]], window: int, expected: Upgrade | None
) -> None:
    rows = [(Window(start), upgrade) for start, upgrade in ruling]
    assert in_force(rows, Window(window)) == expected


def life_at(store: FilesystemStore, window: int) -> TrainerLife:
    view = list_manifests(store, trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)
    return trainer_life(view, Window(window), PARAMS, time_of)


def with_upgrade(store: FilesystemStore, tmp_path: Path, number: int, upgrade: Upgrade | None) -> CheckpointManifest:
    """Checkpoint `number`, published by a trainer that decided this before."""
    path = tmp_path / "upgrade.json"
    write_announcement(path, Announcement(upgrade))
    bucket = bucket_of(store, tmp_path / "cache")
    bucket.announcement = path
    parts = parts_of(NETWORK_ID, 30 * number, first_window(number))
    return publish(bucket, parts, weights(number), MODEL_FILES, TRAINER, PARAMS)


def test_a_role_may_begin_no_window_from_the_block_on_and_is_told_the_line(
    store: FilesystemStore, tmp_path: Path, manifest: CheckpointManifest
) -> None:
    with_upgrade(store, tmp_path, 1, TWO)
    life = life_at(store, 8970)
    assert (life.announced, life.required) == (TWO, None)
    life.require(Window(8970), "grail-miner")
    with pytest.raises(UpgradeRequiredError) as caught:
        life_at(store, 9000).require(Window(9000), "grail-miner")
    assert caught.value.exit_code == 3
    assert caught.value.hint == "pip install --upgrade grail-miner"
    assert "protocol version 2 is in force from block 9000 on" in caught.value.what


def test_a_checkpoint_that_came_too_late_moves_and_withdraws_nothing(tmp_path: Path) -> None:
    clock = ManualClock(0)
    store = FilesystemStore(tmp_path, "bucket-trainer", clock=clock)
    WeightsTrainer(store, tmp_path / "cache").publish(0)
    with_upgrade(store, tmp_path, 1, TWO)
    clock.now = time_of(Block(first_window(2)))  # after its lead: skipped for good by everybody
    with_upgrade(store, tmp_path, 2, None)
    assert life_at(store, 9000).required is not None


def test_a_manifest_of_a_later_format_says_the_line_and_is_never_passed_over_for_an_older_one(
    store: FilesystemStore, manifest: CheckpointManifest
) -> None:
    for member in ("version", "protocol_version"):
        body = {**body_of(manifest), member: 2, "valid_from": 90, "anything": "else"}
        with pytest.raises(NewerManifestError) as caught:
            read(signed(body))
        assert "pip install --upgrade" in caught.value.hint
        assert caught.value.valid_from == 90
    store.put(manifest_key(Window(90)), signed(body))
    view = list_manifests(store, trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)
    assert select(view, Window(60), PARAMS, time_of) == manifest
    assert life_at(store, 60).required is None
    assert "this software knows format 1" in (life_at(store, 90).required or "")


def test_a_later_format_copied_to_another_key_or_signed_by_somebody_else_stops_nobody(
    store: FilesystemStore, manifest: CheckpointManifest
) -> None:
    body = {**body_of(manifest), "version": 2, "valid_from": 90}
    store.put(manifest_key(Window(60)), signed(body))
    store.put(manifest_key(Window(90)), signed(body, EVE))
    assert life_at(store, 900).required is None


# --- what a publisher passes on ---------------------------------------------------------------------------------------


def test_what_was_announced_is_passed_on_without_the_file_too(store: FilesystemStore, tmp_path: Path) -> None:
    trainer = WeightsTrainer(store, tmp_path / "cache")
    trainer.publish(0)
    assert with_upgrade(store, tmp_path, 1, TWO).upgrade == TWO
    assert trainer.publish(2).upgrade == TWO  # its disk has no file
    later = Upgrade(2, Block(12_000))
    assert with_upgrade(store, tmp_path, 3, later).upgrade == later
    assert with_upgrade(store, tmp_path, 4, None).upgrade is None
    assert trainer.publish(5).upgrade is None


def test_an_announcement_whose_block_has_come_too_near_costs_no_checkpoint_and_is_told(
    store: FilesystemStore, tmp_path: Path, manifest: CheckpointManifest
) -> None:
    near = Upgrade(2, Block(first_window(1) + 30 * (LEAST_NOTICE_WINDOWS - 1)))
    with events() as names:
        assert with_upgrade(store, tmp_path, 1, near).upgrade is None
    assert names.count("upgrade_not_announced") == 1
    path = tmp_path / "upgrade.json"
    path.write_bytes(path.read_bytes()[:-9])
    bucket = bucket_of(store, tmp_path / "cache")
    bucket.announcement = path
    with events() as names:
        made = publish(bucket, parts_of(NETWORK_ID, 60, first_window(2)), weights(2), MODEL_FILES, TRAINER, PARAMS)
    assert (made.sequence, made.upgrade) == (2, None)
    assert "upgrade_not_announced" in names


def test_what_is_in_force_by_then_can_be_neither_moved_nor_withdrawn(manifest: CheckpointManifest) -> None:
    head = dataclasses.replace(manifest, upgrade=TWO)
    announcement.require_announceable(Announcement(None), head, Window(9000))
    for said in (None, Upgrade(2, Block(60_000))):
        with pytest.raises(ConfigurationError, match="is in force from block 9000 on"):
            announcement.require_announceable(Announcement(said), head, Window(9030))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"upgrade": {"version": 1, "block": 30}}', b'{"upgrade": 2}', b"[]"])
def test_a_file_that_says_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "upgrade.json"
    assert read_announcement(path) is None
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_announcement(path)
    assert caught.value.where == str(path)


# --- who is told what, and how often ----------------------------------------------------------------------------------


def test_an_upgrade_is_told_at_first_sight_from_time_to_time_and_in_the_last_windows(manifest: CheckpointManifest) -> None:
    watch, life = TrainerWatch("grail-miner"), TrainerLife(manifest, announced=TWO)
    count = 60
    with events() as names:
        for window in range(9000 - 30 * count, 9000, 30):
            watch.look(Window(window), life)
            watch.look(Window(window - 30), life)  # a validator looks back too
    assert names == ["upgrade_announced"] * (count // TOLD_EVERY + LAST_WINDOWS)
    with events() as names:
        watch.look(Window(9000), dataclasses.replace(life, announced=Upgrade(2, Block(12_000))))
        watch.look(Window(9030), dataclasses.replace(life, announced=None))
        watch.look(Window(9060), dataclasses.replace(life, announced=None))
    assert names == ["upgrade_announced", "upgrade_withdrawn"]


def test_an_older_list_after_a_newer_one_withdraws_nothing_and_ends_no_silence_twice(manifest: CheckpointManifest) -> None:
    older = TrainerLife(manifest)
    later = dataclasses.replace(manifest, sequence=manifest.sequence + 1, valid_from=Window(30 * TOLD_EVERY))
    newer = TrainerLife(later, announced=TWO)
    watch = TrainerWatch("grail-miner")
    with events() as names:
        for window in range(0, 30 * TOLD_EVERY, 60):
            watch.look(Window(window), newer)
            watch.look(Window(window + 30), older)
            watch.look(Window(window + 30), TrainerLife(None))
    assert names == ["upgrade_announced"]
    silent = dataclasses.replace(older, silent_windows=40)
    heard = TrainerLife(dataclasses.replace(manifest, sequence=manifest.sequence + 1, valid_from=Window(1260)))
    watch = TrainerWatch("grail-miner")
    with events() as names:
        watch.look(Window(1200), silent)
        for window in range(1260, 1260 + 30 * SILENT_ROUNDS, 30):
            watch.look(Window(window), heard)
            watch.look(Window(window), silent)
    assert names == ["trainer_silent", "trainer_heard_again"]


def test_silence_is_told_after_ten_windows_again_every_ten_and_its_end_once(
    store: FilesystemStore, tmp_path: Path, manifest: CheckpointManifest
) -> None:
    watch = TrainerWatch("grail-validator")
    last = 30 * (3 * SILENT_ROUNDS)
    with events() as names:
        for window in range(0, 30 * SILENT_ROUNDS, 30):
            watch.look(Window(window), life_at(store, window))
    assert names == []
    with events() as names:
        for window in range(30 * SILENT_ROUNDS, last, 30):
            watch.look(Window(window), life_at(store, window))
    assert names == ["trainer_silent"] * 2
    bucket = bucket_of(store, tmp_path / "cache")
    publish(bucket, parts_of(NETWORK_ID, last - 60, last), weights(1), MODEL_FILES, TRAINER, PARAMS)
    with events() as names:
        for window in (last, last + 30):
            watch.look(Window(window), life_at(store, window))
    assert names == ["trainer_heard_again"]
