"""Orders answered as a running node answers them, without its HTTP: rows that join, proofs of what drew them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grail_core.checkpoints.served_model import ServedFolder
from grail_core.inference.receipts import Receipt
from grail_core.protocol.signer import Signer
from grail_miner.serving.answering import AdmittedOrder, Answering, ServedNetwork
from grail_miner.serving.models import HfModels, NewRow, RowId


class ServedAnswers(Answering):
    """One node, with its models in this process."""

    def __init__(self, folder: ServedFolder, network: ServedNetwork, signer: Signer) -> None:
        super().__init__(folder, network, signer)
        self._models = HfModels()
        held = self._models.hold(self.to_hold[0])
        self.proof_class, self.generation_class = held.proof_class, held.generation_class
        self._next = 0

    def answer(self, batch: Sequence[AdmittedOrder]) -> list[Receipt]:
        """One receipt an order; all of them decode together."""
        rows: list[list[RowId]] = []
        new: list[NewRow] = []
        for one in batch:
            rows.append([RowId(self._next + choice) for choice in range(one.choices)])
            self._next += one.choices
            new += [NewRow(row, one.model_digest, asked) for row, asked in zip(rows[-1], self.requests(one), strict=True)]
        tokens: dict[RowId, tuple[int, ...]] = {row.id: () for row in new}
        left = set(tokens)
        while left:
            for moved in self._models.advance(new, []):
                tokens[moved.id] += moved.tokens
                left -= {moved.id} if moved.finished else set()
            new = []
        return [self._proved(one, of, [tokens[row] for row in of]) for one, of in zip(batch, rows, strict=True)]

    def _proved(self, one: AdmittedOrder, rows: Sequence[RowId], completions: Sequence[tuple[int, ...]]) -> Receipt:
        job = replace(self.proof_job(one, completions), rows=tuple(rows))
        return self.receipt(one, completions, self._models.prove(job))
