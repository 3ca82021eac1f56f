"""A checkpoint pins the table that its network's work is judged by, and its readers refuse whatever else stands there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.chain.development.clock import ClockMode
from grail_core.chain.development.local import LocalChain
from grail_core.checkpoints import published_table
from grail_core.checkpoints.pinned_table import (
    CALIBRATION_FILE,
    MAX_TABLE_BYTES,
    parse_table,
    pinned_object,
    pinned_table,
    read_table_file,
    require_within_limits,
    shipped,
    shipped_bytes,
)
from grail_core.checkpoints.source import CheckpointSource
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.participant.participant import Participant
from grail_core.participant.pinned import table_in_force
from grail_core.proof.calibration import BOUNDS, CalibrationTable, Coverage, PairCalibration, Shape, share_of_pooled
from grail_core.proof.coverage import coverage_of
from grail_core.proof.null import Null
from grail_core.protocol.manifest import CheckpointManifest, ObjectRef, build
from grail_core.protocol.network import CalibrationLimits, NetworkParameters
from grail_core.protocol.types import Digest, Window
from grail_core.storage.filesystem import FilesystemDirectory
from grail_core.storage.layout import manifest_key
from tooling.testing.checkpoints import MODEL_FILES, PARAMS, TRAINER, WeightsTrainer

LARGE = json.dumps({"architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 80, "hidden_size": 8192}).encode()
TIGHT = replace(PARAMS, calibration_limits=replace(PARAMS.calibration_limits, logit_variance=1000))
"""A network that admits less than the shipped table says."""


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The shipped table after a change to its JSON."""
    value = json.loads(shipped_bytes())
    change(value)
    return json.dumps(value).encode()


OTHER = changed(lambda table: table.update(version="other/1"))


@dataclass
class Published:
    """A trainer's bucket on a development chain, and who reads it."""

    root: Path
    params: NetworkParameters

    def __post_init__(self) -> None:
        clock = ClockMode.VIRTUAL
        self.chain = LocalChain.create(self.root / "chain.db", seed=4, clock=clock, genesis_time_ms=1_000_000)
        (self.root / "buckets").mkdir()
        self.directory = FilesystemDirectory(self.root / "buckets", "trainer", clock=self.chain.now_ms)
        self.chain.register(TRAINER)
        self.chain.advance(2)
        self.chain.commit(TRAINER, self.directory.commitment())
        self.chain.advance(3)

    def publish(self, number: int = 0, calibration: bytes | None = None, *, uncovered: bool = False) -> CheckpointManifest:
        store, network_id = self.directory.own(), self.params.network_id(self.chain.genesis_hash)
        trainer = WeightsTrainer(store, self.root / "trainer", network_id, self.params, calibration, uncovered)
        return trainer.publish(number)

    def source(self, given: Path | None = None) -> CheckpointSource:
        network_id = self.params.network_id(self.chain.genesis_hash)
        cache = self.root / "reader"
        return CheckpointSource(self.chain, self.directory, self.params, network_id, cache, calibration=given)

    def sign_anew(self, manifest: CheckpointManifest, table: bytes | None) -> CheckpointManifest:
        """What a trainer can sign that publishes with other software: a manifest with these bytes as its table, or none."""
        store = self.directory.own()
        files = tuple(file for file in manifest.files if file.path != CALIBRATION_FILE)
        if table is not None:
            ref = ObjectRef.of(table)
            store.put(ref.key, table)
            (pinned,) = (file for file in manifest.files if file.path == CALIBRATION_FILE)
            files = tuple(sorted((*files, replace(pinned, object=ref)), key=lambda file: file.path))
        signed = build(replace(manifest, files=files), TRAINER)
        store.put(manifest_key(signed.valid_from), signed.to_bytes())
        return signed


@pytest.fixture
def network(tmp_path: Path) -> Published:
    return Published(tmp_path, PARAMS)


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


# --- what is pinned ---------------------------------------------------------------------------------------------------


def test_the_first_checkpoint_pins_the_shipped_table_and_later_ones_the_one_before_them(network: Published) -> None:
    first = network.publish(0)
    assert pinned_object(first) == ObjectRef.of(shipped_bytes())
    assert pinned_object(network.publish(1)) == pinned_object(first)
    other = network.publish(2, OTHER)
    assert pinned_object(other) == ObjectRef.of(OTHER)
    last = network.publish(3)
    assert pinned_object(last) == pinned_object(other)
    source = network.source()
    assert source.table(first) == shipped()
    assert source.table(last).name == f"other/1 {digest_of(OTHER).hex()[:16]}"


