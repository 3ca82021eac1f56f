"""A node of the study: one trained model under several numerics, questions of its corpus, and a verifier in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from grail_core.checkpoints.served_model import ServedFolder, read_served_folder
from grail_core.environment import Message
from grail_core.inference.features import Features
from grail_core.inference.receipts import Receipt
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.receipt_bounds import ReceiptTable, shipped_receipt_table
from grail_core.protocol.network import SUBNET_81
from grail_core.protocol.policy import GenerationPolicy
from grail_core.verification.receipt import ModelAtHand, ReceiptReport, check_receipt
from grail_core.verification.receipt_model import measure_receipt
from grail_miner.serving.answering import AdmittedOrder, ServedNetwork
from tooling.adversaries.deviations.provers import HonestModels
from tooling.adversaries.size import Size
from tooling.studies.power_sizes.sized_bench import Models
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.keys import ALICE
from tooling.testing.models.artefacts import Artefacts, default_folder
from tooling.testing.models.corpus import Corpus, load_corpus
from tooling.testing.served_answers import ServedAnswers

NETWORK = ServedNetwork(SUBNET_81, bytes(32))
NOW = 1_700_000_000
"""Unix seconds at which orders are admitted; those of the study never expire."""

_SHORT = ("Hi", "1 + 1 =", "Why?", "ok", "Yes or no", "a", "2", "The")


@dataclass(frozen=True)
class Question:
    """`number` makes it another draw of the same text."""

    text: str
    complete: bool
    number: int

    @property
    def features(self) -> Features:
        if self.complete:
            return Features(prompt=self.text, seed=self.number)
        return Features(messages=(Message("user", self.text),), seed=self.number)


def questions(corpus: Corpus, count: int, start: int = 0) -> list[Question]:
    """Held-out ones, one in eight a bare text and one in eight of a word or two: short prompts have few sketches."""
    found = []
    for number in range(start, start + count):
        text = corpus.held_out[number % len(corpus.held_out)].prompt
        short = number % 8 == 7
        found.append(Question(_SHORT[number // 8 % len(_SHORT)] if short else text, number % 8 == 3, number))
    return found


class StudiedNode:
    """One size of the study."""

    def __init__(self, size: Size, table: ReceiptTable | None = None, store: Artefacts | None = None) -> None:
        self.size = size
        self.corpus = load_corpus()
        self.made: Models = size.make(store or Artefacts(default_folder()), self.corpus)
        self.loaded = HonestModels(self.made.folders.policy)
        self._table = table

    @property
    def folder(self) -> Path:
        return self.made.folders.policy

    @cached_property
    def served(self) -> ServedFolder:
        return read_served_folder(self.folder)

    def answering(self, model: PolicyModel) -> ClosedAnswers:
        """A node that says it serves the folder, and computes with this model."""
        return ClosedAnswers(self.served, model, NETWORK, ALICE)

    @cached_property
    def serving(self) -> ServedAnswers:
        """A node as it runs."""
        return ServedAnswers(self.served, NETWORK, ALICE)

    @cached_property
    def honest(self) -> ClosedAnswers:
        return self.answering(self.loaded.sdpa)

    def order(self, question: Question, policy: GenerationPolicy, *, choices: int = 1, logprobs: bool = False) -> AdmittedOrder:
        order = self.honest.unsigned(question.features, policy, choices, 0)
        return self.honest.admit(order, policy, now_s=NOW, logprobs=logprobs)

    def full_orders(self, count: int, tokens: int, start: int = 0) -> list[AdmittedOrder]:
        """Orders whose honest answer has exactly so many tokens: a model that ends earlier says nothing of that length."""
        found: list[AdmittedOrder] = []
        policy = GenerationPolicy(tokens)
        while len(found) < count:
            batch = [self.order(one, policy) for one in questions(self.corpus, 2 * count + 8, start)]
            start += len(batch)
            drawn = self.honest.draw(batch)
            found += [one for one, (completion,) in zip(batch, drawn, strict=True) if len(completion) == tokens]
        return found[:count]

    @cached_property
    def at_hand(self) -> ModelAtHand:
        measure = partial(measure_receipt, self.loaded.sdpa)
        table = self._table or shipped_receipt_table()
        return ModelAtHand(str(self.folder), self.served.model, self.served.renderer, measure, table)

    def check(self, receipt: Receipt, number: int = 0, *, table: ReceiptTable | None = None) -> ReceiptReport:
        """As anybody would, its bytes and nothing else; the positions are drawn by `number`."""
        model = self.at_hand if table is None else replace(self.at_hand, table=table)
        return check_receipt(receipt.to_bytes(), seed=number.to_bytes(32, "big"), model=model)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of measured values: the median, the 99th percentile and the largest."""
    import numpy as np

    low, high = np.quantile(values, [0.5, 0.99])
    return {"median": float(f"{low:.4g}"), "p99": float(f"{high:.4g}"), "largest": float(f"{max(values):.4g}")}
