"""Orders answered in closed batches by a model of this process: for studies, attacks and tests, which have many at once."""

from __future__ import annotations

from collections.abc import Sequence

from grail_core.checkpoints.served_model import ServedFolder
from grail_core.generation.hf import HfGenerator
from grail_core.inference.constants import PROMPT_POSITIONS
from grail_core.inference.receipts import Receipt
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof, prove_rollouts
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.sketches import projections
from grail_core.protocol.randomness import Randomness
from grail_core.protocol.signer import Signer
from grail_miner.serving.answering import AdmittedOrder, Answering, ServedNetwork
from grail_miner.serving.stop_watch import stopped_length


class ClosedAnswers(Answering):
    """One node, one model. Those of one call decode together, and each is proved alone."""

    def __init__(
        self, folder: ServedFolder, model: PolicyModel, network: ServedNetwork, signer: Signer, *, name: str = ""
    ) -> None:
        super().__init__(folder, network, signer, name=name)
        self.proof_class = self.generation_class = numerics_class_of(model)
        self._model = model
        self._randomness = Randomness(network.id)
        self._generator = HfGenerator(model, folder.policy, frozenset(folder.model.end_token_ids))

    def answer(self, batch: Sequence[AdmittedOrder]) -> list[Receipt]:
        """Draw, prove and sign; one receipt an order."""
        return [self.prove(one, completions) for one, completions in zip(batch, self.draw(batch), strict=True)]

    def draw(self, batch: Sequence[AdmittedOrder]) -> list[list[tuple[int, ...]]]:
        """The completions of every order."""
        drawn = iter(self._generator.generate([request for one in batch for request in self.requests(one)]))
        return [[self._ended(one, next(drawn).tokens) for _ in range(one.choices)] for one in batch]

    def _ended(self, one: AdmittedOrder, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The completion up to the token with which its text contains a stop text."""
        folder = one.served.folder
        return tokens[: stopped_length(folder.renderer.decode, folder.model.spoken(tokens), one.asked.stop)]

    def prove(self, one: AdmittedOrder, completions: Sequence[tuple[int, ...]]) -> Receipt:
        """The signed receipt of these completions, one for each choice."""
        return self.receipt(one, completions, self.proofs(one, completions))

    def proofs(self, one: AdmittedOrder, completions: Sequence[tuple[int, ...]]) -> list[RolloutProof]:
        """Of these completions, made in one pass."""
        signs = projections(self._randomness, one.seeds.sketch, self._model.hidden_size)
        return prove_rollouts(
            self._model,
            [[*one.prompt, *completion] for completion in completions],
            [len(one.prompt)] * len(completions),
            signs,
            prompt_positions=PROMPT_POSITIONS,
            logprobs=one.logprobs,
        )
