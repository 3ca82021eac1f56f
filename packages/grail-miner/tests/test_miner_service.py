"""Which windows a miner mines, and what a fault around it costs: a window, and not the miner."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grail_core.errors import BeaconError, ChainError, CheckpointError, DiskFullError, StorageError
from grail_core.keys import ss58
from grail_core.participant import waiting
from grail_core.participant.knobs import knobs_of
from grail_core.participant.participant import Participant
from grail_core.protocol import Seal
from grail_core.protocol.constants import MAX_FILE_ROWS, ROLLOUTS_PER_PROBLEM, WINDOW_LENGTH
from grail_core.protocol.seals import MAX_SEAL_BYTES
from grail_core.protocol.types import Window
from grail_core.storage.layout import seal_key, window_key
from grail_core.storage.retention import Retention
from grail_miner.budget import TimeBudget
from grail_miner.limits import MiningLimits
from grail_miner.service import MinerService
from tooling.testing.driven_chain import Driven
from tooling.testing.faults import Outcome, always, events, faulty, first
from tooling.testing.mining import mining_of
from tooling.testing.network import FIRST_WINDOW, Network

NO_ANSWER = ChainError("no connection")
REFUSED = StorageError("503")
SAFETY_BLOCKS = 2


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)


@pytest.fixture
def network(tmp_path: Path) -> Network:
    network = Network(tmp_path, miners=1, validators=0)
    network.advance_to(FIRST_WINDOW + 1)
    return network


def miner(network: Network, *, mining: Any = None, store: dict[str, Outcome] | None = None, **handles: Any) -> MinerService:
    """A miner of one group a window; `store`: what fails of its own bucket."""
    handles["chain"] = Driven(handles.get("chain", network.chain), limit=10**6)
    participant = replace(network.participant("miner-0"), **handles)
    if store:
        directory = participant.directory
        bucket = faulty(directory.own(), **store)
        participant = replace(participant, directory=_Directory(directory, bucket))
    return MinerService(
        participant,
        mining or mining_of(network, "miner-0"),
        Retention(participant.own_store, []),
        max_groups=1,
        safety_blocks=SAFETY_BLOCKS,
        budget=_Unmeasured(group_seconds=1e-3, finish_seconds=1e-3),
    )


class _Unmeasured(TimeBudget):
    """Learns nothing from how fast this machine is."""

    def observe_groups(self, groups: int, seconds: float) -> None:
        pass

    def observe_finish(self, seconds: float) -> None:
        pass


class _Directory:
    """A directory whose own bucket is another object."""

    def __init__(self, inner: Any, own: Any) -> None:
        self._inner, self._own = inner, own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def own(self) -> Any:
        return self._own


def uploaded(participant: Participant, window: Window = FIRST_WINDOW) -> bytes | None:
    """The file, if its seal is there too."""
    own, store = ss58(participant.signer.hotkey), participant.own_store
    if store.head(seal_key(own, window)) is None:
        return None
    seal = Seal.decode(store.get(seal_key(own, window), max_bytes=MAX_SEAL_BYTES))
    data = store.get(window_key(own, window), max_bytes=10**7)
    assert (seal.content_digest, seal.size) == (hashlib.sha256(data).digest(), len(data))
    assert seal.signed(participant.network_id)
    return data


def last_block(network: Network) -> int:
    """Of the first window: where its upload must begin."""
    return network.participant("miner-0").times(FIRST_WINDOW).deadline_block - SAFETY_BLOCKS


def run_windows(service: MinerService, network: Network, count: int) -> list[bool]:
    """What became of so many windows, the clock going on to the next after each."""
    outcomes: list[bool] = []
    stop = threading.Event()
    original = service._try_window

    def counted(window: Window, stop: threading.Event) -> bool:
        network.advance_to(window + 1)
        outcomes.append(original(window, stop))
        if len(outcomes) == count:
            stop.set()
        return outcomes[-1]

    service._try_window = counted  # type: ignore[method-assign]
    service.run(stop)
    return outcomes


def test_the_most_groups_that_can_be_asked_for_are_those_of_the_largest_file() -> None:
    assert knobs_of(MiningLimits)["max_groups"][0].most == MAX_FILE_ROWS // ROLLOUTS_PER_PROBLEM


# --- which windows ----------------------------------------------------------------------------------------------------


def test_a_window_is_mined_and_uploaded_before_its_deadline(network: Network) -> None:
    service = miner(network)
    with events() as names:
        assert run_windows(service, network, 1) == [True]
    assert "window_mined" in names
    assert uploaded(service.participant) is not None


def test_file_and_seal_are_stored_in_the_last_blocks_the_file_first(network: Network) -> None:
    service = miner(network)
    run_windows(service, network, 1)
    own, store = ss58(network.signers["miner-0"].hotkey), service.participant.own_store
    file, seal = store.head(window_key(own, FIRST_WINDOW)), store.head(seal_key(own, FIRST_WINDOW))
    assert file is not None
    assert seal is not None
    network.advance_to(last_block(network) + SAFETY_BLOCKS)
    begins, deadline = network.block_time_ms(last_block(network)), network.block_time_ms(last_block(network) + SAFETY_BLOCKS)
    assert begins <= file.stored_at_ms <= seal.stored_at_ms <= deadline


def test_a_miner_whose_uploads_take_long_begins_earlier(network: Network) -> None:
    service = miner(network)
    service.budget = _Unmeasured(group_seconds=1e-3, finish_seconds=3.0)  # of chain time: four blocks for twice as long
    run_windows(service, network, 1)
    file = service.participant.own_store.head(window_key(ss58(network.signers["miner-0"].hotkey), FIRST_WINDOW))
    assert file is not None
    network.advance_to(last_block(network))
    assert file.stored_at_ms < network.block_time_ms(last_block(network))


def test_a_seal_that_the_store_refuses_leaves_no_window_and_no_failure(network: Network) -> None:
    """The file lies there, and nobody looks at a file without its seal."""
    service = miner(network, store={"put": lambda call: REFUSED if call == 2 else None})
    with events() as names:
        assert run_windows(service, network, 1) == [False]
    assert names.count("upload_failed") == 1
    assert uploaded(service.participant) is None


def test_a_miner_started_again_does_not_mine_a_window_twice(network: Network) -> None:
    """Its first file is what first sight saw; a second one would fail the window."""
    service = miner(network)
    run_windows(service, network, 1)
    there = uploaded(service.participant)
    untouched = faulty(mining_of(network, "miner-0"), select_model=always(AssertionError("mined again")))
    with events() as names:
        assert run_windows(miner(network, mining=untouched), network, 1) == [False]
    assert "window_already_mined" in names
    assert uploaded(service.participant) == there


def test_nothing_is_begun_once_the_uploads_time_has_come(network: Network) -> None:
    untouched = faulty(mining_of(network, "miner-0"), select_model=always(AssertionError("begun")))
    service = miner(network, mining=untouched)
    network.advance_to(last_block(network))
    with events() as names:
        assert run_windows(service, network, 1) == [False]
    assert names == ["window_skipped"]
    assert uploaded(service.participant) is None


def test_a_window_that_opens_too_late_is_left_after_the_least_tries(network: Network) -> None:
    """Its deadline is the miner's, long before the window is void for everybody."""
    beacon = faulty(network.beacon, get=always(BeaconError("no relay answers")))
    service = miner(network, beacon=beacon)
    network.advance_to(last_block(network))
    assert network.chain.current_block() < service.participant.times(FIRST_WINDOW).void_block
    with events() as names:
        assert run_windows(service, network, 1) == [False]
    assert beacon.calls["get"] == waiting.LEAST_TRIES
    assert names.count("window_skipped") == 1


