"""The doctor says by which table a network's work is judged, and what each class that it admits is held to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from grail_core.checkpoints.pinned_table import shipped, shipped_bytes
from grail_core.checkpoints.source import CheckpointSource
from grail_core.checkpoints.trainer_life import TrainerLife
from grail_core.errors import ConfigurationError, ProtocolViolationError, UpgradeRequiredError
from grail_core.participant.settings import Settings, load_settings
from grail_core.protocol.types import Block
from grail_core.protocol.upgrade import Upgrade
from grail_validator.cli import cli
from grail_validator.doctor import standing
from grail_validator.table_changes import changes
from tooling.testing.network import FIRST_WINDOW, Network

SDPA, EAGER = "bf16-sdpa-cpu-transformers", "bf16-eager-cpu-transformers"
Ask = Callable[..., Result]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    made = Network(tmp_path_factory.mktemp("network"), miners=0, validators=1)
    made.advance_to(FIRST_WINDOW + 5)
    return made


@pytest.fixture
def doctor(network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.chdir(tmp_path)
    given = {
        "BT_NETWORK": "local",
        "BT_CHAIN_ENDPOINT": str(network.root / "chain.sqlite"),
        "GRAIL_NETWORK": str(tmp_path / "network.json"),
        "GRAIL_STORAGE_ROOT": str(network.root / "buckets"),
        "GRAIL_CACHE_DIR": str(tmp_path / "cache"),
        "GRAIL_STATE_DIR": str(tmp_path / "state"),
        "GRAIL_CHECKPOINT_CACHE_GIB": "1",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "network.json").write_text(json.dumps(network.params.to_json()))

    def ask(*options: str) -> Result:
        return CliRunner().invoke(cli, ["doctor", "--table", *options])

    return ask


def test_every_admitted_class_is_listed_with_what_the_pinned_table_enforces_of_it(doctor: Ask) -> None:
    done = doctor("--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["calibration"] == {"version": shipped().table.version, "digest": shipped().digest.hex()}
    assert {(one["use"], one["class"], one["measured_in"]) for one in told["classes"]} == {
        ("proof", SDPA, SDPA),
        ("proof", EAGER, EAGER),
        ("proof", EAGER, SDPA),  # long files
        *(("generation", drawn, measured) for drawn in (SDPA, EAGER) for measured in (SDPA, EAGER)),
    }
    assert {one["coverage"] for one in told["classes"]} == {"full"}
    assert all(one["thresholds"] for one in told["classes"])
    words = doctor()
    assert words.exit_code == 0, words.output
    assert shipped().digest.hex() in words.stdout
    assert "full: enforced" in words.stdout
    for one in told["classes"]:  # nothing is cut or folded where it is searched for
        start = f"{one['use']} in {one['class']}, measured in {one['measured_in']}: full; "
        (line,) = (line for line in words.stdout.splitlines() if line.startswith(start))
        assert all(name in line for name in one["thresholds"])


def test_another_table_than_the_pinned_one_is_told_with_both_digests(
    doctor: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(shipped_bytes() + b" ")
    monkeypatch.setenv("GRAIL_CALIBRATION", str(path))
    done = doctor()
    assert isinstance(done.exception, ConfigurationError)
    assert shipped().digest.hex() in done.exception.what


def test_a_class_without_a_table_is_reported_or_ends_in_an_error_as_the_network_says(
    doctor: Ask, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(shipped().table.pairs[SDPA, SDPA], tokens=99_999)
    table = replace(shipped().table, pairs={**shipped().table.pairs, (SDPA, SDPA): few})
    monkeypatch.setattr("grail_core.checkpoints.source.pinned_table", lambda *_: replace(shipped(), table=table))
    told = json.loads(doctor("--json").stdout)
    without = [one for one in told["classes"] if one["coverage"] == "none"]
    assert [(one["use"], one["class"], one["measured_in"]) for one in without] == [
        ("proof", SDPA, SDPA),
        ("generation", SDPA, SDPA),
    ]
    assert [one["thresholds"] for one in without] == [{}, {}]
    assert "none: reported only" in doctor().stdout
    strict = replace(network.params, uncalibrated="refused")
    found = standing(load_settings())
    monkeypatch.setattr("grail_validator.doctor.standing", lambda _: replace(found, params=strict))
    done = doctor()
    assert isinstance(done.exception, ProtocolViolationError)
    assert done.exception.what.startswith("2 admitted pairs are not covered")


def test_a_proposal_says_what_it_changes_and_nothing_else() -> None:
    table = shipped().table
    assert changes(table, table) == []
    pair = table.pairs[SDPA, SDPA]
    name, null = next(iter(pair.nulls.items()))
    wider = replace(pair, nulls={**pair.nulls, name: replace(null, dead_zone=null.dead_zone + 1.0)})
    (one,) = changes(table, replace(table, pairs={**table.pairs, (SDPA, SDPA): wider}))
    assert one.line.startswith(f"{SDPA} measured in {SDPA}: {name} threshold at 64 rollouts ")
    assert one.before is not None
    assert one.after == pytest.approx(one.before + 1.0)
    gone = changes(table, replace(table, pairs={key: kept for key, kept in table.pairs.items() if key != (SDPA, EAGER)}))
    assert {(change.miner, change.measured_in, change.after) for change in gone} == {(SDPA, EAGER, None)}


def test_a_silent_trainer_and_an_upgrade_are_told(doctor: Ask, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.advance_to(FIRST_WINDOW + 12 * 30)
    done = doctor()
    assert done.exit_code == 0
    assert "the trainer is silent: no checkpoint has come into force for 12 windows" in done.output
    announced = TrainerLife(network.manifest, announced=Upgrade(2, Block(FIRST_WINDOW + 13 * 30)))
    monkeypatch.setattr(CheckpointSource, "life", lambda *_: announced)
    assert "in 1 windows: pip install --upgrade grail-validator" in doctor().output
    monkeypatch.setattr(CheckpointSource, "life", lambda *_: replace(announced, required="version 2 is in force"))
    ended = doctor().exception
    assert isinstance(ended, UpgradeRequiredError)
    assert ended.hint == "pip install --upgrade grail-validator"
