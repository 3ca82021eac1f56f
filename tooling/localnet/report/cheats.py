"""What each cheating miner does, in words for somebody who has not read the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

ROLLOUT_CHEATS: Final[Mapping[str, str]] = {
    "zero-sketch": "sent proofs that were made without running the model",
    "best-of-n": "drew each answer four times and sent the best",
    "stale": "answered with the checkpoint before the current one",
    "skip": "sent only the groups in which it did well",
    "copy": "sent another miner's answers as its own",
    "eight-bit": "answered with weights that were rounded to eight bits",
}
GRADIENT_CHEATS: Final[Mapping[str, str]] = {
    "lazy": "took one training step of four and made up the others",
    "swap": "trained on other sequences than its own",
    "stale": "trained the checkpoint before the current one",
    "copy": "sent what another miner had shown a round before",
    "noise": "sent random values",
    "flip": "sent what it trained with every sign turned",
    "scale": "sent a hundred times what it trained",
    "late": "never showed what it had sealed",
}


class CheatingMiner(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def strategy(self) -> str: ...
    @property
    def weight(self) -> float: ...


def cheats_sentence(cheaters: Sequence[tuple[CheatingMiner, int, int]], what: Mapping[str, str], per: str) -> str:
    """What became of the miners that lied: each with the windows or rounds in which it was rejected, and of how many."""
    if not cheaters:
        return "Every miner of this run was honest."
    return " ".join(_one(*one, what, per) for one in cheaters)


def _one(miner: CheatingMiner, failed: int, judged: int, what: Mapping[str, str], per: str) -> str:
    did = what.get(miner.strategy, f"cheated ({miner.strategy})")
    caught = f"it was rejected in {failed} of {judged} {per}s" if failed else "no validator rejected it"
    earned = f"ended with {100 * miner.weight:.2f} % of all weight" if miner.weight else "ended with no weight, and so no pay"
    return f"{miner.name} cheated: it {did}; {caught} and {earned}."
