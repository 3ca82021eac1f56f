"""Nodes of a real subnet that do not answer, are another chain's, or have thrown old blocks away: who is asked then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grail_core.chain.bittensor.adapter import STALE_METAGRAPH_SECONDS, BittensorChain
from grail_core.chain.bittensor.endpoints import FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_WISH_S, Endpoints
from grail_core.errors import ChainError
from grail_core.protocol.types import Block
from tooling.testing.faults import events
from tooling.testing.keys import ALICE, BOB

pytest.importorskip("bittensor")

from tooling.testing.simulated_bittensor import answers
from tooling.testing.simulated_bittensor.subnet import SILENCE_S, SimulatedSubnet


@pytest.fixture
def subnet(tmp_path: Path) -> SimulatedSubnet:
    return SimulatedSubnet(tmp_path, (ALICE, BOB))


@pytest.fixture
def opened(subnet: SimulatedSubnet) -> Iterator[Callable[..., BittensorChain]]:
    made: list[BittensorChain] = []

    def adapter(*names: str, **options: Any) -> BittensorChain:
        made.append(subnet.adapter(*names, **options))
        return made[-1]

    yield adapter
    for one in made:
        one.close()


def test_a_broken_connection_is_made_anew_and_the_read_repeated_after_a_pause(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened()
    assert chain.current_block() == 40
    subnet.faults.set("primary", fails=2)
    assert chain.current_block() == 40
    assert subnet.slept == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]


def test_an_endpoint_that_never_answers_is_an_error_and_is_asked_ever_more_rarely(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    asked: list[str] = []

    def counted(url: str) -> tuple[Any, Any]:
        asked.append(url)
        return subnet.world.client(url)

    chain = opened(make_client=counted)
    subnet.faults.set("primary", unreachable=True)
    with pytest.raises(ChainError, match="cannot be reached: connection refused") as caught:
        chain.current_block()
    assert caught.value.where == "primary:1"
    began = subnet.chain.now_ms()
    while subnet.chain.now_ms() - began < 600_000:  # ten minutes of a role that does nothing but ask
        before = len(subnet.slept)
        with pytest.raises(ChainError, match="cannot be reached"):
            chain.current_block()
        assert len(subnet.slept) > before  # no error without a pause: nobody's loop is a busy one
    assert 10 <= len(asked) <= 20
    subnet.faults.clear()
    subnet.pass_seconds(LONGEST_PAUSE_S)
    assert chain.finalised_block() > 37


@pytest.mark.parametrize(
    "fault", [{"unreachable": True}, {"fails": 1}, {"silent": True}, {"throttled": 30}, {"other_chain": True}], ids=str
)
def test_the_next_endpoint_takes_the_place_of_one_that_does_not_answer_as_it_should(
    fault: dict[str, Any], subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], caplog: pytest.LogCaptureFixture
) -> None:
    chain = opened("primary", "fallback", **({"read_seconds": SILENCE_S} if "silent" in fault else {}))
    assert chain.genesis_hash == subnet.chain.genesis_hash
    chain.close()  # it connects anew, as after a lost connection
    subnet.faults.set("primary", **fault)
    caplog.set_level(logging.INFO, "grail_core")
    assert chain.current_block() == 40
    assert chain.metagraph().neurons[0].hotkey == ALICE.hotkey
    (said,) = [record for record in caplog.records if record.getMessage() == "chain_endpoint_left"]
    fields = said.__dict__["grail_fields"] if "grail_fields" in said.__dict__ else vars(said)
    assert "fallback:1" in str(fields)
    assert subnet.slept == []
    assert chain.endpoint == "fallback:1"
    # and back, once this one fails
    subnet.faults.clear()
    subnet.pass_seconds(LONGEST_PAUSE_S)
    subnet.faults.set("fallback", unreachable=True)
    assert chain.current_block() > 40
    assert chain.endpoint == "primary:1"


def test_an_endpoint_that_wants_to_be_left_alone_is_but_not_for_ever() -> None:
    now = 0.0
    endpoints = Endpoints(["ws://a", "ws://b"], monotonic=lambda: now, jitter=lambda: 0.0)
    a, b = endpoints.every
    endpoints.failed(a, "429", asked_at=0.0, wish_s=30)
    assert (endpoints.wait_s(a), endpoints.current) == (30, b)
    endpoints.failed(b, "429", asked_at=0.0, wish_s=10**8)
    assert (endpoints.wait_s(b), endpoints.current) == (LONGEST_WISH_S, a)
    now = 30.0
    assert endpoints.wait_s() == 0


def test_threads_that_fail_together_count_as_one_failure_and_pauses_are_jittered() -> None:
    now = 5.0
    endpoints = Endpoints(["ws://a"], monotonic=lambda: now, jitter=lambda: 0.5)
    for _ in range(8):
        endpoints.failed(endpoints.current, "gone", asked_at=4.0)
    assert endpoints.current.failures == 1
    assert endpoints.wait_s() == 0.75 * FIRST_PAUSE_S
    now = 50.0
    endpoints.failed(endpoints.current, "gone", asked_at=49.0)
    assert endpoints.wait_s() == 1.5 * FIRST_PAUSE_S
    endpoints.answered(endpoints.current)
    assert endpoints.wait_s() == 0


def test_the_newest_metagraph_answers_for_a_while_when_nobody_else_does_and_says_its_age(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], caplog: pytest.LogCaptureFixture
) -> None:
    chain = opened()
    known = chain.metagraph()
    subnet.advance(10)
    subnet.faults.set("primary", unreachable=True)
    with events() as names:
        assert chain.metagraph() == known
    assert "metagraph_stale" in names
    with pytest.raises(ChainError):
        chain.metagraph(Block(45))
    subnet.pass_seconds(STALE_METAGRAPH_SECONDS)
    with pytest.raises(ChainError):
        chain.metagraph()


def test_what_a_node_has_thrown_away_is_asked_of_an_archive(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", archives=["archive"])
    subnet.faults.set("primary", keeps_state=5, keeps_bodies=5)
    old = chain.block(Block(3))
    assert old.hash == subnet.chain.parameters.block_hash(3)
    assert [n.hotkey for n in chain.metagraph(Block(3)).neurons] == [ALICE.hotkey, BOB.hotkey]
    assert chain.pending_weights(ALICE.hotkey, Block(3)) is None
    subnet.faults.set("archive", unreachable=True)
    assert chain.block(Block(3)) == old  # it was final, so it is known
    with events() as names, pytest.raises(ChainError, match="thrown"):
        chain.metagraph(Block(4))
    assert names == ["chain_archive_failed"]


@pytest.mark.parametrize("fault", [{"keeps_state": 5}, {"keeps_bodies": 5}], ids=str)
def test_without_an_archive_the_error_says_what_is_missing(
    fault: dict[str, int], subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary")
    subnet.faults.set("primary", **fault)
    assert chain.block(Block(36)).number == 36
    with pytest.raises(ChainError, match="block 3: the node") as caught:
        chain.block(Block(3))
    assert "archive node" in caught.value.hint
    assert "BT_CHAIN_ENDPOINT" in caught.value.hint


def test_another_endpoint_of_ones_own_that_keeps_everything_is_an_archive_too(
    subnet: SimulatedSubnet, opened: Callable[..., BittensorChain]
) -> None:
    chain = opened("primary", "own-archive")
    subnet.faults.set("primary", keeps_state=5)
    assert chain.metagraph(Block(3)).block == 3
    assert chain.endpoint == "primary:1"


def _columns(**changed: Any) -> Callable[..., Any]:
    original = answers.metagraph
    return lambda *arguments: original(*arguments) | changed


UNREADABLE: dict[str, Callable[..., Any]] = {
    "query_map": lambda *arguments: [("5x", [(ALICE.ss58, "soon", "c")])],
    "metagraph": _columns(hotkeys=["no address", "nor this"]),
    "last_updates": lambda neurons: ["soon", "later"],
}


@pytest.mark.parametrize("answer", UNREADABLE)
def test_an_answer_that_the_sdk_cannot_read_is_a_typed_error_and_no_reason_to_leave(
    answer: str, subnet: SimulatedSubnet, opened: Callable[..., BittensorChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = opened("primary", "fallback")
    chain.current_block()
    monkeypatch.setattr(answers, answer, UNREADABLE[answer])
    with pytest.raises(ChainError, match="cannot be read"):
        chain.metagraph()
    if answer == "query_map":
        with pytest.raises(ChainError, match="cannot be read"):
            chain.pending_weights(ALICE.hotkey)
    assert chain.endpoint == "primary:1"


def test_no_error_and_no_event_repeats_a_key_that_is_in_a_url(
    subnet: SimulatedSubnet, caplog: pytest.LogCaptureFixture
) -> None:
    urls = [f"ws://me:hidden@{name}:1/hidden/ws?key=hidden&at=a@hidden#hidden" for name in ("primary", "fallback")]
    subnet.faults.set("primary", unreachable=True)
    subnet.faults.set("fallback", unreachable=True)
    chain = BittensorChain(subnet.world.client, endpoints=urls, netuid=81, timing=subnet.timing)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ChainError) as caught:
        chain.current_block()
    chain.close()
    assert "hidden" not in str(caught.value) + caught.value.hint + caught.value.where
    assert caplog.records
    assert "hidden" not in "".join(str(vars(record)) for record in caplog.records)
