"""Drawn files share the disk: never more than there is, the smallest first, and nobody keeps others out by being slow."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from grail_validator.disk_room import DiskRoom, Place


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def admit(room: DiskRoom) -> None:
    with room._changed:
        room._admit()


def now(room: DiskRoom, place: Place) -> bool:
    """Has it room without a wait? Else it stays in the queue."""
    admit(room)
    return place.has_room


def test_the_smallest_goes_first_whoever_asks_first() -> None:
    room = DiskRoom(350)
    large, small, middle = room.queue([350, 1, 200])
    assert not now(room, large)
    assert small.has_room
    assert middle.has_room
    room.leave(small, filled=False)
    assert not now(room, large)
    room.leave(middle, filled=False)
    assert now(room, large)


def test_a_whole_file_keeps_its_room_until_it_is_judged() -> None:
    told: list[int] = []
    room = DiskRoom(100, on_room=told.append)
    first, second = room.queue([60, 61])
    assert now(room, first)
    room.filled(first)
    assert not now(room, second)
    room.leave(first, filled=True)
    assert now(room, second)
    assert told == [60, 61]  # what is still to be filled: the whole one is in the cache's own count


def test_who_gives_its_room_to_others_waits_behind_all_of_them() -> None:
    room = DiskRoom(100)
    slow, waiting, larger = room.queue([90, 91, 100])
    assert now(room, slow)
    assert room.is_wanted
    room.to_the_back(slow)
    assert now(room, waiting)
    room.leave(waiting, filled=False)
    assert now(room, larger)
    room.leave(larger, filled=False)
    assert now(room, slow)
    assert not room.is_wanted


def test_who_waits_too_long_leaves_the_queue_and_those_behind_it_go_on() -> None:
    clock = Clock()
    room = DiskRoom(100, clock=clock)
    first, large, larger = room.queue([50, 60, 61])
    assert now(room, first)
    clock.now = 10.0
    assert not room.wait(large, until=10.0)
    room.leave(first, filled=False)
    assert now(room, larger)


def test_nobody_waits_once_it_is_closed() -> None:
    room = DiskRoom(10)
    inside, outside = room.queue([10, 10])
    assert room.wait(inside, until=float("inf"))
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(room.wait(outside, until=float("inf"))))
    thread.start()
    room.close()
    thread.join(60)
    assert got == [False]


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(100, 300), st.randoms())
def test_all_get_room_and_never_more_than_there_is(sizes: list[int], total: int, random: object) -> None:
    room = DiskRoom(total)
    places = room.queue(sizes)
    inside: list[Place] = []
    done = 0
    while done < len(sizes):
        admit(room)
        inside = [place for place in places if place.has_room]
        assert 0 < sum(place.size for place in inside) <= total
        room.leave(random.choice(inside), filled=False)  # type: ignore[attr-defined]
        done += 1
    assert not room.is_wanted
