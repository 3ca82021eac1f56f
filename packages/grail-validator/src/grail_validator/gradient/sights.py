"""The two sights of a round: seals once D has passed, updates and openings once V has.

A seal that was not seen at the first sight is absent, a file or an opening that was not seen at the second is withheld; what is
read is bounded by the checkpoint's layout, and recorded hotkey by hotkey as it comes. The bytes of updates and openings wait in
the file cache under the digests that were seen: whoever judges takes those very bytes, or none.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from grail_core.chain.base import Neuron, has_passed, seconds_of
from grail_core.gradient import opening, update_file
from grail_core.gradient.layout import Layout
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.seal import MAX_GRADIENT_SEAL_BYTES
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.layout import opening_key, seal_key, update_key
from grail_core.telemetry import get_logger
from grail_core.verification.gradient.seal import read_round_seal
from grail_validator.bucket_sight import BucketSight, Look, Seen
from grail_validator.ledger_rounds import RoundLedger
from grail_validator.round_cases import ObjectSighting, RoundStage, SightOf

log = get_logger(__name__)

MAX_TRIES: Final = 2
"""At one hotkey's object."""
UNREADABLE: Final = "it could not be read while it was looked for"
"""One wording for whatever a store said: validators that saw nothing say the same, and the log has the store's words."""


