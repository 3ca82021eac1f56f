"""What fails around a validator of gradient work: stores, chain, beacon, its own cache and its own absence.

A first round is judged by two validators of three, and a second one trained; every test plays the second on in a copy. Nobody
is punished for a fault that is not his, nothing counts twice, and whoever saw the same says the same.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from grail_core.errors import BeaconError, StorageError
from grail_core.gradient.update_file import read_front
from grail_core.keys import LocalSigner
from grail_core.participant.another import WrittenByAnotherError
from grail_core.participant.rounds import NoWorkError
from grail_core.protocol.context import WindowContext
from grail_core.protocol.gradient.records import UpdateHeader
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.types import Hotkey, Window
from grail_core.protocol.verdicts import MinerStatus, WindowStatus
from grail_core.storage.layout import verdict_key
from grail_trainer.gradient_presets import TINY
from grail_validator.first_sight import Sighted
from grail_validator.gradient.rounds import GradientRounds
from grail_validator.round_cases import RoundStage, SightOf
from tooling.testing.driven_chain import Driven, Unhurried
from tooling.testing.faults import Faulty, always, events, faulty, first
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.gradient_round import GradientRound
from tooling.testing.network import FIRST_WINDOW

SECOND = Window(FIRST_WINDOW + 30)
MINERS = ("miner-0", "miner-1", "miner-2")
ACCEPTED, ABSENT, FAILED, INCONCLUSIVE = (
    MinerStatus.ACCEPTED,
    MinerStatus.ABSENT,
    MinerStatus.FAILED,
    MinerStatus.INCONCLUSIVE,
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> GradientRound:
    network = GradientNetwork(tmp_path_factory.mktemp("rounds") / "network", TINY, miners=3, validators=3)
    first = GradientRound.trained(network, FIRST_WINDOW)
    first.seal()
    first.see_seals("validator-0", "validator-1")
    first.show()
    first.see_files("validator-0", "validator-1")
    first.end("validator-0", "validator-1")
    return GradientRound.trained(network, SECOND)


@pytest.fixture
def played(begun: GradientRound, tmp_path: Path) -> GradientRound:
    return begun.over(begun.network.copied(tmp_path / "network"))


def statuses(one: GradientRound, body: GradientVerdictBody) -> list[MinerStatus]:
    return [one.row(body, name).status for name in MINERS]


def window_of(one: GradientRound) -> WindowContext:
    return one.network.participant("trainer").open_window(one.context.round)


def to_be_judged(one: GradientRound) -> None:
    """The next checkpoint's time has come, and is final."""
    one.network.advance_to(one.context.times.checkpoint_block + 3)


class Gone:
    """A directory in which the buckets of some hotkeys do not answer."""

    def __init__(self, one: GradientRound, *names: str) -> None:
        self.inner = one.network.directory("validator-0")
        self.gone = {one.network.directory(name).commitment() for name in names}

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def open(self, commitment: str) -> object:
        store = self.inner.open(commitment)
        refused = always(StorageError("it does not answer"))
        return faulty(store, read=refused, get=refused, head=refused) if commitment in self.gone else store


def test_validators_who_saw_the_same_say_the_same_whatever_order_it_came_in_and_however_often_they_began(
    played: GradientRound,
) -> None:
    played.seal()
    played.see_seals("validator-0")
    sights = played.validator("validator-1").sights
    full = faulty(sights.ledger, record_sighting=lambda call: StorageError("no answer") if call == 3 else None)
    with pytest.raises(StorageError):
        replace(sights, ledger=full).sight_seals(played.context)
    assert len(sights.ledger.sightings(SECOND, SightOf.SEAL)) == 2
    played.validator("validator-1", chain=played.network.chain)  # it is started again, and asks the others
    played.see_seals("validator-1")
    played.show()
    played.see_files("validator-1", "validator-0")
    played.merge()
    later = played.judge("validator-1")
    played.validator("validator-0", chain=played.network.chain)
    assert played.judge("validator-0").canonical() == later.canonical()
    assert statuses(played, later) == [ACCEPTED] * 3


def test_what_fails_in_the_middle_of_a_sight_is_tried_again_while_the_sight_lasts(played: GradientRound) -> None:
    played.seal()
    for name in MINERS:
        played.store(name, "update", played.pending[name].update)
    chain = Driven(played.network.chain, SECOND + 60)
    validator = played.network.validator("validator-0", chain=chain)
    ledger = validator.ledger
    failing = faulty(ledger)
    failing.rounds = faulty(ledger.rounds, record_sealed=first(1, StorageError("the disk is slow")))
    validator.ledger = failing
    watching = GradientRounds(validator.participant, lambda _: validator)
    assert watching.watch(SECOND, Unhurried()) is Sighted.ROUND
    assert ledger.rounds.stage(SECOND) is RoundStage.REVEALED


