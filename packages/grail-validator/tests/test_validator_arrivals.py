"""Files are judged in the order they come, tries go on meanwhile, and the verdict is the same whatever the order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from grail_core.errors import DiskFullError
from grail_core.files.evidence import write_evidence
from grail_core.protocol import MinerStatus, Seal
from grail_core.protocol.types import Hotkey
from grail_validator.arrivals import Arrivals, Patience, Tried
from grail_validator.cases import Case, Interrupted, Measured, NotSoughtError, Sealed, WindowResult
from grail_validator.disk_room import DiskRoom
from grail_validator.judging import judge_window
from tooling.testing.plain_case import NEURONS, PlainFiles, case, honest, stored

HOTKEYS = [neuron.hotkey for neuron in NEURONS]
A_MINUTE = 60.0  # that no wait takes


def of_order(order: Sequence[int]) -> Callable[[Sequence[Sealed]], Generator[Sealed]]:
    def arriving(drawn: Sequence[Sealed]) -> Generator[Sealed]:
        yield from sorted(drawn, key=lambda one: order.index(one.entry.neuron.uid))

    return arriving


def outcome(result: WindowResult) -> tuple[object, ...]:
    return result.body.canonical(), write_evidence(result.evidence), list(result.counted.items()), result.classes


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [(), (1,), (0, 2), (0, 1, 2)])
def test_in_whatever_order_files_come_the_verdict_and_its_evidence_are_the_same_bytes(gone: tuple[int, ...]) -> None:
    window = case(*(stored(uid, honest(uid), gone=uid in gone) for uid in range(3)))
    outcomes = [outcome(judge_window(replace(window, arriving=of_order(order)))) for order in itertools.permutations(range(3))]
    assert all(one == outcomes[0] for one in outcomes)


def test_a_file_is_judged_before_the_next_has_come() -> None:
    window, order = case(*(stored(uid, honest(uid)) for uid in range(3))), list[str]()

    def arriving(drawn: Sequence[Sealed]) -> Generator[Sealed]:
        for one in drawn:
            order.append(f"came {one.entry.neuron.uid}")
            yield one

    def keep(one: Measured) -> None:
        order.append(f"judged {one.verdict.uid}")

    judge_window(replace(window, arriving=arriving, means=replace(window.means, keep=keep)))
    assert order == [f"{word} {uid}" for uid in range(3) for word in ("came", "judged")]


def test_what_was_measured_before_a_restart_or_given_up_is_not_fetched_again() -> None:
    window, kept, fetched = case(*(stored(uid, honest(uid)) for uid in range(3))), list[Measured](), list[int]()

    def arriving(drawn: Sequence[Sealed]) -> Generator[Sealed]:
        fetched.extend(one.entry.neuron.uid for one in drawn)
        yield from drawn

    whole = judge_window(replace(window, means=replace(window.means, keep=kept.append)))
    before = {kept[0].verdict.hotkey: kept[0]}
    assert outcome(judge_window(replace(window, arriving=arriving, measured=before))) == outcome(whole)
    assert fetched == [1, 2]
    judge_window(replace(window, arriving=arriving, given_up=frozenset({HOTKEYS[2]})))
    assert fetched == [1, 2, 0, 1]


class NoRoom(PlainFiles):
    """For some files there was no room on the disk."""

    unsought: frozenset[Hotkey] = frozenset()

    def of(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        if hotkey in self.unsought:
            raise NotSoughtError("no room")
        return super().of(hotkey, seal)


def test_a_file_for_which_there_was_no_room_is_inconclusive_and_excuses_nobody_who_withholds() -> None:
    window = case(*(stored(uid, honest(uid)) for uid in range(3)))
    files = NoRoom({HOTKEYS[0]: honest(0)})
    files.unsought = frozenset({HOTKEYS[1]})
    body = judge_window(replace(window, files=files)).body
    assert [miner.status for miner in body.miners] == [MinerStatus.ACCEPTED, MinerStatus.INCONCLUSIVE, MinerStatus.FAILED]
    assert body.miners[1].reason == "this validator could not measure: no room"
    files = NoRoom({}, others={HOTKEYS[1]: honest(1)})
    files.unsought = frozenset(HOTKEYS)
    body = judge_window(replace(window, files=files)).body  # one of them was found in another validator's bucket
    assert [miner.status for miner in body.miners] == [
        MinerStatus.INCONCLUSIVE,
        MinerStatus.ACCEPTED,
        MinerStatus.INCONCLUSIVE,
    ]


def test_a_stop_between_two_files_keeps_what_was_measured_and_judges_no_further() -> None:
    window, kept = case(*(stored(uid, honest(uid)) for uid in range(3))), list[Measured]()

    def arriving(drawn: Sequence[Sealed]) -> Generator[Sealed]:
        yield drawn[0]
        raise Interrupted

    with pytest.raises(Interrupted):
        judge_window(replace(window, arriving=arriving, means=replace(window.means, keep=kept.append)))
    assert [one.verdict.uid for one in kept] == [0]


# --- the threads ------------------------------------------------------------------------------------------------------


@dataclass
class Stores:
    """What each miner's store does, try by try; a callable blocks as long as the test wants."""

    script: dict[int, list[Tried | Callable[[], Tried]]]
    room: DiskRoom = field(default_factory=lambda: DiskRoom(1 << 40))
    tries_due: list[threading.Event] = field(default_factory=lambda: [threading.Event() for _ in range(3)])
    tried: list[int] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    awaited: list[str] = field(default_factory=list)

    def arrivals(self) -> Arrivals:
        self.tries_due[0].set()
        return Arrivals(
            bring=self.bring,
            wait_for_try=self.wait_for_try,
            tries=3,
            room=self.room,
            patience=Patience(A_MINUTE, 2 * A_MINUTE),
            free=lambda one: self.freed.append(one.entry.neuron.uid),
            awaited=lambda: self.awaited.append("told"),
        )

    def bring(self, one: Sealed, limit_s: float) -> Tried:
        uid = one.entry.neuron.uid
        self.tried.append(uid)
        answer = self.script[uid].pop(0)
        return answer() if callable(answer) else answer

    def wait_for_try(self, number: int, ending: threading.Event) -> bool:
        while not self.tries_due[number].wait(0.01):
            if ending.is_set():
                return False
        return not ending.is_set()