def test_the_table_is_a_file_of_the_folder_and_is_read_from_there_without_the_bucket(network: Published) -> None:
    manifest, source = network.publish(), network.source()
    folder = source.materialise(manifest)
    assert (folder / CALIBRATION_FILE).read_bytes() == shipped_bytes()
    store = network.directory.own()
    store.delete(pinned_object(manifest).key)
    for path in source.cache.objects.iterdir():
        path.unlink()
    assert source.table(manifest) == shipped()
    (folder / CALIBRATION_FILE).write_bytes(OTHER)
    with pytest.raises(CheckpointError):  # what was changed there is not taken for it
        source.table(manifest)


def test_a_publication_that_was_cut_off_finishes_with_the_table_it_began_with(network: Published) -> None:
    manifest = network.publish(0, OTHER)
    assert network.publish(0) == manifest


# --- what is not published --------------------------------------------------------------------------------------------


def test_a_table_that_does_not_cover_the_model_is_published_deliberately_or_not_at_all(
    network: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODEL_FILES, "config.json", LARGE)
    with pytest.raises(CheckpointError, match=r"does not cover proof in .* for 80 layers of 8192") as refused:
        network.publish()
    assert "--uncovered" in str(refused.value.hint)
    assert list(network.directory.own().list("grail/checkpoints/")) == []
    assert network.publish(uncovered=True).sequence == 0
    with pytest.raises(CheckpointError, match="does not cover"):
        network.publish(1)


def test_where_a_network_refuses_what_no_table_covers_no_word_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Published(tmp_path, replace(PARAMS, uncalibrated="refused"))
    monkeypatch.setitem(MODEL_FILES, "config.json", LARGE)
    with pytest.raises(CheckpointError, match="does not cover") as refused:
        network.publish(uncovered=True)
    assert "--calibration" in str(refused.value.hint)


def test_a_configuration_that_does_not_say_its_shape_is_covered_by_no_table(
    network: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODEL_FILES, "config.json", json.dumps({"architectures": ["Qwen2ForCausalLM"]}).encode())
    with pytest.raises(CheckpointError, match="does not say how many layers"):
        network.publish()


def test_a_table_that_readers_would_refuse_is_not_published(tmp_path: Path, network: Published) -> None:
    for table, why in (
        (b"{", "no valid JSON"),
        (b" " * (MAX_TABLE_BYTES + 1), "not a calibration table"),
        (changed(lambda table: table.update(version="")), "version"),
    ):
        with pytest.raises(CheckpointError, match=why):
            network.publish(0, table)
    (tmp_path / "tight").mkdir()
    with pytest.raises(CheckpointError, match="wider than localnet admits: logit_variance is 2, at most 1"):
        Published(tmp_path / "tight", TIGHT).publish()


# --- what is not followed ---------------------------------------------------------------------------------------------


def test_a_manifest_without_a_table_is_followed_by_nobody(network: Published) -> None:
    without = network.sign_anew(network.publish(), None)
    with pytest.raises(CheckpointError, match="pins no calibration table"):
        network.source().table(without)


def test_a_table_beyond_the_networks_limits_is_refused_with_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Published(tmp_path, TIGHT)
    with monkeypatch.context() as dishonest:
        dishonest.setattr(published_table, "require_within_limits", lambda *_: None)
        manifest = network.publish()
    with pytest.raises(CheckpointError, match="logit_variance is 2, at most 1, for bf16-sdpa-cpu-transformers measured in"):
        network.source().table(manifest)
    assert network.source().materialise(manifest).is_dir()  # its bytes are sound: what may be judged by it is what is refused


@pytest.mark.parametrize("name", [field.name for field in fields(CalibrationLimits)])
def test_every_figure_that_a_network_limits_is_looked_at(name: str) -> None:
    require_within_limits(shipped().table, PARAMS, "here")
    tight = replace(PARAMS, calibration_limits=replace(PARAMS.calibration_limits, **{name: 1}))
    with pytest.raises(CheckpointError, match=rf"wider than localnet admits: {name}( threshold)? is .*, at most 0\.001, for"):
        require_within_limits(shipped().table, tight, "here")


def with_threshold(name: str, wanted: float, units: int, dead_zones: float) -> CalibrationTable:
    """A table that parses, whose threshold for so many units with so many dead zones is `wanted`."""
    low, high = BOUNDS[name]
    table = shipped().table
    (rollouts,) = {pair.rollouts for pair in table.pairs.values()}
    least, most = 0.0, high - low

    def of(worst: float) -> Null:
        """Two conditions without any spread, so far apart."""
        return Null.fit([np.full(8, low), np.full(8, low + worst)], low, high, rollouts=rollouts)

    for _ in range(60):
        middle = (least + most) / 2
        over = of(middle).threshold(units, share_of_pooled(), dead_zones=dead_zones) > wanted
        least, most = (least, middle) if over else (middle, most)
    assert of(most).threshold(units, share_of_pooled(), dead_zones=dead_zones) == pytest.approx(wanted, rel=1e-3)
    pairs = {key: replace(pair, nulls={**pair.nulls, name: of(most)}) for key, pair in table.pairs.items()}
    return CalibrationTable.from_json(replace(table, pairs=pairs).to_json())