def test_one_store_that_does_not_answer_withholds_its_miners_file(played: GradientRound) -> None:
    played.seal()
    played.see_seals("validator-0")
    played.show()
    played.validator("validator-0", directory=Gone(played, "miner-1"))
    played.see_files("validator-0")
    played.merge()
    body = played.judge()
    assert statuses(played, body) == [ACCEPTED, FAILED, ACCEPTED]
    assert "could not be read" in played.row(body, "miner-1").reason


@pytest.mark.parametrize("sealed", [MINERS, MINERS[:1]])
def test_where_most_stores_do_not_answer_or_the_only_one_the_line_is_ours_and_nobody_fails(
    played: GradientRound, sealed: tuple[str, ...]
) -> None:
    played.seal(*sealed)
    played.see_seals("validator-0")
    played.show(*sealed)
    played.validator("validator-0", directory=Gone(played, *sealed[-2:]))
    played.see_files("validator-0")
    played.merge()
    body = played.judge()
    gone = [INCONCLUSIVE] * len(sealed[-2:])
    assert [played.row(body, name).status for name in sealed] == ([ACCEPTED] * 3)[: len(sealed) - len(gone)] + gone
    assert all(not one.failing(Window(90)) for one in body.standings.values())
    assert all(body.standings[played.row(body, name).uid].feedback is None for name in sealed[-2:])


def test_a_file_that_is_gone_from_cache_and_bucket_once_it_was_seen_costs_its_own_verdict_alone(
    played: GradientRound,
) -> None:
    played.play()
    played.merge()
    validator = played.validator("validator-0")
    validator.participant.files.forget(f"rounds/{SECOND}")
    for kind in ("update", "opening"):
        played.remove("miner-2", kind)
    body = played.judge()
    assert statuses(played, body) == [ACCEPTED, ACCEPTED, INCONCLUSIVE], "the others' are fetched once more"
    assert body.status is WindowStatus.SCORED
    assert "neither in this validator's cache nor in its bucket" in played.row(body, "miner-2").reason
    assert not body.standings[played.row(body, "miner-2").uid].failing(Window(90))


def test_other_bytes_than_were_seen_in_time_are_not_judged_in_their_place(played: GradientRound) -> None:
    played.play()
    played.merge()
    played.validator("validator-0").participant.files.forget(f"rounds/{SECOND}")
    played.store("miner-2", "update", b"other bytes")
    assert statuses(played, played.judge()) == [ACCEPTED, ACCEPTED, INCONCLUSIVE]


def test_a_validator_that_was_down_at_the_first_sight_records_the_round_as_missed_and_punishes_nobody(
    played: GradientRound,
) -> None:
    played.seal()
    played.network.advance_to(played.context.times.first_sight_end_block + 1)
    played.see_seals("validator-0")
    played.show()
    played.see_files("validator-0")
    played.merge()
    to_be_judged(played)
    assert played.validator().advance(window_of(played), threading.Event()) is WindowStatus.MISSED
    body = played.body()
    assert (body.status, body.miners) == (WindowStatus.MISSED, ())
    assert all(not one.failing(Window(90)) and one.feedback is None for one in body.standings.values())
    assert body.weights, "scores go on from what is known"
    third = GradientRound.trained(played.network, Window(SECOND + 30))
    third.play()
    third.merge()
    assert header(third, "miner-0").feedback_before != bytes(32)
    assert statuses(third, third.judge()) == [ACCEPTED] * 3, "it does not act on what it missed"


def header(one: GradientRound, name: str) -> UpdateHeader:
    return UpdateHeader.from_canonical(read_front(one.pending[name].update)[0])


def test_a_validator_that_was_down_at_the_second_sight_decides_nothing_and_punishes_nobody(played: GradientRound) -> None:
    played.seal()
    played.see_seals("validator-0")
    played.show()
    played.network.advance_to(played.context.times.second_sight_end_block + 1)
    played.see_files("validator-0")
    assert played.validator().ledger.rounds.stage(SECOND) is RoundStage.SEALED
    played.merge()
    to_be_judged(played)
    assert played.validator().advance(window_of(played), threading.Event()) is WindowStatus.SCORED
    body = played.body()
    assert statuses(played, body) == [INCONCLUSIVE] * 3
    assert all(not one.failing(Window(90)) for one in body.standings.values())


