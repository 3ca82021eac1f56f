"""The aggregator: round after round, reads what was revealed, chooses whom to merge, publishes the next checkpoint.

Every step is a function of what lies in buckets and on the chain, and publishing finds what it did before: an aggregator that
is killed anywhere and started again makes the same checkpoints. Where nobody can be merged there is no checkpoint, and the next
round trains the same weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from grail_core.chain.base import seconds_of
from grail_core.checkpoints.due import complete
from grail_core.corpus import Corpus
from grail_core.errors import CheckpointError, EnvironmentUnavailableError, MachineFaultError, StorageError
from grail_core.gradient import opening
from grail_core.keys import ss58
from grail_core.participant.lead_body import LeadBody, lead_body
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.round_files import read_objects
from grail_core.participant.round_models import RoundModels
from grail_core.participant.rounds import NoWorkError, first_window, require_work, round_of_window, wait_for_round_challenge
from grail_core.participant.waiting import until_had, wait_for_window
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.seal import MAX_GRADIENT_SEAL_BYTES, GradientSeal
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Block, Hotkey, Window
from grail_core.storage.layout import opening_key, seal_key, update_key
from grail_core.telemetry import get_logger
from grail_core.verification.gradient.files import Round, StoredObject
from grail_core.verification.gradient.measure import RoundScene
from grail_core.verification.gradient.seal import read_round_seal
from grail_core.work import Work, work_of
from grail_trainer.merging.candidates import Chosen, Lead, Seen, candidates, choose
from grail_trainer.merging.merge import ChosenUpdate, merged_record
from grail_trainer.merging.publication import merge_valid_from, publish_merged

log = get_logger(__name__)

BUCKET_SHARE: Final = 0.25
"""Of the time between reveal and checkpoint lead that one bucket has for update and opening, which are read at once."""
SEAL_SHARE: Final = 0.1
"""And for its seal, of at most 1 KiB. What one store drips away of that time, choosing and publishing lack."""
LEAD_BLOCKS: Final = 2
"""That looking for the lead body takes at most; it is looked for before anybody reveals."""


@dataclass
class Aggregator:
    """`corpus_of`: the corpus that a manifest names, for the guard."""

    participant: Participant
    models: RoundModels
    corpus_of: Callable[[EnvironmentSpec], Corpus]

    def run(self, stop: threading.Event, rounds: int | None = None) -> int:
        """Merge rounds until stopped, `rounds` are merged, or the network turns to other work. Returns how many were."""
        self.complete()
        merged, last = 0, None
        window = self.participant.current_window()
        while not stop.is_set() and (rounds is None or merged < rounds):
            waited = wait_for_window(self.participant, window, stop)
            if isinstance(waited, Stopped):
                break
            if isinstance(waited, Opened):
                manifest = waited.value.manifest
                if work_of(manifest) is not Work.GRADIENT:
                    log.event("no_gradient_work", window=window, reason="the checkpoint in force asks for other work")
                    break
                first = first_window(waited.value)
                if first != window and first != last:  # it began before this process did
                    waited = wait_for_window(self.participant, first, stop)
                if first != last and isinstance(waited, Opened):
                    merged += self.round(waited.value, stop) is not None
                last = first
            window = max(Window(window + WINDOW_LENGTH), self.participant.current_window())
        return merged

    def round(self, window: WindowContext, stop: threading.Event) -> CheckpointManifest | None:
        """The round that begins with this window, waited through; None where nothing was merged."""
        context = round_of_window(window)
        last = Block(min(context.times.void_block, context.times.reveal_block + context.spec.round_blocks))
        challenge = wait_for_round_challenge(self.participant, context, stop, until=last)
        if isinstance(challenge, Void):
            log.event("round_not_merged", window=context.round, reason=challenge.reason)
        if not isinstance(challenge, Opened):
            return None
        lead = self.lead(context)
        if not self.participant.wait_for_block(Block(context.times.reveal_block + 1), stop):
            return None
        try:
            had = until_had(
                self.participant,
                context.round,
                stop,
                partial(self._attempt, context, challenge.value, lead),
                too_late=lambda: self.participant.chain.current_block() >= last,  # the next round is to be merged then
            )
        except (EnvironmentUnavailableError, MachineFaultError, NoWorkError) as error:
            had = Void(error.what)  # costs the round, and not the aggregator: the next one may go well
        if isinstance(had, Void):
            log.event("round_not_merged", window=context.round, reason=had.reason)
        if not isinstance(had, Opened):
            return None
        self.complete()
        return had.value[0] if had.value else None

    def lead(self, context: RoundContext) -> LeadBody | None:
        """What the last verdicts say. Errors: none; without one everybody is a newcomer."""
        params = self.participant.params
        return lead_body(self.participant, context, seconds=seconds_of(LEAD_BLOCKS, params.block_time_ms))

    def aggregate(self, context: RoundContext, challenge: Challenge, lead: LeadBody | None) -> CheckpointManifest | None:
        """Read, choose, merge and publish, once everybody's time to reveal is over.

        Raises:
            StorageError, ChainError, CheckpointError: call again; what is there is found again.
            NoWorkError: nobody has work in this round.
        """
        participant = self.participant
        head = participant.own_checkpoints.sequence().head
        if head is None:
            raise CheckpointError("the network has no first checkpoint")
        stored = participant.own_checkpoints.sequence().stored
        standing = next((one.manifest for one in stored if one.manifest.window == context.round), None)
        if standing is not None:
            log.event("merge_kept", round=context.round, sequence=standing.sequence)
            return standing
        if head.valid_from > context.round:
            # A merge that came late. One on top of it would come into force yet a round later, and so would all that follow:
            # every update would be applied to weights that it was not made from.
            log.event("round_not_merged", window=context.round, reason="the merge before is not in force in this round")
            return None
        seen = self._seen(context)
        chosen = self.choose(context, challenge, lead_of(lead, context), seen)
        if not chosen.merged:
            log.event("round_not_merged", window=context.round, reason="nobody's update can be merged")
            return None
        updates = [_update(seen[one.sealer.hotkey]) for one in chosen.merged]
        record = merged_record(
            context.round,
            updates,
            context.spec,
            parent_sequence=head.sequence,
            lead_body=None if lead is None else lead.verdict.body.digest(),
            dropped=[(seen[hotkey].uid, chosen.scores[hotkey]) for hotkey in sorted(chosen.dropped)],
        )
        now, bucket = participant.chain.current_block(), participant.own_checkpoints
        valid_from = merge_valid_from(context.round, context.spec, head, now, participant.params)
        return publish_merged(bucket, head, updates, record, valid_from, participant.signer, participant.params)

    def choose(self, context: RoundContext, challenge: Challenge, lead: Lead, seen: Mapping[Hotkey, Seen]) -> Chosen:
        """Whom to merge, of those who revealed."""
        highest = require_work(self.participant, context)
        model = self.models.at(context.manifest)
        corpus = self.corpus_of(context.manifest.environment)
        round_ = Round(context, challenge, model.layout, model.theta, self._time(context.times.reveal_block))
        start_ms, deadline_ms = self._time(context.times.first_block), self._time(context.times.deadline_block)
        passed, refused = candidates(round_, seen, lead, start_ms=start_ms, deadline_ms=deadline_ms)
        for hotkey, reason in refused.items():
            log.event("update_not_merged", window=context.round, hotkey=ss58(hotkey), reason=reason)
        scene = RoundScene(context, model.theta, model.layout, model.trained, model.policy, corpus)
        chosen = choose(scene, passed, lead, challenge.select_seed, highest)
        for hotkey in chosen.dropped:
            log.event("update_not_merged", window=context.round, hotkey=ss58(hotkey), reason=chosen.dropped[hotkey])
        return chosen

    def complete(self) -> None:
        """Upload what published manifests still owe; what the store does not take now is with the next round."""
        try:
            complete(self.participant.own_checkpoints)
        except StorageError as error:
            log.event("objects_late", reason=error.what, retry="with the next round")

    def _attempt(self, context: RoundContext, challenge: Challenge, lead: LeadBody | None) -> tuple[CheckpointManifest, ...]:
        manifest = self.aggregate(context, challenge, lead)
        return () if manifest is None else (manifest,)

    def _seen(self, context: RoundContext) -> dict[Hotkey, Seen]:
        """Seals of everybody who is registered with a bucket; updates and openings of those whose seal is in order."""
        participant, round_, spec = self.participant, context.round, context.spec
        layout = self.models.at(context.manifest).layout
        blocks = context.times.checkpoint_block - context.times.reveal_block
        seconds = seconds_of(blocks, participant.params.block_time_ms)
        neurons = participant.miners_at(round_)
        seals = read_objects(
            participant,
            neurons,
            lambda own: seal_key(own, round_),
            most=lambda _: MAX_GRADIENT_SEAL_BYTES,
            seconds=SEAL_SHARE * seconds,
        )
        sizes: dict[Hotkey, int] = {}  # of whose seal stands check 1: nobody else's file is fetched, and none beyond its seal
        for neuron in neurons:
            data = seals[neuron.hotkey].data
            seal = None if data is None else read_round_seal(data, neuron.hotkey, context, layout)
            if isinstance(seal, GradientSeal):
                sizes[neuron.hotkey] = seal.size
        sealed = [neuron for neuron in neurons if neuron.hotkey in sizes]
        most = opening.most_bytes(layout, spec)
        read = partial(read_objects, participant, sealed, seconds=BUCKET_SHARE * seconds)
        with ThreadPoolExecutor(1, thread_name_prefix="openings") as pool:
            shown = pool.submit(read, lambda own: opening_key(own, round_), most=lambda _: most)
            updates = read(lambda own: update_key(own, round_), most=lambda hotkey: sizes[hotkey])
            openings = shown.result()
        nothing = StoredObject()
        return {
            neuron.hotkey: Seen(
                neuron.uid,
                neuron.hotkey,
                seals[neuron.hotkey],
                updates.get(neuron.hotkey, nothing),
                openings.get(neuron.hotkey, nothing),
            )
            for neuron in neurons
            if seals[neuron.hotkey].data is not None
        }

    def _time(self, block: int) -> int:
        return self.participant.chain.block(Block(block)).timestamp_ms


def lead_of(lead: LeadBody | None, context: RoundContext) -> Lead:
    """What of the lead body decides this round: by hotkeys, since UIDs change hands."""
    if lead is None:
        return Lead()
    body = lead.verdict.body
    before = body.window == context.round - context.spec.round_blocks
    return Lead(
        round=body.window,
        digest=body.digest(),
        powers={hotkey: body.powers[uid] for uid, hotkey in body.hotkeys.items()},
        checked=frozenset(hotkey for uid, hotkey in body.hotkeys.items() if body.standings[uid].checked),
        failing=frozenset(hotkey for uid, hotkey in body.hotkeys.items() if body.standings[uid].failing(context.round)),
        feedback={
            hotkey: feedback
            for uid, hotkey in body.hotkeys.items()
            if before and (feedback := body.standings[uid].feedback) is not None
        },
    )


def _update(seen: Seen) -> ChosenUpdate:
    if seen.update.data is None:
        raise ValueError("an update that was chosen has bytes")
    return ChosenUpdate(seen.uid, seen.hotkey, seen.update.data)
