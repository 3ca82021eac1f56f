"""The page of a real miner and a real validator says what they logged, and what surrounds them as it is."""

from __future__ import annotations

import logging
import shutil
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from grail_core.beacon.development import DevelopmentKey, Relay
from grail_core.clock import wall_clock_ms
from grail_core.commands.own_standing import own_standing
from grail_core.errors import ChainError
from grail_core.examination.known import MINER, VALIDATOR, Role
from grail_core.examination.watching import RoleWatch, watched
from grail_core.keys import ss58
from grail_core.participant import waiting
from grail_core.participant.settings import Settings
from grail_core.protocol import MinerStatus
from grail_core.storage.layout import window_key
from grail_core.storage.retention import Retention
from grail_core.telemetry.logs import fields_of
from grail_core.telemetry.metrics.following import Follower
from grail_core.telemetry.metrics.metric import Metric
from grail_core.telemetry.metrics.monitoring import Monitoring, monitored
from grail_core.telemetry.metrics.prometheus import PrometheusSink
from grail_miner.metrics import TABLE as OF_MINER
from grail_miner.service import MinerService
from grail_validator import first_sight
from grail_validator.metrics import TABLE as OF_VALIDATOR
from tooling.testing.driven_chain import Driven
from tooling.testing.faults import faulty
from tooling.testing.mining import upload
from tooling.testing.network import GENESIS_S
from tooling.testing.small_network import FIRST_WINDOW, SmallNetwork, make_model
from tooling.testing.speaking import say, scored