def test_a_validator_that_was_away_for_a_round_does_not_hold_files_to_feedback_of_before(played: GradientRound) -> None:
    played.seal()
    played.see_seals("validator-1")
    played.show()
    played.see_files("validator-1")
    played.end("validator-1")
    third = GradientRound.trained(played.network, Window(SECOND + 30))
    third.play()
    third.merge()
    known, away = third.judge("validator-1"), third.judge("validator-0")
    assert [third.row(body, name).status for body in (known, away) for name in MINERS] == [ACCEPTED] * 6
    assert [third.row(away, name).score for name in MINERS] == [third.row(known, name).score for name in MINERS]


def test_a_validator_that_starts_today_begins_with_the_lead_body_and_says_so_once(played: GradientRound) -> None:
    played.play()
    played.merge()
    to_be_judged(played)
    for name in ("validator-0", "validator-2"):
        assert played.validator(name).advance(window_of(played), threading.Event()) is WindowStatus.SCORED
    known, new = played.body("validator-0"), played.body("validator-2")
    told = played.verdict("validator-2").adopted
    assert told is not None
    assert (told.first, told.last) == (FIRST_WINDOW, FIRST_WINDOW)
    assert told.validator in {Hotkey(played.network.signers[name].hotkey) for name in ("validator-0", "validator-1")}
    assert new.canonical() == known.canonical()
    assert played.verdict("validator-0").adopted is None
    assert statuses(played, new) == [ACCEPTED] * 3


def test_a_validator_that_starts_today_and_finds_nobodys_body_fails_nobody_for_feedback(played: GradientRound) -> None:
    played.play()
    played.merge()
    to_be_judged(played)
    gone = Gone(played, "validator-0", "validator-1")
    with events() as said:
        assert played.validator("validator-2", directory=gone).advance(window_of(played), threading.Event())
    assert "memory_adopted" not in said
    assert header(played, "miner-0").feedback_before != bytes(32)
    assert statuses(played, played.body("validator-2")) == [ACCEPTED] * 3
    assert played.verdict("validator-2").adopted is None


def test_a_round_without_a_challenge_is_void_and_leaves_everybody_where_he_was(played: GradientRound) -> None:
    played.seal()
    played.see_seals("validator-0")
    played.reveal()
    played.network.advance_to(played.context.times.void_block + 3)
    window, beacon = window_of(played), faulty(played.network.beacon, get=always(BeaconError("no rounds")))
    validator = played.validator("validator-0", beacon=beacon)
    assert validator.advance(window, Unhurried()) is WindowStatus.VOID
    body = played.body()
    assert "no rounds" in body.reason
    assert body.miners == ()
    assert all(one.feedback is None for one in body.standings.values()), (
        "others may have had a challenge, and counted the files"
    )


def test_a_round_in_which_nobody_sealed_is_judged_and_makes_no_checkpoint(played: GradientRound) -> None:
    played.see_seals()
    played.see_files()
    assert played.merge() is None
    body = played.judge()
    assert statuses(played, body) == [ABSENT] * 3
    assert body.merge is None
    assert body.weights


def test_a_store_that_takes_no_verdict_gets_it_with_the_next_call_and_nothing_is_judged_again(played: GradientRound) -> None:
    played.play()
    played.merge()
    directory = faulty(played.network.directory("validator-0"))
    own = Faulty(played.network.directory("validator-0").own(), put=always(StorageError("full")))
    directory.own = lambda: own
    validator = played.validator("validator-0", directory=directory)
    body = played.judge()
    assert validator.ledger.rounds.stage(SECOND) is RoundStage.JUDGED
    kept = validator.ledger.rounds.files(SECOND)
    assert kept is not None
    again = played.validator("validator-0", directory=played.network.directory("validator-0"))
    assert again.advance(window_of(played), threading.Event()) is None
    assert again.ledger.rounds.stage(SECOND) is RoundStage.PUBLISHED
    assert again.participant.own_store.get(verdict_key(SECOND), max_bytes=1 << 24) == kept.verdict
    assert again.advance(window_of(played), threading.Event()) is None
    assert again.ledger.rounds.bodies(Window(90), 9)[-1][0] == SECOND
    assert body.digest() == played.body().digest()


def test_a_hotkey_that_leaves_in_the_middle_of_a_round_is_judged_and_its_uids_next_owner_begins_anew(
    played: GradientRound,
) -> None:
    played.seal()
    played.see_seals()
    left = played.network.signers["miner-1"]
    played.network.chain.deregister(left)
    played.network.chain.advance(1)
    next_owner = LocalSigner.from_seed(b"next owner".ljust(32))
    uid = played.network.chain.register(next_owner)
    played.network.chain.commit(next_owner, played.network.directory("miner-1").commitment())
    played.show()
    played.see_files("validator-0")
    played.merge()
    body = played.judge()
    assert statuses(played, body) == [ACCEPTED] * 3
    assert played.row(body, "miner-1").uid == uid
    third = GradientRound.trained(played.network, Window(SECOND + 30), ("miner-0",))
    third.play()
    third.merge()
    after = third.judge()
    assert after.miner(Hotkey(left.hotkey)) is None
    assert after.hotkeys[uid] == next_owner.hotkey
    assert (after.standings[uid].work, after.powers[uid], after.standings[uid].feedback) == (0, 0, bytes(32))
    assert third.row(after, "miner-0").status is ACCEPTED


