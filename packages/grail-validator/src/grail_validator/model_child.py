"""The model process: it loads the checkpoints that it is told to from this machine's cache, and computes what it is asked.

Its parent is `model_process`, and nobody else starts it. It has no wallet, no store and no chain; what it knows of a miner are
token ids, positions and a seed. It lives as long as its parent (`grail_core.child_process.boot`).
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, NoReturn, cast

from grail_core.child_process.boot import Answers, serve
from grail_core.child_process.frames import Payload
from grail_core.errors import CheckpointError
from grail_core.protocol.policy import GenerationPolicy
from grail_validator import model_frames as frames
from grail_validator.compare_frames import AlternativeNames, answer_compared
from grail_validator.compared_models import ComparedModels
from grail_validator.model_frames import ERRORS, Kind

if TYPE_CHECKING:
    from grail_core.model.policy_model import Attention, PolicyModel
    from grail_core.proof.in_process import InThisProcess


def main() -> NoReturn:
    """Arguments: the descriptor of the connection, device, attention."""
    serve(_prepared, kinds=Kind, ready=Kind.READY, fault=Kind.FAULT, names=ERRORS)


def _prepared() -> Answers[Kind]:
    models = _Models(device=sys.argv[2], attention=cast("Attention", sys.argv[3]))
    return {
        Kind.HOLD: (Kind.HELD, models.hold),
        Kind.LOAD: (Kind.LOADED, models.load),
        Kind.MEASURE: (Kind.MEASURED, models.measure),
        Kind.COMPARE: (Kind.COMPARED, models.compare),
    }


class _Models:
    """The models in this process: of one window at a time. Those that the next one needs too stay."""

    def __init__(self, *, device: str, attention: Attention) -> None:
        from transformers import AutoModelForCausalLM  # noqa: F401 - takes seconds, better now than in a window

        from grail_core.model.policy_model import require_device
        from grail_core.proof import in_process  # noqa: F401 - the same

        require_device(device)
        self._device, self._attention = device, attention
        self._held: dict[str, PolicyModel] = {}  # by digest
        self._unusable: dict[str, str] = {}
        self._work: InThisProcess | None = None
        self._names = AlternativeNames()

    def hold(self, payload: memoryview) -> Payload:
        """One checkpoint of a window from its folder, which need not stay. First goes what the window does not need: two
        windows' models need not fit at a time."""
        from grail_core.model.policy_model import PolicyModel

        told, _ = frames.unpack(payload)
        digest, wanted = str(told["digest"]), set(told["wanted"])
        self._work = None
        self._held = {one: model for one, model in self._held.items() if one in wanted}
        gc.collect()
        if digest not in self._held:
            try:
                self._held[digest] = PolicyModel.load(told["folder"], attention=self._attention, device=self._device)
            except CheckpointError as error:
                if not told["dispensable"]:
                    raise
                self._unusable[digest] = error.what[:500]
        return frames.pack({})

    def load(self, payload: memoryview) -> Payload:
        """What a window is judged with, of what is held, and the facts of its own model. What could not be held is named."""
        from grail_core.proof.alternatives import ROUNDED
        from grail_core.proof.in_process import InThisProcess
        from grail_core.proof.leads import WARPED
        from grail_core.proof.token_test import supports

        told, _ = frames.unpack(payload)
        compared = ComparedModels(**told["compared"])
        model = self._held[str(told["digest"])]
        model.logits(model.hidden_states([[0, 0]])[0])  # what this device cannot do it shall not do before anybody's work
        earlier = dict(told["earlier"])
        weights = {name: self._held[digest].state for name, digest in earlier.items() if digest in self._held}
        missing = {name: self._unusable.get(digest, "") for name, digest in earlier.items() if name not in weights}
        # Their float32 copy takes twice the model's memory, and a window without a drawn file needs none.
        self._work = InThisProcess(model, lambda: compared.alternatives(model, weights), kept_bytes=compared.states_bytes)
        self._names = AlternativeNames.told(
            (*weights, *(ROUNDED if compared.rounded else ())),
            WARPED if supports(GenerationPolicy(**told["policy"])) else (),
        )
        return frames.pack(
            {
                "facts": vars(self._work.facts),
                "weights": self._names.weights,
                "sampled": self._names.sampled,
                "missing": missing,
            }
        )

    def measure(self, payload: memoryview) -> Payload:
        assert self._work is not None  # the parent asks after it has loaded
        asked = frames.asked_about(payload)
        measured = self._work.measure(
            asked.rows, asked.signs, asked.policy, proof_class=asked.proof_class, reference=asked.reference
        )
        return frames.answer_measured(measured, reference=asked.reference)

    def compare(self, payload: memoryview) -> Payload:
        assert self._work is not None
        asked = frames.asked_about(payload)
        found = self._work.compare(asked.rows, asked.signs, asked.policy, proof_class=asked.proof_class, asked=asked.compared)
        return answer_compared(found, asked.rows, self._names.only(asked.compared))
