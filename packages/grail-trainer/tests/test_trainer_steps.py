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
PUBLISHING = Journal(Window(90), learned=2, state_file="state-90.safetensors", pending=(trained(90),))
FULL = Journal(Window(120), learned=3, state_file="state-120.safetensors", pending=(trained(90), trained(120)))

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
    assert taken.records == (StateRecord("state-90.safetensors"), JournalRecord(PUBLISHING))
    assert (taken.journal, taken.publish, taken.wait) == (PUBLISHING, trained(90), Wait.VERDICTS)


def test_the_next_window_is_learned_from_while_one_is_published_and_a_third_is_not() -> None:
    taken = step(PUBLISHING, trained(120))
    assert (taken.journal, taken.wait) == (FULL, Wait.STORE)
    assert [stage_of(journal) for journal in (WAITING, PUBLISHING, FULL)] == [
        TrainerStage.WAITING,
        TrainerStage.PUBLISHING,
        TrainerStage.FULL,
    ]
    with pytest.raises(ValueError, match="full cannot take"):
        step(FULL, trained(150))


@pytest.mark.parametrize("journal", [PUBLISHING, FULL])
def test_a_window_is_passed_over_whatever_is_on_its_way(journal: Journal) -> None:
    after = replace(journal, decided=journal.next_window)
    assert step(journal, NothingToLearn(journal.next_window, "")).journal == after


def test_what_is_published_is_not_pending_any_more_the_oldest_first() -> None:
    after = replace(FULL, pending=(trained(120),))
    assert step(FULL, Published(Window(90))) == Step(after, (JournalRecord(after),), wait=Wait.VERDICTS)
    last = replace(after, pending=())
    assert step(after, Published(Window(120))) == Step(last, (JournalRecord(last),))
    for journal, window in ((FULL, 120), (after, 90), (last, 120)):
        with pytest.raises(ValueError, match="not the one that is published next"):
            step(journal, Published(Window(window)))


def test_a_store_that_fails_leaves_the_window_pending() -> None:
    assert step(PUBLISHING, StoreFailed(Window(90), "no answer")) == Step(PUBLISHING, publish=trained(90))
    assert step(FULL, StoreFailed(Window(90), "no answer")) == Step(FULL, publish=trained(90), wait=Wait.STORE)


def test_the_training_states_of_all_that_is_pending_are_needed_and_of_what_is_gone_on_from() -> None:
    passed_over = replace(FULL, decided=Window(150), pending=FULL.pending[:1])
    assert WAITING.state_files == ("state-60.safetensors",)
    assert FULL.state_files == passed_over.state_files == ("state-90.safetensors", "state-120.safetensors")
    assert Journal(Window(0)).state_files == ()


def test_published_is_the_last_window_before_which_nothing_is_left() -> None:
    assert [journal.published for journal in (WAITING, PUBLISHING, FULL)] == [60, 60, 60]
    assert replace(FULL, pending=FULL.pending[1:]).published == 90


@pytest.mark.parametrize("journal", [None, WAITING, PUBLISHING, FULL])
def test_stopping_changes_nothing(journal: Journal | None) -> None:
    assert step(journal, Stopped()) == Step(journal, wait=Wait.NOTHING)


@pytest.mark.parametrize(
    ("journal", "event"), [(None, trained(30)), (None, Published(Window(30))), (WAITING, Beginning(Window(0)))]
)
def test_an_arrow_that_does_not_exist_is_an_error(journal: Journal | None, event: Event) -> None:
    with pytest.raises(ValueError, match="cannot take"):
        step(journal, event)


@pytest.mark.parametrize("window", [30, 60, 120])
def test_windows_are_decided_in_order_each_once(window: int) -> None:
    for event in (trained(window), NothingToLearn(Window(window), "")):
        with pytest.raises(ValueError, match="does not follow"):
            step(WAITING, event)


@given(st.lists(st.sampled_from(["trained", "nothing", "published", "failed", "stopped"]), max_size=40))
def test_whatever_happens_every_window_is_decided_once_and_published_once_in_order(happenings: list[str]) -> None:
    journal: Journal | None = step(None, Beginning(Window(0))).journal
    decided, learned, published = 0, list[int](), list[int]()
    for happening in happenings:
        assert journal is not None
        event: Event
        if happening == "stopped":
            event = Stopped()
        elif happening in ("published", "failed"):
            if not journal.pending:
                continue
            oldest = journal.pending[0].window
            event = StoreFailed(oldest, "") if happening == "failed" else Published(oldest)
            published += [oldest] * (happening == "published")
        elif happening == "trained" and stage_of(journal) is not TrainerStage.FULL:
            event, decided = trained(journal.next_window), decided + 1
            learned.append(journal.next_window)
        else:
            event, decided = NothingToLearn(journal.next_window, ""), decided + 1
        journal = step(journal, event).journal
    assert journal is not None
    assert (journal.decided, journal.learned) == (30 * decided, len(learned))
    assert published + [one.window for one in journal.pending] == learned


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