def test_an_input_that_comes_before_the_deadline_is_waited_for(network: Network) -> None:
    beacon = faulty(network.beacon, get=first(5, BeaconError("no relay answers")))
    assert run_windows(miner(network, beacon=beacon), network, 1) == [True]


# --- what a fault costs -----------------------------------------------------------------------------------------------


def test_a_store_that_fails_costs_one_window_and_not_the_miner(network: Network) -> None:
    service = miner(network, store={"head": first(1, REFUSED)})
    with events() as names:
        assert run_windows(service, network, 2) == [False, True]
    assert names.count("window_skipped") == 1
    assert uploaded(service.participant, Window(FIRST_WINDOW + WINDOW_LENGTH)) is not None


def test_a_chain_that_fails_after_the_window_opened_costs_one_window_and_not_the_miner(network: Network) -> None:
    chain = faulty(network.chain, now_ms=first(1, NO_ANSWER))
    service = miner(network, chain=chain)
    with events() as names:
        assert run_windows(service, network, 2) == [False, True]
    assert names.count("window_skipped") == 1


def test_a_checkpoint_that_is_damaged_costs_one_window(network: Network) -> None:
    mining = faulty(mining_of(network, "miner-0"), select_model=first(1, CheckpointError("its digest differs")))
    assert run_windows(miner(network, mining=mining), network, 2) == [False, True]


def test_a_store_that_fails_while_the_checkpoint_loads_is_asked_again_and_costs_no_window(network: Network) -> None:
    mining = faulty(mining_of(network, "miner-0"), select_model=first(2, REFUSED))
    assert run_windows(miner(network, mining=mining), network, 1) == [True]


def test_an_upload_that_is_refused_is_told_and_the_next_window_mined(network: Network) -> None:
    service = miner(network, store={"put": first(1, REFUSED)})
    with events() as names:
        run_windows(service, network, 2)
    assert names.count("upload_failed") == 1
    assert names.count("window_mined") == 1
    assert uploaded(service.participant, Window(FIRST_WINDOW + WINDOW_LENGTH)) is not None


@pytest.mark.parametrize("method", ["head", "put"])
def test_a_full_disk_ends_the_miner_with_its_message(network: Network, method: str) -> None:
    service = miner(network, store={method: always(DiskFullError("no space is left"))})
    with pytest.raises(DiskFullError, match="no space"):
        run_windows(service, network, 1)


def test_a_stop_between_two_windows_ends_it(network: Network) -> None:
    stop = threading.Event()
    stop.set()
    assert miner(network).run(stop) == 0
