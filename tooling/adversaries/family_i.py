"""I1 to I8 and I16: receipts of dishonest nodes, judged as anybody judges them.

One try is one receipt of the study's trained model (of a brief one with `--quick`); what is required of it is that it is not
accepted. Where a power is published instead (docs/inference.md), what passes is counted and claimed neither way.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_core.protocol.policy import GenerationPolicy
from grail_core.verification.receipt import ReceiptReport, check_receipt
from grail_miner.serving.answering import AdmittedOrder
from tooling.adversaries.hostile_receipts import (
    can_be_misstopped,
    malformed,
    misordered,
    misstopped,
    moved,
    resigned,
)
from tooling.adversaries.rows import Row, Try
from tooling.adversaries.size import QUICK, STUDIED
from tooling.studies.receipts.deviations import DEVIATIONS, Forger
from tooling.studies.receipts.node import NETWORK, NOW, Question, StudiedNode
from tooling.testing.keys import BOB, EVE
from tooling.testing.wallets import ACCOUNT, wallet_signature

UNIT = "receipt"
MEMORY = 64 << 20
"""Bytes that reading the worst of malformed receipts may take: eight times the largest receipt."""

_TOKENS = 64


@dataclass
class Scene:
    """A node with its wrong models; `tries` are receipts of each deviation, each of another question."""

    forger: Forger
    tries: int

    @property
    def node(self) -> StudiedNode:
        return self.forger.node

    def judge(self, row: Row, name: str, raw: bytes) -> None:
        report = check_receipt(raw, seed=bytes(32), model=self.node.at_hand)
        row.tries.append(_try(name, report))

    def honest(self, row: Row, receipt: Receipt) -> None:
        row.honest_tries += 1
        row.honest_false_rejects += (
            check_receipt(receipt.to_bytes(), seed=bytes(32), model=self.node.at_hand).outcome.value != "accept"
        )

    def deviate(self, row: Row, names: Sequence[str], lengths: Sequence[int] = (_TOKENS,), *, published: bool = False) -> None:
        """Receipts of each deviation and length, and their honest twins. `published`: its power is a figure, not a rule."""
        for length in lengths:
            orders = self.node.full_orders(self.tries, length)
            for order in orders:
                self.honest(row, self.node.honest.answer([order])[0])
            for name in names:
                said = f"{name}, {length} tokens"
                row.undecided |= {said} if published else set()
                for order in orders:
                    self.judge(row, said, DEVIATIONS[name](self.forger, order).to_bytes())

    def receipt(self, number: int = 0, choices: int = 1) -> Receipt:
        """An honest one, of a question with the letter a."""
        order = self.node.order(Question("a question of a client", False, number), GenerationPolicy(_TOKENS), choices=choices)
        return self.node.honest.answer([order])[0]


def _try(name: str, report: ReceiptReport) -> Try:
    decisive = report.decisive
    accepted = decisive is None
    return Try(name, accepted, "" if decisive is None else decisive.check, "" if decisive is None else decisive.detail)


def run_i1(scene: Scene) -> Row:
    row = Row("I1", UNIT)
    places = ("first", "middle", "last")
    scene.deviate(
        row, ["swapped text", *(f"{at} token replaced, {how}" for at in places for how in ("old proof", "proved anew"))]
    )
    scene.deviate(row, ["runner-up of a draw, proved anew", "runner-up of the last draw, proved anew"], published=True)
    return row


def run_i2(scene: Scene) -> Row:
    """With agreement nothing is visible to copy: that is the coordinator's, and comes with it."""
    row = Row("I2", UNIT)
    for number in range(scene.tries):
        honest = scene.receipt(number)
        scene.judge(row, "another node's answer, signed anew", resigned(honest, NETWORK.id, EVE))
        scene.honest(row, honest)
    return row


def run_i3(scene: Scene) -> Row:
    row = Row("I3", UNIT)
    for number in range(scene.tries):
        honest, other = scene.receipt(2 * number, choices=2), scene.receipt(2 * number + 1, choices=2)
        for name, raw in moved(honest, scene.node.honest.sign, other).items():
            scene.judge(row, name, raw)
        scene.honest(row, honest)
    return row


