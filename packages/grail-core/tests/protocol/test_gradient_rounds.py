"""Gradient work, section 2: a spec that stands in a manifest, and the blocks of a round."""

from __future__ import annotations

import dataclasses

import pytest

from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.gradient.rounds import RoundTimes, round_of
from grail_core.protocol.gradient.spec import GradientSpec, interpolated
from grail_core.protocol.network import LOCALNET, SUBNET_81
from grail_core.protocol.reading import parse_json
from tooling.testing.gradient_specs import TINY


def test_a_spec_survives_the_manifest_it_stands_in() -> None:
    raw = canonical_json(TINY.environment("ab" * 32).to_json())
    m = parse_json(raw, most=1 << 16).members("env_id", "version", "parameters", "data_digest")
    parameters = m["parameters"].value
    assert isinstance(parameters, dict)
    said = EnvironmentSpec(m["env_id"].text(64), m["version"].integer(), parameters, m["data_digest"].text(64))
    assert GradientSpec.of(said) == TINY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_least", 9),
        ("inner_steps", 0),
        ("codec", "zip"),
        ("kept", 513),
        ("chunk", 1000),
        ("learning_rates", ()),
        ("learning_rates", ((5, 1), (5, 2))),
        ("outer_rates", ((0, 0),)),
        ("reveal_blocks", 21),
        ("tail_blocks", 28),
        ("guard", 65),
        ("peers", 65),
        ("score_step", 1001),
        ("inner_steps", 193),  # of which a header of 16 KiB cannot hold all roots
    ],
)
def test_a_parameter_outside_its_bounds_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(TINY, **{name: value})  # type: ignore[arg-type]


def test_what_is_no_spec_is_refused_with_its_path() -> None:
    parameters = TINY.to_json()
    for change, path in (
        ({"kept": "64"}, r"\$gradient\.kept"),
        ({"kept": 2**53}, r"\$gradient\.kept"),
        ({"learning_rates": [[0, 1, 2]]}, r"\$gradient\.learning_rates\[0\]"),
        ({"more": 1}, "unknown member 'more'"),
    ):
        with pytest.raises(ValueError, match=path):
            GradientSpec.from_json({**parameters, **change})
    with pytest.raises(ValueError, match="data_digest"):
        GradientSpec.of(dataclasses.replace(TINY.environment("ab" * 32), data_digest="ab"))
    with pytest.raises(ValueError, match="version"):
        GradientSpec.of(dataclasses.replace(TINY.environment("ab" * 32), version=2))


def test_a_rounds_events_come_in_order_and_end_before_the_next_round() -> None:
    times = RoundTimes(round_of(329, TINY), TINY, LOCALNET)
    blocks = [
        times.first_block,
        times.seed_beacon_block,
        times.deadline_block,
        times.first_sight_end_block,
        times.challenge_block,
        times.reveal_block,
        times.second_sight_end_block,
        times.checkpoint_block,
        times.next_round,
    ]
    assert blocks == [300, 301, 308, 312, 314, 318, 322, 325, 330]


def test_a_round_of_several_windows_begins_at_multiples_of_its_length() -> None:
    longer = dataclasses.replace(TINY, round_windows=5)
    assert round_of(449, longer) == 300
    with pytest.raises(ValueError, match="multiples of 150"):
        RoundTimes(330, longer, LOCALNET)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "offsets", "what"),
    [
        ({"reveal_blocks": 7}, LOCALNET, "reveal_blocks"),
        ({"tail_blocks": 20}, LOCALNET, "tail_blocks"),
        ({}, dataclasses.replace(LOCALNET, checkpoint_least_distance=2), "round_windows"),
        ({}, SUBNET_81, "tail_blocks"),
    ],
)
def test_a_network_that_leaves_a_round_no_room_is_refused(change: dict[str, int], offsets: object, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        RoundTimes(300, dataclasses.replace(TINY, **change), offsets)  # type: ignore[arg-type]


def test_rates_are_linear_between_entries_and_rounded_down() -> None:
    rates = ((0, 10), (4, 21), (10, 0))
    assert [interpolated(rates, at) for at in (0, 1, 3, 4, 5, 10, 99)] == [10, 12, 18, 21, 17, 0, 0]