@dataclass
class RoundSights:
    participant: Participant
    ledger: RoundLedger
    layout_of: Callable[[CheckpointManifest], Layout]

    def run(self, context: RoundContext, stop: threading.Event) -> bool:
        """Both sights of a round, each when its time has come. False: stopped meanwhile.

        Raises:
            ChainError, CheckpointError, StorageError: worth another try; what was recorded stays, and is not asked again.
        """
        wait, times = self.participant.wait_for_block, context.times
        if not wait(times.deadline_block, stop):
            return False
        self.sight_seals(context)
        if not wait(times.reveal_block, stop):
            return False
        self.sight_files(context)
        return True

    def sight_seals(self, context: RoundContext) -> None:
        """Every registered hotkey's seal, unless it is done already or its time is over."""
        round_, last_block = context.round, context.times.first_sight_end_block
        if self.ledger.stage(round_) is not RoundStage.UNSEEN:
            log.event("round_sight_kept", window=round_, of=SightOf.SEAL.value)
            return
        if self._over(round_, SightOf.SEAL, last_block):
            return
        most = MAX_GRADIENT_SEAL_BYTES
        look = Look("seal", round_, partial(_key, seal_key, round_), last_block, most, UNREADABLE, _large(most))
        rest = self._look(round_, SightOf.SEAL, look, self.participant.miners_at(round_), keep=True)
        if rest is None:
            return
        self.ledger.record_sealed(round_, rest)
        sealed = sum(one.data is not None for one in self.ledger.sightings(round_, SightOf.SEAL))
        log.event("round_seals_seen", window=round_, seen=sealed, late=len(rest))

    def sight_files(self, context: RoundContext) -> None:
        """Updates and openings of whoever sealed, unless it is done already, seals were missed, or its time is over."""
        round_, last_block = context.round, context.times.second_sight_end_block
        stage = self.ledger.stage(round_)
        if stage not in (RoundStage.UNSEEN, RoundStage.SEALED):
            log.event("round_sight_kept", window=round_, of=SightOf.UPDATE.value)
        if stage is not RoundStage.SEALED or self._over(round_, SightOf.UPDATE, last_block):
            return
        layout, spec = self.layout_of(context.manifest), context.spec
        sealed = self._sealed(context, layout)
        rest: dict[SightOf, list[ObjectSighting]] = {}
        for kind, key, most in (
            (SightOf.UPDATE, update_key, update_file.most_bytes(layout, spec)),
            (SightOf.OPENING, opening_key, opening.most_bytes(layout, spec)),
        ):
            look = Look(kind.value, round_, partial(_key, key, round_), last_block, most, UNREADABLE, _large(most))
            late = self._look(round_, kind, look, sealed, keep=False)
            if late is None:
                return
            rest[kind] = late
        self.ledger.record_revealed(round_, rest)
        seen = {kind: sum(one.digest is not None for one in self.ledger.sightings(round_, kind)) for kind in rest}
        log.event("round_files_seen", window=round_, updates=seen[SightOf.UPDATE], openings=seen[SightOf.OPENING])

    def bytes_of(self, round_: Window, kind: SightOf, one: ObjectSighting) -> bytes | None:
        """What was seen, whole; once more from its bucket where the cache has lost it. None: those bytes are nowhere now."""
        if one.digest is None:
            return None
        cached = self.participant.files.get(_cache_key(round_, kind, one.hotkey), one.digest)
        if cached is not None:
            return cached
        neuron = next((n for n in self.participant.miners_at(round_) if n.hotkey == one.hotkey), None)
        if neuron is None:
            return None
        look = Look(kind.value, round_, partial(_key, _KEYS[kind], round_), _NEVER, one.size, UNREADABLE, _large(one.size))
        found: list[Seen] = []
        self._buckets().look(look, [neuron], found.append)
        data = found[0].data if found else None
        return data if data is not None and hashlib.sha256(data).digest() == one.digest else None

    def forget(self, round_: Window) -> None:
        """The round is judged: its bytes may go."""
        self.participant.files.forget(f"rounds/{round_}")

    def _sealed(self, context: RoundContext, layout: Layout) -> list[Neuron]:
        """Whose seal stands check 1: nobody else's file is fetched, whatever lies in their buckets."""
        seals = {one.hotkey: one.data for one in self.ledger.sightings(context.round, SightOf.SEAL)}
        found = []
        for neuron in self.participant.miners_at(context.round):
            data = seals.get(neuron.hotkey)
            if data is not None and not isinstance(read_round_seal(data, neuron.hotkey, context, layout), list):
                found.append(neuron)
        return found

    def _look(
        self, round_: Window, kind: SightOf, look: Look, neurons: Sequence[Neuron], *, keep: bool
    ) -> list[ObjectSighting] | None:
        """Who did not answer; None where nobody did, which says that the fault is ours."""
        before = {one.hotkey for one in self.ledger.sightings(round_, kind)}
        asked = [neuron for neuron in neurons if neuron.hotkey not in before]
        answered = self._buckets().look(look, asked, lambda seen: self._record(round_, kind, seen, keep=keep))
        if asked and not answered and not before:
            log.event("round_sight_missed", window=round_, of=kind.value, reason="no store answered before it was over")
            return None
        return [ObjectSighting(neuron.hotkey, reason=UNREADABLE) for neuron in asked if neuron.hotkey not in answered]

    def _record(self, round_: Window, kind: SightOf, seen: Seen, *, keep: bool) -> None:
        digest = None if seen.data is None else Digest(hashlib.sha256(seen.data).digest())
        if seen.data is not None and digest is not None and not keep:
            self.participant.files.put(_cache_key(round_, kind, seen.hotkey), seen.data, digest)
        sighting = ObjectSighting(
            hotkey=seen.hotkey,
            stored_at_ms=None if seen.info is None else seen.info.stored_at_ms,
            size=0 if seen.data is None else len(seen.data),
            digest=digest,
            data=seen.data if keep else None,
            reason=seen.reason,
        )
        self.ledger.record_sighting(round_, kind, sighting)

    def _over(self, round_: Window, kind: SightOf, last_block: Block) -> bool:
        chain = self.participant.chain
        over = has_passed(chain, last_block)
        if over:
            log.event(
                "round_sight_missed", window=round_, of=kind.value, block_now=chain.current_block(), last_block=last_block
            )
        return over

    def _buckets(self) -> BucketSight:
        """A store has a third of a sight for one answer."""
        participant, params = self.participant, self.participant.params
        seconds = seconds_of(params.first_sight_ends_after_D / 3, params.block_time_ms)
        return BucketSight(participant.chain, participant.directory, MAX_TRIES, seconds)


_KEYS: Final = {SightOf.SEAL: seal_key, SightOf.UPDATE: update_key, SightOf.OPENING: opening_key}
_NEVER: Final = Block(2**62)


def _key(key_of: Callable[[str, Window], str], round_: Window, hotkey_ss58: str) -> str:
    return key_of(hotkey_ss58, round_)


def _large(most: int) -> str:
    return f"it has more than {most} bytes"


def _cache_key(round_: Window, kind: SightOf, hotkey: Hotkey) -> str:
    return f"rounds/{round_}/{ss58(hotkey)}.{kind.value}"
