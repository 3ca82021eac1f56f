"""The table of attacks claims what was tried and no more: a quick run says that it is one, and what it does not decide."""

from __future__ import annotations

import json

import pytest

from tooling.adversaries import quick
from tooling.adversaries.__main__ import SIZES, main, print_table, wanted_ids
from tooling.adversaries.deviations.catalogue import all_deviations
from tooling.adversaries.rows import Row, Try
from tooling.adversaries.scene import SWIFT, WHOLE, Scene, published_power, run_deviations

DECIDED, UNDECIDED = "8-bit weights, per channel", "8-bit generation, right prefill"


def row(*tries: Try, **fields: object) -> Row:
    return Row("A4", "file", list(tries), **fields)  # type: ignore[arg-type]


def test_what_a_size_does_not_decide_is_counted_and_claimed_neither_way() -> None:
    tries = (Try(UNDECIDED, True, "", ""), Try(UNDECIDED, False, "sampling", "m"), Try(DECIDED, False, "proof", "m"))
    found = row(*tries, undecided={UNDECIDED}).to_json()
    assert (found["tries"], found["accepted"], found["caught_by"]) == (3, 0, "proof")
    assert found["not_decided"] == {UNDECIDED: {"tries": 2, "passed": 1}}


def test_a_decided_try_that_passes_is_accepted_beside_undecided_ones() -> None:
    found = row(Try(UNDECIDED, True, "", ""), Try(DECIDED, True, "", ""), undecided={UNDECIDED}).to_json()
    assert found["accepted"] == 1


def test_only_the_published_model_is_held_against_the_published_power(scene: Scene) -> None:
    found = run_deviations(scene, row(), [DECIDED], 1, power=True).to_json()
    assert "power" not in found
    assert "not_decided" not in found


@pytest.mark.parametrize(("name", "of_size"), [("a name that nobody has", "4x128"), (DECIDED, "1x1")])
def test_a_power_that_is_not_published_is_none_and_not_a_small_one(name: str, of_size: str) -> None:
    assert published_power(name, of_size) is None


@pytest.mark.parametrize(
    "arguments", [["--size", "5x5"], ["--size", "12x512", "--quick"], ["--size", "12x512", "--family", "C"]]
)
def test_a_size_that_says_nothing_of_what_is_asked_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert "--size" in capsys.readouterr().err


def test_the_whole_table_leaves_nothing_undecided_and_a_quick_one_what_help_names() -> None:
    assert tuple(WHOLE) == SIZES
    assert all(extent.undecided == frozenset() for extent in WHOLE.values())
    assert SWIFT.undecided == quick.UNDECIDED
    assert set(all_deviations()) >= quick.UNDECIDED
    assert all(name in quick.HELP for name in quick.UNDECIDED)


def test_a_quick_run_has_the_rows_of_a_whole_one_and_says_that_it_is_quick(
    own_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--quick", "--ids", "A9,B1,I4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quick"] is True
    assert found["note"] == quick.NOTE
    assert [(one["id"], one["status"]) for one in found["rows"]] == [
        ("A9", "built"),
        ("B1", "built"),
        ("I4", "not built"),
    ]
    by_id = {one["id"]: one for one in found["rows"]}
    unnamed = "8-bit generation by groups of 64 with zero point, right prefill"
    assert set(by_id["B1"]["not_decided"]) == {UNDECIDED, unnamed, "4-bit generation, right prefill"}
    assert all(by_id[id_]["honest_tries"] > 0 for id_ in ("A9", "B1"))
    print_table(found["rows"], found["note"])
    table = " ".join(capsys.readouterr().out.split())
    assert "quick run:" in table
    assert f"B1: not decided at this size: {UNDECIDED}: 1 of 1 files passed" in table


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_a_quick_run_of_every_id_lets_nothing_through(own_cache: None, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--quick", "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [one for one in rows if one["accepted"] or one["honest_false_rejects"]] == []
    assert [one["id"] for one in rows] == wanted_ids("", "")
    assert code == 0
