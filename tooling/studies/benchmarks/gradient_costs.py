"""What judging one file of gradient work costs, at the preset `tiny`: a miner's score, and checks 1 to 5.

A score is what `judging` does for one miner once its sequences are there: own data before; the update applied and set; common
and own data after. `score_ratio` holds it against the forward passes of the same batches with the losses of their tokens, all
weights in place; `score_ratio_logits` against passes that end at the logits. Drawing own sequences and making them (`bytes-1`
is computed, another corpus is read) is `own_rows_share`. Common data before is one for everybody and counts nowhere.
`check_share` is checks 1 to 5 of a file whose bytes lie here, over a score. `rounds_s` is the CPU of thirty rounds, by phase
too; the held-out loss of each round (`curve`) is not in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from grail_core.chain.base import Neuron
from grail_core.gradient.merge import medians, norms2
from grail_core.proof.losses import LOSS_BATCH
from grail_core.proof.round_work import Losses
from grail_core.proof.trained_model import I32
from grail_core.protocol.gradient.records import ZERO_ROOT
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.gradient.files import Revealed, Round, Sealer, StoredObject, examine_file
from grail_core.verification.gradient.measure import RoundScene, common_rows, losses_after, losses_at, own_rows
from grail_core.verification.gradient.seal import read_round_seal
from grail_trainer.gradient_presets import TINY
from tooling.rounds.plan import Plan
from tooling.rounds.run import run
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.network import FIRST_WINDOW
from tooling.testing.played_rounds import PlayedRound, play_round

Figures = dict[str, float]

REPEATS = 25
NAME = "miner-0"


def cost_figures(quick: bool = False) -> Figures:
    """Of a round with two honest miners; one of them is judged again and again."""
    with tempfile.TemporaryDirectory() as folder:
        network = GradientNetwork(Path(folder), TINY, miners=2, validators=0)
        return judging_figures(play_round(network, network.miners, FIRST_WINDOW), 5 if quick else REPEATS)


def judging_figures(played: PlayedRound, repeats: int) -> Figures:
    """Of a played round."""
    scoring = Scoring.of(played)
    seconds = _best(
        {
            "score": scoring.score,
            "forward": scoring.forward,
            "logits": scoring.logits,
            "rows": scoring.rows,
            "checks": Checks.of(played).check,
        },
        repeats,
    )
    return {
        "gradient.score_ratio": seconds["score"] / seconds["forward"],
        "gradient.score_ratio_logits": seconds["score"] / seconds["logits"],
        "gradient.own_rows_share": seconds["rows"] / seconds["score"],
        "gradient.check_share": seconds["checks"] / seconds["score"],
        "gradient.score_ms": 1e3 * seconds["score"],
        "gradient.check_ms": 1e3 * seconds["checks"],
    }


def rounds_figures(quick: bool = False) -> Figures:
    """CPU of thirty rounds with twelve miners, eight of them liars, and one validator, as `hatch run rounds` plays them."""
    plan = Plan(rounds=2 if quick else 30, joiners=False, reference=False)
    with tempfile.TemporaryDirectory() as folder:
        done = run(plan, Path(folder), lambda *_: None)
    spent = {f"gradient.rounds_s.{phase.replace(' ', '_')}": seconds for phase, seconds in done.cpu.items()}
    return {"gradient.rounds_s": done.seconds, "gradient.rounds_s.rounds": len(done.lines), **spent}


@dataclass(frozen=True, eq=False)
class Scoring:
    """One miner's score and what it is held against."""

    scene: RoundScene
    revealed: Revealed
    medians: tuple[int, ...]
    common: I32
    own: I32

    @classmethod
    def of(cls, played: PlayedRound, name: str = NAME) -> Scoring:
        scene, revealed = played.scene, played.revealed(name)
        files = [played.revealed(one).file for one in played.network.miners]
        most = medians([norms2(file.streams, scene.layout) for file in files])
        highest = max(one.uid for one in played.neurons)
        common = common_rows(scene, played.challenge.select_seed, highest)
        return cls(scene, revealed, most, common, own_rows(scene, revealed))

    def score(self) -> tuple[Losses, list[Losses]]:
        before = losses_at(self.scene, self.scene.theta, self.own)
        return before, losses_after(self.scene, self.revealed, self.medians, [self.common, self.own])

    def rows(self) -> I32:
        return own_rows(self.scene, self.revealed)

    @torch.inference_mode()
    def forward(self) -> list[torch.Tensor]:
        return [
            functional.cross_entropy(logits.flatten(0, 1), rows.roll(-1, dims=1).flatten(), reduction="none")
            for rows, logits in zip(self._batches(), self.logits(), strict=True)
        ]

    @torch.inference_mode()
    def logits(self) -> list[torch.Tensor]:
        return [self.scene.trained.module(input_ids=rows, use_cache=False).logits for rows in self._batches()]

    def _batches(self) -> list[torch.Tensor]:
        sets = (self.own, self.common, self.own)
        return [torch.from_numpy(rows[at : at + LOSS_BATCH]).long() for rows in sets for at in range(0, len(rows), LOSS_BATCH)]


@dataclass(frozen=True, eq=False)
class Checks:
    """Checks 1 to 5 of one file: the bytes of its three objects lie here already."""

    round: Round
    neuron: Neuron
    seal: StoredObject
    update: StoredObject
    opening: StoredObject

    @classmethod
    def of(cls, played: PlayedRound, name: str = NAME) -> Checks:
        return cls(played.round, played.neuron(name), *played.objects(name))

    def check(self) -> None:
        """Raises: AssertionError where one rejects."""
        round, hotkey = self.round, Hotkey(self.neuron.hotkey)
        assert self.seal.data is not None
        seal = read_round_seal(self.seal.data, hotkey, round.context, round.layout)
        assert isinstance(seal, GradientSeal), seal
        sealer = Sealer(self.neuron.uid, hotkey, seal, Digest(ZERO_ROOT))
        examined = examine_file(round, sealer, self.update, self.opening)
        assert examined.revealed is not None, examined.findings


def _best(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor time of this thread for each, in seconds: the best of several, taken in turns after one that warms up."""
    best = dict.fromkeys(works, float("inf"))
    for turn in range(repeats + 1):
        for name, work in works.items():
            begun = time.thread_time()
            work()
            if turn:
                best[name] = min(best[name], time.thread_time() - begun)
    return best
