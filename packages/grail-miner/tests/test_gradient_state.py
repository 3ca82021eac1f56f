"""What a miner of gradient work keeps: all of a round or nothing, whatever instruction its process dies at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grail_core.errors import DamagedStateError
from grail_core.protocol.types import Digest, Window
from grail_miner.gradient import state as module
from grail_miner.gradient.state import Feedback, GradientState, Pending


def feedback(round: int, value: float = 1.0) -> Feedback:
    return Feedback(Window(round), Digest(bytes([round % 251] * 32)), {"a": np.full(3, value, np.float32)})


def pending(round: int) -> Pending:
    steps = {"theta/1/a": np.arange(3, dtype=np.float32)}
    return Pending(Window(round), b"seal", b"update", steps, feedback(round, float(round)))


def same(left: Feedback | None, right: Feedback | None) -> bool:
    if left is None or right is None:
        return left is right
    arrays = left.error.keys() == right.error.keys() and all(np.array_equal(left.error[n], right.error[n]) for n in left.error)
    return (left.round, left.root) == (right.round, right.root) and arrays


def test_a_pending_round_is_found_again_and_its_feedback_counts_once_it_is_settled(tmp_path: Path) -> None:
    state = GradientState(tmp_path)
    assert state.feedback() is None
    assert state.pending() is None
    state.keep(pending(30))
    found = GradientState(tmp_path).pending()
    assert found is not None
    assert (found.seal, found.update) == (b"seal", b"update")
    assert state.feedback() is None
    np.testing.assert_array_equal(found.steps["theta/1/a"], np.arange(3, dtype=np.float32))
    state.settle(Window(30), counts=True)
    state.settle(Window(30), counts=False)
    assert same(state.feedback(), feedback(30, 30.0))
    assert state.pending() is None


def test_a_round_that_does_not_count_leaves_the_feedback_before_it(tmp_path: Path) -> None:
    state = GradientState(tmp_path)
    state.keep(pending(30))
    state.settle(Window(30), counts=True)
    state.keep(pending(60))
    state.settle(Window(60), counts=False)
    assert same(state.feedback(), feedback(30, 30.0))


def test_files_that_nobody_names_do_not_stay(tmp_path: Path) -> None:
    state = GradientState(tmp_path)
    for round in (30, 60, 90):
        state.keep(pending(round))
        state.settle(Window(round), counts=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after-90.safetensors", "journal.json"]
    state.forget_feedback()
    assert [path.name for path in tmp_path.iterdir()] == ["journal.json"]


def test_a_miner_that_dies_at_any_write_has_the_old_round_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(Exception):
        pass

    writes = 5
    for last in range(writes):
        folder = tmp_path / str(last)
        state = GradientState(folder)
        state.keep(pending(30))
        done = 0

        def dying(name: str) -> Callable[..., None]:
            function = getattr(module, name)

            def write(*given: Any) -> None:
                nonlocal done
                if done == last:  # noqa: B023
                    raise Died
                done += 1
                function(*given)

            return write

        with monkeypatch.context() as patch:
            for name in ("write_atomically", "write_state"):
                patch.setattr(module, name, dying(name))
            with pytest.raises(Died):
                state.keep(pending(60))
        found = GradientState(folder).pending()
        assert found is not None
        assert found.round == 30
    state.keep(pending(60))
    found = state.pending()
    assert found is not None
    assert found.round == 60


@pytest.mark.parametrize("name", ["update-30.bin", "steps-30.safetensors", "after-30.safetensors", "journal.json"])
def test_a_damaged_file_is_said_with_what_can_be_done(tmp_path: Path, name: str) -> None:
    state = GradientState(tmp_path)
    state.keep(pending(30))
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedStateError, match="of gradient work") as error:
        state.pending()
    assert "move the folder away" in str(error.value)
    path.unlink()
    if name != "journal.json":
        with pytest.raises(DamagedStateError, match="is gone"):
            state.pending()
