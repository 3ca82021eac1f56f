"""One round over a `GradientNetwork`, step by step, so that a test says what is different in its own and nothing else.

    round = GradientRound.trained(network, FIRST_WINDOW)     updates are made, nothing is stored
    round.seal(); round.see_seals(); round.reveal(); round.open(); round.see_files(); round.merge(); round.judge()

Every step moves the clock to its own block, and takes the names of those who take part in it; without names, of all. What a
step makes is kept by name: a test takes it, changes it, or stores it where it should not be (`store`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grail_core.protocol.context import Challenge
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.miner_verdicts import GradientMinerVerdict
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Hotkey, Window
from grail_core.protocol.verdicts import WindowStatus
from grail_core.storage.layout import opening_key, seal_key, update_key
from grail_miner.gradient.state import Pending
from grail_miner.gradient.training import Training
from grail_validator.gradient.service import GradientValidator
from tooling.testing.gradient_network import GradientNetwork

KEYS = {"seal": seal_key, "update": update_key, "opening": opening_key}


@dataclass
class GradientRound:
    """`pending`: by miner, what it trained. `factories`: who does not train honestly."""

    network: GradientNetwork
    context: RoundContext
    pending: dict[str, Pending]
    factories: Mapping[str, type[Training]] = field(default_factory=dict)
    _validators: dict[str, GradientValidator] = field(default_factory=dict)

    @classmethod
    def trained(
        cls,
        network: GradientNetwork,
        first: Window,
        names: Iterable[str] | None = None,
        *,
        batches: Mapping[str, int] | None = None,
        factories: Mapping[str, type[Training]] | None = None,
    ) -> GradientRound:
        """The miners' updates, made and kept by each. `batches`: sequences of a step; 4 where nothing is said."""
        network.advance_to(first + 1)
        context, factories = network.round(first), factories or {}
        found: dict[str, Pending] = {}
        for name in network.miners if names is None else names:
            miner = network.miner(name, factories.get(name, Training), (batches or {}).get(name, 4))
            pending = miner.prepare(context, threading.Event())
            assert pending is not None, f"{name} has no work in round {first}"
            found[name] = pending
        return cls(network, context, found, factories)

    def over(self, network: GradientNetwork) -> GradientRound:
        """The same round in a copy of its network."""
        return GradientRound(network, self.context, dict(self.pending), self.factories)

    @property
    def challenge(self) -> Challenge:
        self.network.advance_to(self.context.times.challenge_block)
        return self.network.challenge(self.context)

    # --- miners ---------------------------------------------------------------------------------------------------------

    def seal(self, *names: str) -> None:
        for name in names or self.pending:
            assert self.network.miner(name).seal(self.context, self.pending[name])

    def reveal(self, *names: str) -> None:
        self.network.advance_to(self.context.times.first_sight_end_block + 1)
        for name in names or self.pending:
            self.network.miner(name).reveal(self.context, self.pending[name])

    def open(self, *names: str) -> None:
        challenge = self.challenge
        for name in names or self.pending:
            miner = self.network.miner(name, self.factories.get(name, Training))
            assert miner.open(self.context, challenge, self.pending[name])

    def settle(self, *names: str) -> None:
        self.network.advance_to(self.context.times.reveal_block)
        for name in names or self.pending:
            self.network.miner(name).settle(self.context)

    def store(self, name: str, kind: str, data: bytes) -> None:
        """Under a miner's key, now, whatever it is."""
        self.network.participant(name).own_store.put(self.key(name, kind), data)

    def stored(self, name: str, kind: str) -> bytes | None:
        """What lies there."""
        store = self.network.participant(name).own_store
        return None if store.head(self.key(name, kind)) is None else store.get(self.key(name, kind), max_bytes=1 << 26)

    def remove(self, name: str, kind: str) -> None:
        self.network.participant(name).own_store.delete(self.key(name, kind))

    def key(self, name: str, kind: str) -> str:
        return KEYS[kind](self.network.signers[name].ss58, self.context.round)

    # --- trainer and validators -----------------------------------------------------------------------------------------

    def validator(self, name: str = "validator-0", **handles: Any) -> GradientValidator:
        """The same one in every step of the round; with handles, one that is started again and has these from now on."""
        if handles or name not in self._validators:
            self._validators[name] = self.network.validator(name, **handles)
        return self._validators[name]

    def see_seals(self, *names: str) -> None:
        self.network.advance_to(self.context.times.deadline_block)
        for name in names or self.network.validators:
            self.validator(name).sights.sight_seals(self.context)

    def see_files(self, *names: str) -> None:
        self.network.advance_to(self.context.times.reveal_block)
        for name in names or self.network.validators:
            self.validator(name).sights.sight_files(self.context)

    def merge(self) -> CheckpointManifest | None:
        """By the aggregator, in time for the next round."""
        challenge = self.challenge
        lead = self.network.aggregator().lead(self.context)
        self.network.advance_to(self.context.times.reveal_block + 1)
        aggregator = self.network.aggregator()
        manifest = aggregator.aggregate(self.context, challenge, lead)
        aggregator.complete()
        return manifest

    def judge(self, name: str = "validator-0") -> GradientVerdictBody:
        """Once it is known who was merged."""
        challenge = self.challenge
        self.network.advance_to(self.context.times.checkpoint_block)
        status = self.validator(name).judge(self.context, challenge, threading.Event())
        body = self.body(name)
        assert status is body.status
        return body

    def verdict(self, name: str = "validator-0") -> SignedGradientVerdict:
        """What this validator has in its ledger."""
        files = self.validator(name).ledger.rounds.files(self.context.round)
        assert files is not None, f"{name} has not judged round {self.context.round}"
        return SignedGradientVerdict.decode(files.verdict)

    def body(self, name: str = "validator-0") -> GradientVerdictBody:
        return self.verdict(name).body

    def row(self, body: GradientVerdictBody, name: str) -> GradientMinerVerdict:
        row = body.miner(self.hotkey(name))
        assert row is not None, f"{name} is not in the body of round {self.context.round}"
        return row

    def hotkey(self, name: str) -> Hotkey:
        return Hotkey(self.network.signers[name].hotkey)

    def show(self, *names: str) -> None:
        """Everything that miners do after the sight of seals."""
        self.reveal(*names)
        self.open(*names)
        self.settle(*names)

    def play(self, *names: str) -> None:
        """Everything that miners store and validators see, in time: all but merge and verdicts."""
        self.seal(*names)
        self.see_seals()
        self.show(*names)
        self.see_files()

    def end(self, *validators: str) -> dict[str, GradientVerdictBody]:
        """Merge, and these validators' verdicts."""
        self.merge()
        bodies = {name: self.judge(name) for name in validators or self.network.validators}
        assert all(body.status is WindowStatus.SCORED for body in bodies.values())
        return bodies