@pytest.mark.parametrize("name", BOUNDS)
def test_limits_hold_at_every_shape_that_a_table_reaches(name: str) -> None:
    limit = getattr(PARAMS.calibration_limits, name) / 1000
    within = with_threshold(name, 0.9 * limit, 64, 2.0)
    require_within_limits(within, PARAMS, "here")
    for pair in within.pairs.values():
        twice = Shape(2 * pair.largest.layers, 2 * pair.largest.hidden_size)
        assert pair.coverage(twice) is Coverage.EXTENDED
        assert pair.threshold(name, 64, share_of_pooled(), twice) <= limit
    with pytest.raises(CheckpointError, match=rf"{name} threshold is .*, at most {limit:g}"):
        require_within_limits(with_threshold(name, 0.99 * limit, 64, 1.0), PARAMS, "here")


@pytest.mark.parametrize("name", BOUNDS)
def test_a_table_under_which_a_test_rejects_nothing_of_two_groups_is_refused_whatever_the_limits(name: str) -> None:
    wide = replace(PARAMS, calibration_limits=replace(PARAMS.calibration_limits, **{name: 5000}))
    with pytest.raises(CheckpointError, match=rf"{name} threshold at 32 rollouts is .*, and no value is above"):
        require_within_limits(with_threshold(name, 1.05 * BOUNDS[name][1], 32, 1.0), wide, "here")


@pytest.mark.parametrize(
    "switched_off",
    [
        lambda pair: None,
        lambda pair: replace(pair, tokens=99_999),
        lambda pair: replace(pair, checkpoints=9),
        lambda pair: replace(pair, shapes=pair.shapes[:1]),
        lambda pair: replace(pair, shapes=(Shape(1, 1), Shape(1, 2), Shape(2, 1))),
    ],
    ids=["no pair", "few tokens", "few checkpoints", "one shape", "no size"],
)
def test_a_trainer_alone_leaves_no_class_to_the_coarse_bounds_that_tables_were_made_for(
    switched_off: Callable[[PairCalibration], PairCalibration | None],
) -> None:
    assert PARAMS.uncalibrated == "reported"
    table = shipped().table
    for key, pair in table.pairs.items():
        left = switched_off(pair)
        others = {other: kept for other, kept in table.pairs.items() if other != key}
        given = replace(table, pairs=others if left is None else {**others, key: left})
        wanted = any((one.miner, one.measured_in) == key for one in coverage_of(table, PARAMS, Shape(1, 1)))
        if not wanted:
            continue
        with pytest.raises(CheckpointError, match=f"nothing is enforced of .* in {key[0]} measured in {key[1]}"):
            require_within_limits(given, PARAMS, "here")
    elsewhere = replace(PARAMS, proof_classes=("bf16-cuda-h100-vllm",), generation_classes=("bf16-cuda-h100-vllm",))
    require_within_limits(replace(table, pairs={}), elsewhere, "here")  # no table was ever made for them


def test_classes_that_the_network_does_not_admit_are_not_held_to_its_limits() -> None:
    table = shipped().table
    eager = "bf16-eager-cpu-transformers"
    only = replace(TIGHT, proof_classes=(eager,), generation_classes=(eager,))
    others = replace(
        table,
        pairs={key: replace(pair, logit_variance=1.0 if pair.miner == eager else 2.0) for key, pair in table.pairs.items()},
    )
    require_within_limits(others, only, "here")
    with pytest.raises(CheckpointError, match=eager):
        require_within_limits(table, only, "here")


