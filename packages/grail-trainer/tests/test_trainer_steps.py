"""The steps of trainer and publisher on plain values: every arrow of both diagrams, without store, chain, clock or disk."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_core.participant.outcomes import Stopped
from grail_core.protocol.types import Window
from grail_trainer.publishing import publication_steps as publishing
from grail_trainer.publishing.publication_steps import (
    Logged,
    Places,
    Publication,
    PublicationStage,
    PutCheckpoint,
    PutLog,
    Stored,
)
from grail_trainer.steps import (
    Beginning,
    Event,
    Journal,
    JournalRecord,
    NothingToLearn,
    Published,
    StateRecord,
    Step,
    StoreFailed,
    TrainedWindow,
    TrainerStage,
    Wait,
    stage_of,
    step,
)


def trained(window: int) -> TrainedWindow:
    return TrainedWindow(Window(window), {"window": window}, {"groups": 3}, {"loss": 0.5})


WAITING = Journal(Window(60), learned=1, state_file="state-60.safetensors")
PENDING = Journal(Window(90), learned=2, state_file="state-90.safetensors", pending=trained(90))

# --- the trainer ------------------------------------------------------------------------------------------------------


def test_a_new_trainer_begins_its_journal() -> None:
    assert stage_of(None) is TrainerStage.NEW
    journal = Journal(Window(30))
    assert step(None, Beginning(Window(30))) == Step(journal, (JournalRecord(journal),))


def test_a_window_without_anything_to_learn_is_passed_over_and_keeps_the_state() -> None:
    after = replace(WAITING, decided=Window(90))
    assert step(WAITING, NothingToLearn(Window(90), "no file was accepted")) == Step(after, (JournalRecord(after),))


def test_training_state_is_written_before_the_journal_that_names_it() -> None:
    taken = step(WAITING, trained(90))
    assert taken.records == (StateRecord("state-90.safetensors"), JournalRecord(PENDING))
    assert (taken.journal, taken.publish, taken.wait) == (PENDING, trained(90), Wait.STORE)


def test_what_is_published_is_not_pending_any_more() -> None:
    assert stage_of(PENDING) is TrainerStage.PENDING
    after = replace(PENDING, pending=None)
    assert step(PENDING, Published()) == Step(after, (JournalRecord(after),))
    assert stage_of(after) is TrainerStage.WAITING


def test_a_store_that_fails_leaves_the_window_pending() -> None:
    assert step(PENDING, StoreFailed("no answer")) == Step(PENDING, publish=trained(90), wait=Wait.STORE)


@pytest.mark.parametrize("journal", [None, WAITING, PENDING])
def test_stopping_changes_nothing(journal: Journal | None) -> None:
    assert step(journal, Stopped()) == Step(journal, wait=Wait.NOTHING)


@pytest.mark.parametrize(
    ("journal", "event"),
    [
        (None, trained(30)),
        (None, Published()),
        (WAITING, Published()),
        (WAITING, Beginning(Window(0))),
        (PENDING, trained(120)),
        (PENDING, NothingToLearn(Window(120), "")),
    ],
)
def test_an_arrow_that_does_not_exist_is_an_error(journal: Journal | None, event: Event) -> None:
    with pytest.raises(ValueError, match="cannot take"):
        step(journal, event)


@pytest.mark.parametrize("window", [30, 60, 120])
def test_windows_are_decided_in_order_each_once(window: int) -> None:
    for event in (trained(window), NothingToLearn(Window(window), "")):
        with pytest.raises(ValueError, match="does not follow"):
            step(WAITING, event)


@given(st.lists(st.sampled_from(["trained", "nothing", "failed", "stopped"]), max_size=30))
def test_whatever_happens_every_window_is_decided_once_and_counted_once(happenings: list[str]) -> None:
    journal: Journal | None = step(None, Beginning(Window(0))).journal
    decided, learned = 0, 0
    for happening in happenings:
        assert journal is not None
        event: Event
        if happening == "stopped":
            event = Stopped()
        elif journal.pending is not None:
            event = StoreFailed("") if happening == "failed" else Published()
        elif happening == "trained":
            event, decided, learned = trained(journal.next_window), decided + 1, learned + 1
        else:
            event, decided = NothingToLearn(journal.next_window, ""), decided + 1
        journal = step(journal, event).journal
    assert journal is not None
    assert (journal.decided, journal.learned) == (30 * decided, learned)


# --- the publisher ----------------------------------------------------------------------------------------------------

NEW = Publication()


def test_a_free_place_is_taken() -> None:
    taken = publishing.step(NEW, Places(head=Window(90), reachable=Window(120)))
    assert (taken.publication, taken.put) == (NEW, PutCheckpoint(Window(120)))


def test_a_checkpoint_that_is_there_since_before_a_crash_is_not_put_again() -> None:
    taken = publishing.step(NEW, Stored(Window(90)))
    assert (taken.publication, taken.put) == (Publication(PublicationStage.STORED, Window(90)), PutLog())


def test_a_taken_place_leaves_the_weights_to_the_next_checkpoint() -> None:
    taken = publishing.step(NEW, Places(head=Window(120), reachable=Window(120)))
    assert (taken.publication, taken.put) == (Publication(PublicationStage.JOINED), PutLog())


def test_the_last_checkpoint_of_a_run_waits_for_no_other() -> None:
    taken = publishing.step(NEW, Places(head=Window(120), reachable=Window(120), last=True))
    assert taken.put == PutCheckpoint(Window(150))


def test_the_log_follows_the_checkpoint_and_ends_it() -> None:
    stored = publishing.step(NEW, Stored(Window(120)))
    assert (stored.publication, stored.put) == (Publication(PublicationStage.STORED, Window(120)), PutLog())
    for before in (stored.publication, Publication(PublicationStage.JOINED)):
        after = publishing.step(before, Logged())
        assert (after.publication, after.put) == (Publication(PublicationStage.LOGGED, before.valid_from), None)


def test_a_publication_goes_no_other_way() -> None:
    for publication, event in (
        (NEW, Logged()),
        (Publication(PublicationStage.STORED, Window(30)), Stored(Window(30))),
        (Publication(PublicationStage.LOGGED), Logged()),
    ):
        with pytest.raises(ValueError, match="cannot take"):
            publishing.step(publication, event)
