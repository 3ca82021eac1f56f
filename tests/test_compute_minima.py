"""`compute.min.yaml` says what a machine needs at least: for every role and environment, and where each figure is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_core.participant.compute import BASES, FILE, KINDS, ROLES, read_minima
from grail_core.protocol.constants import CHECKED_MINERS_EXPECTED, MAX_FILE_BYTES, WINDOW_LENGTH
from grail_core.protocol.network import SUBNET_81
from grail_envs.registry import known_ids
from tooling import REPOSITORY

MEBIBITS_TO_MBIT = 8 / 1e6


def test_the_file_at_the_root_is_the_one_that_is_installed() -> None:
    assert (REPOSITORY / FILE.name).read_bytes() == FILE.read_bytes()


def test_every_role_has_every_figure_with_what_it_is_from_and_every_environment_is_there() -> None:
    minima = read_minima()
    assert minima.roles.keys() == {*ROLES}
    for role in ROLES:
        assert minima.roles[role].keys() == {*KINDS}
        for figure in minima.roles[role].values():
            assert figure.basis in BASES
            assert figure.source
    assert minima.environments.keys() == {*known_ids()}


def test_what_is_said_to_be_computed_follows_from_the_protocols_sizes() -> None:
    block_s = SUBNET_81.block_time_ms / 1000
    minima = read_minima()
    miner, validator, trainer = (minima.least(role, None, 0) for role in ROLES)
    assert miner["bandwidth_up_mbit"] == pytest.approx(MAX_FILE_BYTES * MEBIBITS_TO_MBIT / (2 * block_s), rel=0.01)
    drawn = CHECKED_MINERS_EXPECTED * MAX_FILE_BYTES * MEBIBITS_TO_MBIT
    assert validator["bandwidth_down_mbit"] == trainer["bandwidth_down_mbit"] == pytest.approx(drawn / (15 * block_s), rel=0.01)
    assert validator["bandwidth_up_mbit"] == pytest.approx(drawn / (WINDOW_LENGTH * block_s), rel=0.01)
    bf16, float32 = 2e9 / 2**30, 4e9 / 2**30
    per_billion = {role: {kind: figure.per_billion for kind, figure in minima.roles[role].items()} for role in ROLES}
    assert per_billion["miner"]["ram_gib"] == pytest.approx(2 * bf16, rel=0.03)
    assert per_billion["miner"]["disk_gib"] == pytest.approx(4 * bf16, rel=0.03)
    assert per_billion["miner"]["bandwidth_down_mbit"] == pytest.approx(2e9 * 8 / 1e6 / (WINDOW_LENGTH * block_s), rel=0.03)
    assert per_billion["validator"]["ram_gib"] == pytest.approx(4 * bf16 + float32, rel=0.03)
    assert per_billion["validator"]["disk_gib"] == pytest.approx(5 * bf16, rel=0.03)
    assert per_billion["trainer"]["ram_gib"] == pytest.approx(4 * float32 + 2 * bf16, rel=0.03)


def test_a_larger_model_and_an_environment_with_programs_need_more() -> None:
    minima = read_minima()
    small, large = minima.least("miner", "sat", 10**9), minima.least("miner", "mbpp", 8 * 10**9)
    assert all(large[kind] >= small[kind] for kind in KINDS)
    assert large["ram_gib"] == pytest.approx(3 + 8 * 3.8 + 1)


@pytest.mark.parametrize(
    ("of", "by"),
    [
        ("version: 1", "version: 2"),
        ("basis: measured", "basis: guessed"),
        ("cpu_cores: {least: 2,", "cpu_cores: {least: -2,"),
        ("cpu_cores:", "cpu_cares:"),
        ("  sat: {}", "  sat: {gpus: {least: 1, basis: measured, from: x}}"),
        ("roles:", "roles: !!python/object/apply:os.getcwd []\nrules:"),
        ("version: 1", "- {"),
    ],
)
def test_a_file_that_says_something_else_is_refused(of: str, by: str, tmp_path: Path) -> None:
    wrong = tmp_path / FILE.name
    wrong.write_text(FILE.read_text().replace(of, by, 1))
    with pytest.raises(ConfigurationError, match="minima"):
        read_minima(wrong)