Page = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def network(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> SmallNetwork:
    monkeypatch.setattr(waiting, "RETRY_SECONDS", 0)
    monkeypatch.setattr(first_sight, "_RETRY_SECONDS", 0)
    network = SmallNetwork(tmp_path, model=model, miners=2, validators=1)
    network.advance_to(FIRST_WINDOW + 1)
    return network


@pytest.fixture
def relay(network: SmallNetwork) -> Iterator[Relay]:
    key = DevelopmentKey.from_seed(b"small network")
    with Relay(key, genesis_time_s=GENESIS_S, period_s=1, port=0, clock=network.chain.now_ms) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Heard(logging.Handler):
    """Fields of what is logged, by event, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, Mapping[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = fields_of(record)
        if fields is not None:
            self.events.append((record.getMessage(), fields))

    def of(self, name: str) -> list[Mapping[str, Any]]:
        return [fields for event, fields in self.events if event == name]


@contextmanager
def heard_and_served(table: tuple[Metric, ...]) -> Iterator[tuple[Heard, str]]:
    """What a role logs, and the address where its metrics are."""
    heard, root = Heard(), logging.getLogger()
    packages = [logging.getLogger(name) for name in ("grail_core", "grail_miner", "grail_validator")]
    for package in packages:
        package.setLevel(logging.INFO)
    root.addHandler(heard)
    try:
        with monitored(Monitoring(("prometheus",), "127.0.0.1", 0), table):
            (began,) = heard.of("monitoring_began")
            yield heard, f"http://{began['address']}:{began['port']}/metrics"
    finally:
        root.removeHandler(heard)


def page_at(url: str) -> Page:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return read(answer.read())


def read(page: bytes) -> Page:
    families = text_string_to_metric_families(page.decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def labelled(page: Page, name: str) -> dict[str, float]:
    return {labels[0][1]: value for (one, labels), value in page.items() if one == name and value}


def test_the_page_of_a_validator_and_of_a_miner_agrees_with_what_they_logged(network: SmallNetwork) -> None:
    miner = network.participant("miner-0")
    object.__setattr__(miner, "chain", Driven(network.chain, FIRST_WINDOW + 29))
    service = MinerService(miner, network.mining("miner-0"), Retention(miner.own_store, []), max_groups=1, safety_blocks=2)
    with heard_and_served(OF_MINER) as (heard, url):
        assert service.run(threading.Event(), 1) == 1
        page = page_at(url)
    (mined,) = heard.of("window_mined")
    assert page["grail_miner_windows_mined_total", ()] == 1
    assert page["grail_miner_rollouts_total", ()] == mined["rollouts"] == 16
    assert page["grail_miner_tokens_total", ()] == mined["tokens"]
    assert page["grail_miner_uploaded_bytes_total", ()] == mined["bytes"]
    assert page["grail_miner_window_reward", ()] == mined["reward_mean"]
    assert labelled(page, "grail_miner_stage_seconds")["prove"] == mined["seconds_prove"]
    assert labelled(page, "grail_miner_windows_lost_total") == {}

    other = network.mine(network.mining("miner-1"), FIRST_WINDOW, [0])
    upload(network, network.mining("miner-1"), "miner-1", other, FIRST_WINDOW)
    key = window_key(ss58(network.signers["miner-1"].hotkey), FIRST_WINDOW)
    network.participant("miner-1").own_store.put(key, other[:-1] + b"?")  # not what it sealed
    limit = network.participant("validator-0").times(FIRST_WINDOW).void_block
    validator = network.validator("validator-0", chain=faulty(Driven(network.chain, limit)))
    with heard_and_served(OF_VALIDATOR) as (heard, url):
        assert validator.run(threading.Event(), windows=1) == 1
        page = page_at(url)
    (judged,), (sent,) = heard.of("window_judged"), heard.of("weights_sent")
    assert page["grail_validator_windows_judged_total", ()] == 1
    assert page["grail_validator_files_checked_total", ()] == judged["checked"]
    assert page["grail_validator_files_failed_total", ()] == judged["failed"]
    assert page["grail_validator_rollouts_checked_total", ()] == judged["rollouts_checked"]
    assert labelled(page, "grail_validator_miners") == judged["statuses"]
    assert judged["statuses"]["accepted"] == 1
    assert labelled(page, "grail_validator_rejections_total") == judged["rejected_by"]
    assert sum(judged["rejected_by"].values()) >= judged["failed"]
    assert labelled(page, "grail_validator_miner_weight") == {uid: weight for uid, weight in sent["weights"].items() if weight}
    assert page["grail_validator_verify_seconds_sum", ()] == judged["seconds_verify"]
    assert page["grail_validator_last_window", ()] == FIRST_WINDOW


def watch_of(network: SmallNetwork, relay: Relay, role: Role, name: str, **settings: str) -> tuple[RoleWatch, PrometheusSink]:
    """As a role's own, and the page that it makes."""
    given = {"BT_NETWORK": "local", "BT_CHAIN_ENDPOINT": str(network.root / "chain.sqlite"), "GRAIL_BEACON_URLS": relay.url}
    resolved = Settings.model_validate(given | settings)
    table = OF_MINER if role is MINER else OF_VALIDATOR
    sink = PrometheusSink(table)
    participant = network.participant(name)
    tell = Follower(table, [sink]).take
    standing = (lambda of: own_standing(of, resolved)) if role is MINER else None
    return RoleWatch(participant, resolved, role, tell, standing), sink


def test_what_surrounds_a_role_is_on_its_page_as_it_is(network: SmallNetwork, relay: Relay) -> None:
    watch, sink = watch_of(network, relay, VALIDATOR, "validator-0")
    seen = watch.look()
    assert not any(seen["failed"].values()), seen
    page = read(sink.page())
    assert page["grail_chain_head_block", ()] == network.chain.current_block()
    assert page["grail_storage_reachable", ()] == 1
    assert page["grail_validator_permit", ()] == 1
    assert page["grail_checkpoint_sequence", ()] == network.manifest.sequence
    assert page["grail_checkpoint_age_windows", ()] == 0
    assert page["grail_trainer_silent_windows", ()] == 0
    assert page["grail_beacon_lag_seconds", ()] < 3
    assert page["grail_watch_failures_total", (("part", "chain"),)] == 0
    network.chain.advance(30 * 11)
    seen = watch.look()
    page = read(sink.page())
    assert page["grail_checkpoint_age_windows", ()] == 11
    assert page["grail_trainer_silent_windows", ()] == 11
    assert page["grail_validator_weights_age_blocks", ()] > 300


def test_what_cannot_be_seen_is_counted_and_the_rest_is_seen(network: SmallNetwork, relay: Relay) -> None:
    watch, sink = watch_of(network, relay, VALIDATOR, "validator-0")
    watch.look()
    shutil.rmtree(network.root / "buckets" / "bucket-validator-0")
    (network.root / "buckets" / "bucket-validator-0").write_text("no folder any more")
    relay.shutdown()
    relay.server_close()
    seen = watch.look()
    page = read(sink.page())
    assert page["grail_watch_failures_total", (("part", "beacon"),)] == 1
    assert "beacon" in seen["reasons"]
    assert page["grail_beacon_lag_seconds", ()] >= 0, "the last round grows older"
    assert page["grail_chain_head_block", ()] == network.chain.current_block()
    shutil.rmtree(network.root / "buckets" / "bucket-trainer")
    network.chain.advance(60)
    assert watch.look()["failed"]["checkpoint"] == 1
    assert read(sink.page())["grail_checkpoint_age_windows", ()] == 2, "the last one that was seen grows older"
    broken = ChainError("no connection")
    object.__setattr__(watch.participant, "chain", faulty(network.chain, current_block=lambda *_: broken))
    seen = watch.look()
    assert seen["failed"]["chain"] == 1
    assert "block" not in seen


@pytest.mark.parametrize(("ahead_ms", "skew"), [(0, 0.0), (45_000, -45.0), (-45_000, 45.0)])
def test_a_clock_that_differs_from_the_relays_is_told_with_its_sign(
    network: SmallNetwork, relay: Relay, ahead_ms: int, skew: float
) -> None:
    relay.clock = lambda: wall_clock_ms() + ahead_ms
    watch, sink = watch_of(network, relay, MINER, "miner-0", BT_NETWORK="test")
    watch.look()
    assert read(sink.page())["grail_clock_skew_seconds", ()] == pytest.approx(skew, abs=5)


def test_a_miner_that_was_rejected_reads_it_on_its_own_page(network: SmallNetwork, relay: Relay) -> None:
    watch, sink = watch_of(network, relay, MINER, "miner-0")
    watch.look()
    assert read(sink.page())["grail_miner_standing_validators", ()] == 0
    body = scored(network, {"miner-0": (b"zero", MinerStatus.FAILED), "miner-1": (b"one", MinerStatus.ACCEPTED)})
    say(network, "validator-0", body)
    network.chain.advance(30)
    watch.look()
    page = read(sink.page())
    assert page["grail_miner_standing_rejected_ratio", ()] == 1
    assert page["grail_miner_standing_unpaid_windows", ()] > 0
    assert page["grail_miner_standing_registered", ()] == 1
    assert page["grail_miner_standing_window", ()] == FIRST_WINDOW
    assert labelled(page, "grail_miner_standing_rejections") == {"withheld": 1}


def test_where_metrics_go_nowhere_nobody_looks(network: SmallNetwork) -> None:
    handlers, threads = list(logging.getLogger().handlers), threading.active_count()
    with watched(network.participant("validator-0"), Settings.model_validate({}), VALIDATOR, OF_VALIDATOR):
        assert threading.active_count() == threads
        assert logging.getLogger().handlers == handlers


def test_a_look_that_fails_in_an_unforeseen_way_ends_nothing_and_is_told_once(
    network: SmallNetwork, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    watch, _ = watch_of(network, relay, VALIDATOR, "validator-0")
    looked, enough = [], threading.Event()

    def broken(*_: object) -> None:
        looked.append(1)
        if len(looked) == 3:
            enough.set()
        raise RuntimeError("a bug of ours")

    watch.tell = broken
    with watch.running(every_s=0.01):
        enough.wait()
    assert len([record for record in caplog.records if "unforeseen" in record.getMessage()]) == 1


def test_a_look_that_hangs_is_left_when_the_role_ends(network: SmallNetwork, relay: Relay) -> None:
    watch, _ = watch_of(network, relay, VALIDATOR, "validator-0")
    hangs, goes_on = threading.Event(), threading.Event()

    def hanging(*_: object) -> None:
        hangs.set()
        goes_on.wait()

    watch.tell = hanging
    with watch.running():
        hangs.wait()
    assert not goes_on.is_set(), "nobody waited for it"
    goes_on.set()