def files_of(window: Case) -> tuple[Sealed, ...]:
    assert len(window.docket.drawn) == 3
    return window.docket.drawn


@pytest.fixture(scope="module")
def drawn() -> tuple[Sealed, ...]:
    return files_of(case(*(stored(uid, honest(uid)) for uid in range(3))))


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("file-")]


def test_what_has_come_is_taken_while_others_drip_or_are_asked_again(drawn: tuple[Sealed, ...]) -> None:
    dripping = threading.Event()

    def drips() -> Tried:
        assert dripping.wait(A_MINUTE)
        return Tried.LOST

    stores = Stores({0: [drips], 1: [Tried.REFUSED, Tried.REFUSED, Tried.HAD], 2: [Tried.HAD]})
    arrivals = stores.arrivals()
    taken = arrivals.take(drawn, threading.Event())
    assert next(taken).entry.neuron.uid == 2  # neither of the others is settled, nor can be before this is judged
    assert stores.freed == []
    stores.tries_due[1].set()
    stores.tries_due[2].set()
    assert next(taken).entry.neuron.uid == 1  # the third try, while the first still drips at its first
    assert stores.freed == [2]
    dripping.set()
    assert [one.entry.neuron.uid for one in taken] == [0]
    assert arrivals.had == {HOTKEYS[1], HOTKEYS[2]}
    assert not arrivals.unsought
    assert stores.awaited == ["told"]
    assert sorted(stores.freed) == [1, 2]
    assert not alive()