def test_a_validator_whose_process_ends_while_it_judges_judges_again_and_counts_once(played: GradientRound) -> None:
    played.play()
    played.merge()
    validator = played.validator("validator-0")
    validator.ledger.begin_work(SECOND)
    validator.ledger.note_work(SECOND, Hotkey(played.network.signers["miner-1"].hotkey))
    played.validator("validator-0", chain=played.network.chain)  # the process ended there
    body = played.judge()
    assert statuses(played, body) == [ACCEPTED] * 3
    for _ in range(2):
        assert Counter(round_ for round_, _ in validator.ledger.rounds.bodies(Window(90), 9))[SECOND] == 1


def test_the_next_rounds_sight_does_not_touch_the_model_that_this_round_is_judged_with(played: GradientRound) -> None:
    models = played.network.models
    before = models.at(played.context.manifest)
    played.play()
    later = played.merge()
    assert later is not None
    assert models.layout(later).size == before.layout.size
    assert models.at(played.context.manifest) is before


def test_a_round_whose_corpus_is_too_small_for_all_who_are_registered_is_void_and_stops_nobody(tmp_path: Path) -> None:
    """Whoever stores a file all the same is neither judged nor merged, and who joins the network stops no service."""
    network = GradientNetwork(tmp_path / "network", replace(TINY, sequences=150), miners=1, validators=1)
    network.advance_to(FIRST_WINDOW + 1)
    one = GradientRound(network, network.round(FIRST_WINDOW), {})
    one.see_seals()
    one.see_files()
    with pytest.raises(NoWorkError, match="150 of the corpus"):
        one.merge()
    body = one.judge()
    assert (body.status, body.miners) == (WindowStatus.VOID, ())
    assert "no work" in body.reason


def test_a_trainers_bucket_that_hangs_does_not_hold_up_the_first_sight_of_rollouts(played: GradientRound) -> None:
    """Which work a window has is not known while it hangs; once the deadline is there the window is seen as one of rollouts."""
    trainer, released, woken = played.network.directory("trainer").commitment(), threading.Event(), []

    def hang(_: int) -> StorageError:
        woken.append(released.wait(30))
        return StorageError("it hangs")

    directory = faulty(played.network.directory("validator-0"))
    stores = played.network.directory("validator-0").open
    directory.open = lambda said: faulty(stores(said), list=hang) if said == trainer else stores(said)
    validator = played.network.validator("validator-0", directory=directory)
    watching = GradientRounds(validator.participant, lambda _: validator)
    played.network.advance_to(validator.participant.times(SECOND).deadline_block)
    try:
        assert watching.watch(SECOND, threading.Event()) is None
        assert woken == [], "it still hangs"
    finally:
        released.set()


def test_a_verdict_published_before_the_start_is_kept_and_one_since_ends_the_second(played: GradientRound) -> None:
    """Of one hotkey whose ledger was brought back from before the round, and of two that run at once."""
    network = played.network
    played.seal()
    watching = GradientRounds(network.participant("validator-2"), lambda _: network.validator("validator-2"))
    played.see_seals("validator-2")
    played.show()
    played.see_files("validator-2")
    to_be_judged(played)
    first = played.validator("validator-2")
    missed = first._unscored(played.context, WindowStatus.MISSED, "another disk was away")
    signer = first.participant.signer
    said = SignedGradientVerdict(
        missed.body, signer.hotkey, signer.sign(SignedGradientVerdict.message(missed.body, signer.hotkey))
    )
    store, key = first.participant.own_store, verdict_key(SECOND)
    store.put(key, said.encode())
    with pytest.raises(WrittenByAnotherError) as caught:
        watching.validator.record(played.context, first._unscored(played.context, WindowStatus.VOID, "mine"))
    assert caught.value.where == key
    assert store.get(key, max_bytes=10**6) == said.encode()
    network.advance_to(played.context.times.checkpoint_block + 10)
    with events() as names:
        assert network.validator("validator-2").publish(SECOND)
    assert "verdict_kept" in names
    assert store.get(key, max_bytes=10**6) == said.encode()
    assert played.verdict("validator-2") == said
    assert first.ledger.rounds.stage(SECOND) is RoundStage.PUBLISHED
    first.ledger.rounds.require_whole()