def run_i5(scene: Scene) -> Row:
    row = Row("I5", UNIT)
    scene.deviate(row, ["4-bit weights, groups of 32", "4-bit weights, per channel"], (1, 8, _TOKENS))
    scene.deviate(row, ["smaller model, right prefill", "another model of the same shape"])
    scene.deviate(row, ["smaller model, right prefill"], (1, 8), published=True)
    more = [
        "4-bit text, right prefill",
        "8-bit text, right prefill",
        "8-bit weights, groups of 32",
        "8-bit weights, per channel",
    ]
    scene.deviate(row, more, published=True)
    return row


def run_i6(scene: Scene) -> Row:
    row = Row("I6", UNIT)
    scene.deviate(row, ["another seed"])
    weaker = ["best of 2", "best of 16", "temperature 0.7", "temperature 0.9", "temperature 1.2", "top-p 0.95", "top-k 50"]
    scene.deviate(row, [*weaker, "repetition penalty 1.1"], published=True)
    return row


def run_i8(scene: Scene) -> Row:
    row = Row("I8", UNIT)
    honest = scene.receipt()
    for name, raw in misordered(honest, scene.node.honest.sign, NETWORK.id, EVE, BOB).items():
        scene.judge(row, name, raw)
    scene.honest(row, honest)
    scene.honest(row, _ordered_by_a_wallet(scene, honest))
    node = scene.node.honest
    for order in _stopped_orders(scene):
        for name, receipt in misstopped(node, order).items():
            scene.judge(row, name, receipt.to_bytes())
        scene.honest(row, node.answer([order])[0])
    return row


def _stopped_orders(scene: Scene) -> list[AdmittedOrder]:
    """Orders that a stop text ends within the answer, of letters that stand in any text."""
    found: list[AdmittedOrder] = []
    node, number = scene.node.honest, 0
    while len(found) < scene.tries:
        asked = Features(prompt="a question of a client", seed=number, stop=("th", "1 ", "e"))
        policy = GenerationPolicy(_TOKENS)
        order = node.admit(node.unsigned(asked, policy, 1, 0), policy, now_s=NOW)
        found += [order] if can_be_misstopped(node, order) else []
        number += 1
    return found


def _ordered_by_a_wallet(scene: Scene, receipt: Receipt) -> Receipt:
    """The honest twin of forged signatures: the same question, signed as a wallet signs it, and answered."""
    sub = replace(receipt.order.subscription, owner=ACCOUNT)
    order = replace(receipt.order, subscription=sub)
    signed = replace(order, signature=wallet_signature(receipt.domain, order))
    node = scene.node.honest
    return node.answer([node.admit(signed, receipt.policy, now_s=NOW)])[0]


def run_i16(scene: Scene) -> Row:
    row = Row("I16", UNIT)
    honest = scene.receipt()
    scene.honest(row, honest)
    for name, raw in malformed(honest).items():
        tracemalloc.start()
        scene.judge(row, name, raw)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if peak > MEMORY:
            row.tries.append(Try(f"{name}, in bounded memory", True, "", f"{peak >> 20} MiB"))
    return row


RUNS: dict[str, Callable[[Scene], Row]] = {
    "I1": run_i1,
    "I2": run_i2,
    "I3": run_i3,
    "I5": run_i5,
    "I6": run_i6,
    "I8": run_i8,
    "I16": run_i16,
}


@lru_cache(maxsize=1)
def shared_scene(quick: bool, tries: int) -> Scene:
    return Scene(Forger(StudiedNode(QUICK if quick else STUDIED["4x128"])), tries)


def _attack(run: Callable[[Scene], Row], *, tries: int | None = None, quick: bool = False) -> dict[str, Any]:
    scene = shared_scene(quick, tries or (1 if quick else 4))
    return run(scene).to_json() | {"size": scene.node.size.name}


ATTACKS = {id_: partial(_attack, run) for id_, run in RUNS.items()}
"""Of receipts alone; what clients do to a node is in `family_i_strangers` and `family_i_clients`."""