def test_the_one_that_took_its_time_is_not_asked_again_and_three_refusals_are_the_last(drawn: tuple[Sealed, ...]) -> None:
    stores = Stores({0: [Tried.LOST], 1: [Tried.REFUSED] * 3, 2: [Tried.HAD]})
    for due in stores.tries_due:
        due.set()
    arrivals = stores.arrivals()
    assert sorted(one.entry.neuron.uid for one in arrivals.take(drawn, threading.Event())) == [0, 1, 2]
    assert sorted(stores.tried) == [0, 1, 1, 1, 2]
    assert arrivals.had == {HOTKEYS[2]}


def test_a_stop_ends_the_wait_and_the_threads(drawn: tuple[Sealed, ...]) -> None:
    stores = Stores({uid: [Tried.REFUSED] for uid in range(3)})
    stop, idle = threading.Event(), list[bool]()

    def told(waiting: bool) -> None:
        idle.append(waiting)
        stop.set()

    with pytest.raises(Interrupted):
        next(stores.arrivals().take(drawn, stop, told))
    assert idle == [True]
    for thread in alive():
        thread.join(A_MINUTE)
    assert not alive()
    with pytest.raises(Interrupted):  # also where a file has come
        next(Stores({uid: [Tried.HAD] for uid in range(3)}).arrivals().take(drawn, stop))


def test_a_full_disk_is_raised_where_the_files_are_taken_from(drawn: tuple[Sealed, ...]) -> None:
    def full() -> Tried:
        raise DiskFullError("no space is left")

    stores = Stores({uid: [full] for uid in range(3)})
    with pytest.raises(DiskFullError):
        list(stores.arrivals().take(drawn, threading.Event()))


def test_with_room_for_one_file_at_a_time_all_are_taken_one_after_another(drawn: tuple[Sealed, ...]) -> None:
    largest = max(one.seal.size for one in drawn)
    stores = Stores({uid: [Tried.HAD] for uid in range(3)}, DiskRoom(largest))
    seen = 0
    for _ in stores.arrivals().take(drawn, threading.Event()):
        seen += 1
        assert len(stores.tried) == seen  # none is fetched before the one before it was judged
        assert len(stores.freed) == seen - 1
    assert seen == 3
    assert len(stores.freed) == 3


def test_who_drips_while_others_wait_for_its_room_comes_last_and_costs_them_nothing(drawn: tuple[Sealed, ...]) -> None:
    by_size = sorted(drawn, key=lambda one: (one.seal.size, one.entry.neuron.hotkey))
    slow, *others = [one.entry.neuron.uid for one in by_size]
    stores = Stores(
        {slow: [Tried.BEHIND, Tried.HAD], **{uid: [Tried.HAD] for uid in others}}, DiskRoom(max(one.seal.size for one in drawn))
    )
    arrivals = stores.arrivals()
    assert [one.entry.neuron.uid for one in arrivals.take(drawn, threading.Event())] == [*others, slow]
    assert not arrivals.unsought


def test_a_file_that_had_no_room_in_time_is_told_apart_from_one_that_its_store_did_not_give(drawn: tuple[Sealed, ...]) -> None:
    now = [0.0]
    room = DiskRoom(max(one.seal.size for one in drawn), clock=lambda: now[0])
    by_size = [one.entry.neuron.uid for one in sorted(drawn, key=lambda one: (one.seal.size, one.entry.neuron.hotkey))]

    def drips() -> Tried:
        now[0] += A_MINUTE  # and nobody takes its room from it: a store of its own pace
        return Tried.LOST

    stores = Stores({uid: [drips] for uid in by_size}, room)
    arrivals = stores.arrivals()
    arrivals.clock = lambda: now[0]
    list(arrivals.take(drawn, threading.Event()))
    assert stores.tried == by_size[:2]  # the second's time ends that of all tries
    assert arrivals.unsought == {HOTKEYS[by_size[2]]}
