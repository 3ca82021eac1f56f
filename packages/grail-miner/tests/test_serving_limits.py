"""What a client may ask in a minute: never more, whatever comes in which order, and nothing of it lost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_miner.serving.clients import OPERATOR, Client
from grail_miner.serving.limits import MINUTE_S, Ended, Lease, Limits
from grail_miner.serving.refusals import RefusedRequestError

ALICE = Client("alice", requests_per_minute=3, tokens_per_minute=100, concurrent=4)


class Seconds:
    def __init__(self) -> None:
        self.now = 1_000.25

    def __call__(self) -> float:
        return self.now


def refused(limits: Limits, client: Client, tokens: int) -> RefusedRequestError:
    with pytest.raises(RefusedRequestError) as error:
        limits.begin(client, tokens)
    return error.value


def test_a_minutes_requests_are_refused_by_name_and_served_after_the_time_that_is_said() -> None:
    clock = Seconds()
    limits = Limits(clock)
    for _ in range(3):
        limits.begin(ALICE, 1).end(1, 0, "answered")
        clock.now += 1
    error = refused(limits, ALICE, 1)
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert "3 times a minute (requests_per_minute)" in error.message
    assert error.retry_after_s is not None
    assert error.headers == {"retry-after": str(error.retry_after_s)}
    clock.now += error.retry_after_s
    limits.begin(ALICE, 1)


def test_reserved_tokens_are_given_back_at_the_end_and_used_ones_a_minute_later() -> None:
    clock = Seconds()
    limits = Limits(clock)
    first = limits.begin(ALICE, 90)
    assert "tokens_per_minute" in refused(limits, ALICE, 20).message
    first.end(20, 50, "answered")
    limits.begin(ALICE, 30).end(0, 0, "failed")
    error = refused(limits, ALICE, 31)
    assert error.retry_after_s is not None
    clock.now += error.retry_after_s - 1
    assert refused(limits, ALICE, 31).retry_after_s == 1
    clock.now += 1
    limits.begin(ALICE, 31)


def test_what_is_reserved_stays_reserved_however_long_an_answer_takes() -> None:
    clock = Seconds()
    limits = Limits(clock)
    limits.begin(ALICE, 80)
    clock.now += 10 * MINUTE_S
    assert refused(limits, ALICE, 30).retry_after_s == 5  # nobody knows when the first will have ended


def test_open_requests_are_limited() -> None:
    limits = Limits(Seconds())
    client = replace(ALICE, requests_per_minute=100)
    leases = [limits.begin(client, 1) for _ in range(4)]
    assert "(concurrent)" in refused(limits, client, 1).message
    leases[0].end(1, 0, "gone")
    limits.begin(client, 1)


def test_a_request_that_no_waiting_admits_is_refused_at_once_and_by_name() -> None:
    limits = Limits(Seconds())
    error = refused(limits, ALICE, 101)
    assert (error.status, error.code, error.retry_after_s) == (400, "limit_too_small", None)
    limits.begin(ALICE, 100)


def test_a_lease_ends_once() -> None:
    told: list[Ended] = []
    clock = Seconds()
    lease = Limits(clock, ended=told.append).begin(ALICE, 50, route="chat")
    clock.now += 2
    for _ in range(3):
        lease.end(10, 20, "answered")
    assert told == [Ended(ALICE, "chat", "answered", 10, 20, 2.0)]


def test_an_error_of_who_is_told_takes_no_place_from_the_client() -> None:
    def full(_: Ended) -> None:
        raise OSError

    limits = Limits(Seconds(), ended=full)
    client = replace(ALICE, concurrent=1)
    with pytest.raises(OSError):
        limits.begin(client, 1).end(1, 0, "answered")
    with pytest.raises(OSError):
        limits.begin(client, 1).end(1, 0, "answered")


def test_what_is_refused_is_told_and_costs_the_client_nothing() -> None:
    told: list[tuple[Client, str]] = []
    clock = Seconds()
    limits = Limits(clock, refused=lambda client, route: told.append((client, route)))
    refused(limits, ALICE, 101)
    assert told == [(ALICE, "other")]
    for _ in range(3):
        limits.begin(ALICE, 1)


def test_a_client_without_room_is_told_before_its_request_is_read() -> None:
    limits = Limits(Seconds())
    limits.require_room(ALICE)
    limits.begin(ALICE, 100)
    with pytest.raises(RefusedRequestError) as error:
        limits.require_room(ALICE)
    assert error.value.status == 429
    limits.require_room(OPERATOR)


def test_clients_do_not_feel_each_other_and_the_operator_no_limit() -> None:
    limits = Limits(Seconds())
    limits.begin(ALICE, 100)
    limits.begin(replace(ALICE, name="bob"), 100)
    for _ in range(100):
        limits.begin(OPERATOR, 10**9)


def test_memory_is_bounded_whatever_names_and_requests_come() -> None:
    clock = Seconds()
    limits = Limits(clock)
    open_one = limits.begin(replace(ALICE, name="open"), 100)
    for number in range(2_000):
        clock.now += 1
        limits.begin(replace(ALICE, name=f"client-{number}"), 1).end(1, 0, "answered")
        limits.begin(OPERATOR, 1).end(1, 0, "answered")
    assert len(limits._states) <= 600
    assert len(limits._states[OPERATOR.name].tokens.sums) <= MINUTE_S + 1
    open_one.end(100, 0, "answered")


@dataclass
class Seen:
    """One admitted request as the test saw it."""

    begun: float
    reserved: int
    lease: Lease
    used: int = 0
    ended: float = math.inf


STEPS = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.0, 0.3, 0.999, 1.0, 7.5, 59.0, 59.99, 60.0, 61.0)),  # seconds that pass
        st.integers(0, 110),  # tokens of a request; 0: one that is open ends
        st.floats(0, 1),  # which of them, and what share it used
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_in_no_minute_is_more_used_than_the_limit_and_nothing_is_lost(steps: list[tuple[float, int, float]]) -> None:
    clock, told = Seconds(), list[Ended]()
    limits = Limits(clock, ended=told.append)
    seen: list[Seen] = []
    for passes, tokens, share in steps:
        clock.now += passes
        still_open = [one for one in seen if one.ended == math.inf]
        if tokens == 0:
            if still_open:
                one = still_open[int(share * (len(still_open) - 1))]
                one.used, one.ended = int(share * one.reserved), clock.now
                one.lease.end(one.used, 0, "answered")
            continue
        try:
            seen.append(Seen(clock.now, tokens, limits.begin(ALICE, tokens)))
        except RefusedRequestError as error:
            if error.retry_after_s is not None and not still_open:  # after the time that is said it is admitted
                clock.now += error.retry_after_s
                seen.append(Seen(clock.now, tokens, limits.begin(ALICE, tokens)))
        _check(seen, clock.now)
    assert sum(one.prompt_tokens for one in told) == sum(one.used for one in seen)
    for one in seen:
        if one.ended == math.inf:
            one.lease.end(0, 0, "gone")
    clock.now += MINUTE_S + 1  # everything that was taken has come back
    limits.begin(ALICE, 100).end(100, 0, "answered")


def _check(seen: list[Seen], now: float) -> None:
    """Of the 60 seconds up to now."""
    assert ALICE.requests_per_minute is not None
    assert ALICE.tokens_per_minute is not None
    assert ALICE.concurrent is not None
    assert sum(one.begun > now - MINUTE_S for one in seen) <= ALICE.requests_per_minute
    assert sum(one.ended == math.inf for one in seen) <= ALICE.concurrent
    used = [one.reserved if one.ended == math.inf else one.used for one in seen if one.ended > now - MINUTE_S]
    assert sum(used) <= ALICE.tokens_per_minute
