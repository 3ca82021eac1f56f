"""A model of this process that receipts are measured with. It is loaded for the first receipt that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from grail_core.inference.answers import ServedModel
from grail_core.inference.constants import PROMPT_POSITIONS
from grail_core.inference.receipts import Receipt
from grail_core.inference.seeds import RequestSeeds
from grail_core.model.memory import in_parts
from grail_core.model.policy_model import PolicyModel
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.answer import measure_answer
from grail_core.proof.calibration import Shape
from grail_core.proof.numerics import NUMERICS_CLASSES, measuring_class, numerics_class_of
from grail_core.proof.reader_table import ReaderTable
from grail_core.proof.receipt_bounds import ReceiptTable, shipped_receipt_table
from grail_core.proof.sketches import projections
from grail_core.proof.work import ChoiceMeasurement
from grail_core.protocol.randomness import Randomness
from grail_core.verification.receipt import ModelAtHand
from grail_core.verification.receipt_bounds import MeasuredAnswer


def model_at_hand(
    folder: Path,
    model: ServedModel,
    renderer: PromptRenderer,
    *,
    device: str = "cpu",
    table: ReceiptTable | None = None,
    manifest: bytes | None = None,
    own: ReaderTable | None = None,
) -> ModelAtHand:
    """The folder with its model, which is loaded when a receipt passes every check that needs none.

    Args:
        model, renderer: as `checkpoints.served_model` reads them from the folder. table: by default the one in the package.
        manifest: what lies in the folder as a checkpoint's manifest. own: the reader's own table.
    """

    @cache
    def loaded() -> PolicyModel:
        return PolicyModel.load(folder, device=device)

    def measure(receipt: Receipt, seeds: RequestSeeds, positions: Sequence[Sequence[int]]) -> MeasuredAnswer:
        return measure_receipt(loaded(), receipt, seeds, positions)

    return ModelAtHand(str(folder), model, renderer, measure, table or shipped_receipt_table(), manifest, own)


def measure_receipt(
    model: PolicyModel, receipt: Receipt, seeds: RequestSeeds, positions: Sequence[Sequence[int]]
) -> MeasuredAnswer:
    """All choices in one pass, as the node proved them and with its attention; in parts where memory does not hold them.

    Args:
        positions: of each choice, completion indices whose draws are looked at.

    Raises: as `measure_answer`.
    """
    answer = receipt.answer
    longest = len(answer.prompt) + max(answer.lengths)
    own = measuring_class(answer.proof_class, numerics_class_of(model), longest)
    signs = projections(Randomness(seeds.network_id), seeds.sketch, model.hidden_size)

    def run(choices: Sequence[int]) -> list[ChoiceMeasurement]:
        return measure_answer(
            model,
            answer.prompt,
            [answer.choices[choice].completion for choice in choices],
            [positions[choice] for choice in choices],
            signs,
            receipt.policy,
            [seeds.sampling(choice) for choice in choices],
            prompt_positions=PROMPT_POSITIONS,
        )

    with model.attending(NUMERICS_CLASSES[own].attention):
        measured, _ = in_parts(range(len(answer.choices)), run)
    return MeasuredAnswer(own, Shape(model.layers, model.hidden_size), measured)
