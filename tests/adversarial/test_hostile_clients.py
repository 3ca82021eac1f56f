"""Hostile clients of a node: it fetches nothing, tells nobody of others, and others are answered while one besieges it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tooling.adversaries.family_i_clients import i19
from tooling.adversaries.family_i_strangers import World, run_i14, run_i15, world
from tooling.adversaries.rows import Row


@pytest.fixture(scope="module")
def strangers() -> Iterator[World]:
    with world() as made:
        yield made


def no_try_got_through(row: Row) -> None:
    assert row.tries
    assert [(one.name, one.message) for one in row.tries if one.accepted] == []
    assert row.honest_tries > 0
    assert row.honest_false_rejects == 0


def test_no_address_is_fetched_wherever_it_stands(strangers: World) -> None:
    no_try_got_through(run_i14(strangers, most=2))


def test_what_another_client_asked_is_told_to_nobody_and_logged_nowhere(strangers: World) -> None:
    no_try_got_through(run_i15(strangers))


@pytest.mark.heavy  # a node in a process of its own, and bodies that are waited for
def test_one_client_wears_out_neither_the_node_nor_the_others() -> None:
    row = i19(quick=True)
    assert [one for one in row["details"] if one["accepted"]] == []
    assert (row["honest_false_rejects"], row["honest_tries"] > 0) == (0, True)