HOSTILE = {
    "cut off": (shipped_bytes()[:-5], "no valid JSON"),
    "deep": (b'{"pairs":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "no UTF-8": (b"\xff" + shipped_bytes(), "no valid JSON"),
    "twice": (b'{"version":"a","version":"b"}', "no valid JSON"),
    "NaN": (shipped_bytes().replace(b'"mean": ', b'"mean": NaN, "was": ', 1), "no integer: NaN"),
    "infinite": (shipped_bytes().replace(b'"mean": ', b'"mean": -Infinity, "was": ', 1), "no integer: -Infinity"),
    "a number of a million digits": (b'{"pairs": ' + b"9" * 1_000_000 + b"}", "no valid JSON"),
    "a list": (b"[]", "not a calibration table"),
    "control characters": (changed(lambda table: table.update(version="a\x1b[2J")), "version"),
    "a long version": (changed(lambda table: table.update(version="v" * 65)), "version"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_no_table_wherever_they_come_from(network: Published, tmp_path: Path, name: str) -> None:
    raw, why = HOSTILE[name]
    with pytest.raises(ConfigurationError, match=why):
        parse_table(raw)
    path = tmp_path / "given.json"
    path.write_bytes(raw)
    with pytest.raises(ConfigurationError, match=why) as refused:
        read_table_file(path)
    assert refused.value.where == str(path)
    manifest = network.sign_anew(network.publish(), raw)
    for read in (network.source().table, network.source().materialise):
        with pytest.raises(CheckpointError, match=why) as followed:
            read(manifest)
        assert CALIBRATION_FILE in str(followed.value.where)


def test_a_table_of_any_size_is_refused_before_a_byte_of_it_is_fetched(network: Published) -> None:
    manifest = network.sign_anew(network.publish(), b" " * (MAX_TABLE_BYTES + 1))
    network.directory.own().delete(pinned_name(manifest))
    with pytest.raises(CheckpointError, match=f"the limit is {MAX_TABLE_BYTES}"):
        network.source().table(manifest)


def pinned_name(manifest: CheckpointManifest) -> str:
    return next(file.object.key for file in manifest.files if file.path == CALIBRATION_FILE)


def test_bytes_of_another_digest_are_not_the_manifests(network: Published) -> None:
    with pytest.raises(CheckpointError, match="not the one that the manifest names"):
        pinned_table(network.publish(), OTHER, PARAMS)


# --- a copy of this machine's own -------------------------------------------------------------------------------------


def test_a_copy_of_the_pinned_table_is_taken_and_another_one_refused_with_both_digests(
    network: Published, tmp_path: Path
) -> None:
    manifest, path = network.publish(), tmp_path / "mine.json"
    path.write_bytes(shipped_bytes())
    assert network.source(path).table(manifest) == shipped()
    path.write_bytes(OTHER)
    with pytest.raises(ConfigurationError) as refused:
        network.source(path).table(manifest)
    assert digest_of(OTHER).hex() in refused.value.what
    assert digest_of(shipped_bytes()).hex() in refused.value.what
    assert str(path) in str(refused.value.where)
    assert "unset GRAIL_CALIBRATION" in str(refused.value.hint)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        network.source(tmp_path / "none.json").table(manifest)


@pytest.mark.parametrize("what", ["a pipe", "a device", "a folder", "nothing", "no table"])
def test_whatever_lies_where_an_operator_points_is_refused_at_once_with_the_way_out(
    network: Published, tmp_path: Path, what: str
) -> None:
    manifest, path = network.publish(), tmp_path / "mine.json"
    if what == "a pipe":
        os.mkfifo(path)  # nobody writes to it
    elif what == "a device":
        path.symlink_to("/dev/zero")
    elif what == "a folder":
        path.mkdir()
    elif what == "no table":
        path.write_text("{")
    with pytest.raises(ConfigurationError) as refused:
        network.source(path).table(manifest)
    assert refused.value.where == f"GRAIL_CALIBRATION={path}"
    assert "unset GRAIL_CALIBRATION" in str(refused.value.hint)
    if what in ("a pipe", "a device"):
        assert "no regular file" in refused.value.what


def test_a_table_of_another_format_says_which_it_is() -> None:
    for found, said in ((2, "of format 2"), (None, "of no format"), ("3", "of no format")):
        with pytest.raises(ConfigurationError, match=rf"format 3 is expected, and this one is {said}\b"):
            parse_table(json.dumps({"format": found, "version": "old/1"}).encode())


def test_a_start_says_what_is_wrong_with_the_table_and_waits_for_what_is_not_there(network: Published, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(OTHER)
    participant = Participant(
        params=network.params,
        chain=network.chain,
        directory=network.directory,
        beacon=None,  # type: ignore[arg-type]
        signer=TRAINER,
        cache_dir=tmp_path / "cache",
        state_dir=tmp_path / "state",
        calibration=path,
    )
    assert table_in_force(participant) is None  # no checkpoint yet
    manifest = network.publish()
    anew = replace(participant)
    assert participant.current_window() == Window(0)
    with pytest.raises(ConfigurationError, match="pins"):
        table_in_force(anew)
    assert table_in_force(replace(participant, calibration=None)) == (manifest, shipped())
