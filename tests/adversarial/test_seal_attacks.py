"""The rows of seal, file and UID around the deadline, at their smallest: none gets through and nobody honest is hurt."""

from __future__ import annotations

import pytest

from tooling.adversaries import family_c_files, family_x_network
from tooling.adversaries.family_x_network import x4

ATTACKS = family_c_files.ATTACKS | family_x_network.ATTACKS


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"X4"}))
def test_no_attack_with_seal_file_or_uid_gets_through(name: str) -> None:
    row = ATTACKS[name](quick=True)
    assert (row["accepted"], row["honest_false_rejects"]) == (0, 0), row["details"]
    assert row["tries"] > 0


def test_a_file_that_goes_between_two_validators_is_never_judged_apart_in_silence() -> None:
    row = x4(tries=2)
    assert (row["tries"], row["accepted"], row["honest_false_rejects"]) == (2, 0, 0), row["details"]
