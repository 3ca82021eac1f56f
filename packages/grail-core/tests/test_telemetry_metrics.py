"""Metrics follow from events: what an event adds up to, what it cannot do, and what nobody can put into a label."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from grail_core.telemetry import get_logger
from grail_core.telemetry.alerts import ALERTS
from grail_core.telemetry.metrics.following import Follower, Reading, followed
from grail_core.telemetry.metrics.metric import UID, From, Label, Metric, table
from grail_core.telemetry.metrics.prometheus import PrometheusSink
from grail_core.telemetry.metrics.shared import SHARED

CHECK = Label("check", ("proof", "reward"))
WINDOWS = Metric("grail_test_windows_total", "counter", "windows", follows=(From("judged"),))
ROLLOUTS = Metric("grail_test_rollouts_total", "counter", "rollouts", follows=(From("judged", "rollouts"),))
LAST = Metric("grail_test_last_timestamp_seconds", "gauge", "when", follows=(From("judged"),))
REWARD = Metric("grail_test_reward", "gauge", "mean reward", follows=(From("judged", "reward"),))
REJECTED = Metric(
    "grail_test_rejected_total", "counter", "by check", labels=(CHECK,), follows=(From("judged", "rejected", each="check"),)
)
WEIGHT = Metric("grail_test_weight", "gauge", "by uid", labels=(UID,), follows=(From("sent", "weights", each="uid"),))
SECONDS = Metric("grail_test_verify_seconds", "histogram", "checks", "seconds", follows=(From("judged", "seconds"),))
OF_UID = (
    Metric("grail_test_judged_total", "counter", "by uid", labels=(UID,), follows=(From("judged", labels={"uid": "uid"}),)),
)
TABLE = (WINDOWS, ROLLOUTS, LAST, REWARD, REJECTED, WEIGHT, SECONDS)
log = get_logger("grail_core.test_metrics")


def repr_of(value: object) -> str:
    return f"{type(value).__name__}, long" if isinstance(value, int) and abs(value) > 10**9 else repr(value)


@pytest.fixture(autouse=True)
def _events_are_logged() -> None:
    logging.getLogger("grail_core").setLevel(logging.INFO)


def page_of(sink: PrometheusSink) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus reads it."""
    families = text_string_to_metric_families(sink.page().decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def test_what_a_role_logs_is_what_its_page_says() -> None:
    sink = PrometheusSink(TABLE)
    before = page_of(sink)
    assert before["grail_test_windows_total", ()] == 0, "a rate needs the step from 0"
    assert ("grail_test_reward", ()) not in before, "nobody has measured one yet"
    with followed(Follower(TABLE, [sink])):
        log.event("judged", rollouts=128, reward=0.5, rejected={"proof": 2}, seconds=3.0)
        log.event("judged", rollouts=64, reward=0.75, rejected={"proof": 1, "reward": 1}, seconds=90.0)
        log.event("sent", weights={"3": 40, "7": 60})
        log.event("sent", weights={"7": 100})
        log.event("another", rollouts=1_000)
    log.event("judged", rollouts=5)
    page = page_of(sink)
    assert page["grail_test_windows_total", ()] == 2
    assert page["grail_test_rollouts_total", ()] == 192
    assert page["grail_test_reward", ()] == 0.75
    assert page["grail_test_rejected_total", (("check", "proof"),)] == 3
    assert {labels: value for (name, labels), value in page.items() if name == "grail_test_weight"} == {(("uid", "7"),): 100}
    assert page["grail_test_verify_seconds_count", ()] == 2
    assert page["grail_test_verify_seconds_bucket", (("le", "5.0"),)] == 1
    assert page["grail_test_last_timestamp_seconds", ()] == pytest.approx(1.8e9, rel=0.2), "seconds since 1970"
    assert not any("created" in name for name, _ in page)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "12", None, [1], {"a": 1}, 10**400, b"1"])
def test_a_field_that_is_no_number_adds_nothing(value: Any) -> None:
    sink = PrometheusSink(TABLE)
    follower = Follower(TABLE, [sink])
    follower.take("judged", {"rollouts": value, "rejected": value, "seconds": "soon"})
    assert page_of(sink)["grail_test_rollouts_total", ()] == 0
    assert page_of(sink)["grail_test_windows_total", ()] == 1
    assert follower.failed == {}


def test_no_strangers_text_and_no_number_of_them_is_in_a_label() -> None:
    sink = PrometheusSink(TABLE)
    follower = Follower(TABLE, [sink])
    hostile = {f"check-{number}": 1 for number in range(5_000)} | {'a"} 1\nevil{x="': 1, "": 1, "\x1b[31m": 1}
    follower.take("judged", {"rejected": hostile})
    follower.take("sent", {"weights": {str(uid): 1 for uid in range(-1_000, 70_000)} | {True: 1, None: 1}})
    page = page_of(sink)
    assert page["grail_test_rejected_total", (("check", "other"),)] == 5_003
    assert len([name for name, _ in page if name == "grail_test_weight"]) == 257
    assert b"evil" not in sink.page()


def test_a_sink_that_breaks_is_counted_and_in_nobodys_way() -> None:
    class Broken:
        name = "broken"

        def take(self, readings: Sequence[Reading]) -> None:
            raise RuntimeError("no room")

        def close(self) -> None: ...

    sink = PrometheusSink(TABLE)
    follower = Follower(TABLE, [Broken(), sink])
    with followed(follower):
        log.event("judged", rollouts=1)
        log.event("judged", rollouts=1)
    assert follower.failed == {"broken": 2}
    assert page_of(sink)["grail_test_rollouts_total", ()] == 2


@pytest.mark.parametrize("value", [10**5_000, -(10**5_000), 256, -1, True, math.nan, [7], {"7": 7}, b"7", "7\n"], ids=repr_of)
def test_a_label_that_is_none_of_the_list_is_other_and_raises_nothing(value: Any) -> None:
    sink = PrometheusSink(OF_UID)
    follower = Follower(OF_UID, [sink])
    with followed(follower):
        log.event("judged", uid=value)
    assert page_of(sink)["grail_test_judged_total", (("uid", "other"),)] == 1
    assert follower.failed == {}


def test_a_field_that_cannot_be_read_costs_its_own_event_and_the_role_goes_on() -> None:
    class Changing(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

    sink = PrometheusSink(TABLE)
    follower = Follower(TABLE, [sink])
    with followed(follower):
        log.event("judged", rejected=Changing())
        log.event("judged", rollouts=3)
    assert follower.failed == {"readings": 1}
    assert page_of(sink)["grail_test_rollouts_total", ()] == 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("grail_windows", "counter"),
        ("grail_windows_total", "gauge"),
        ("windows_total", "counter"),
        ("grail_Windows_total", "counter"),
        ("grail_seconds_bucket", "gauge"),
        ("grail__x", "gauge"),
    ],
)
def test_a_name_against_prometheus_conventions_is_refused(name: str, kind: Any) -> None:
    with pytest.raises(ValueError, match=r"name|ending"):
        Metric(name, kind, "something")


def test_an_event_that_does_not_say_every_label_is_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        Metric("grail_x_total", "counter", "x", labels=(CHECK,), follows=(From("judged"),))
    with pytest.raises(ValueError, match="one name"):
        table((WINDOWS,), (WINDOWS,))


def test_every_alert_has_an_action_and_every_shared_metric_a_meaning() -> None:
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert alert.name.startswith("Grail")
        assert alert.means.endswith(".")
        assert alert.action.endswith(".")
        assert set(alert.roles) <= {"miner", "validator", "trainer"}
    assert all(metric.about for metric in SHARED)
