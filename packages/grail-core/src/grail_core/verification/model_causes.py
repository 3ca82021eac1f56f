"""What findings of checks 7 to 9 are typical of: a proof, log-probabilities or draws that are not the window's model's.

A statistic that pools everything says how far off a file is; one of a named alternative says what made it. Where both speak,
the name is told. What is undecided is told as the validator's own. Pure; numbers stand in the findings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from grail_core.proof.alternative_test import WEIGHTS_ALTERNATIVES
from grail_core.proof.calibration import BOUNDS
from grail_core.proof.statistics import token_statistic
from grail_core.proof.token_test import SAMPLING_ALTERNATIVES
from grail_core.protocol.reading import Json

_NO_MODEL_ERROR: Final = 0.45
"""RMS sketch error from which nothing of the window's model is in a sketch; unrelated ones reach 0.5, where it is cut."""

_ALMOST_CLIPPED: Final = 0.99

TOKEN_STATISTICS: Final[Mapping[str, str]] = {
    token_statistic(name): name for name in (*WEIGHTS_ALTERNATIVES, *SAMPLING_ALTERNATIVES)
}
"""Statistics that test an alternative from tokens, and the alternative."""


class Certainty(Enum):
    CERTAIN = "certain"  # it follows from the bytes
    LIKELY = "likely"  # measured, far beyond what honest numerics do; the reason is one of a few
    POSSIBLE = "possible"  # beyond the bound, and several reasons fit alike


@dataclass(frozen=True)
class Cause:
    """`what` is a sentence, `typical_of` what usually ends so, likeliest first, `advice` the next thing to look at."""

    what: str
    certainty: Certainty
    typical_of: tuple[str, ...] = ()
    advice: str = ""

    def __str__(self) -> str:
        text = self.what
        if self.typical_of:
            text += f"; typical of {_or(self.typical_of)}"
        return f"{text} ({self.certainty.value})"

    def to_json(self) -> dict[str, Json]:
        return {
            "what": self.what,
            "certainty": self.certainty.value,
            "typical_of": [*self.typical_of],
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Number:
    """A statistic's value and bound, None where there is none."""

    value: float | None
    threshold: float | None


Numbers = Mapping[str, Number]
"""Of one check's rejecting findings, by the statistic's name."""


def proof_causes(told: Numbers) -> list[Cause]:
    coarse = told.get("coarse_error") or told.get("coarse_error_share")
    if coarse is not None:
        return [_coarse_error(told)]
    if "bit_equal" in told:
        return [
            Cause(
                "sketches are not the bits that the declared class gives on every machine that it names",
                Certainty.LIKELY,
                ("another device model, driver or kernels than the class pins", "an older checkpoint, or any other weights"),
                "prove on the very device and kernels that the network pins, or declare another class",
            )
        ]
    named = next((name for name in WEIGHTS_ALTERNATIVES if name in told), None)
    if named is not None:
        what = f"the proof fits {_weights(named)} better than the window's own weights"
        return [Cause(what, Certainty.LIKELY, advice="prove with the window's checkpoint in bf16")]
    return [
        Cause(
            f"sketches lie further from the checkpoint in float32 than its own numerics do{_times(told, 'sketch_ratio')}",
            Certainty.LIKELY,
            (
                "a quantised copy of the weights (4-bit, fp8, 8-bit)",
                "a layer that was skipped",
                "a numerics class that was not declared (another dtype or attention)",
                "an older (stale) checkpoint",
            ),
            "prove with the window's own weights in bf16; name the class that computes",
        )
    ]


def logprob_causes(told: Numbers) -> list[Cause]:
    if "coarse_logprob" in told:
        typical = ("log-probabilities that were made up", "those of the warped (tempered) distribution, or of another model")
    else:
        typical = (
            "a quantised copy of the weights",
            "log-probabilities of an engine, or of the warped distribution, in place of the proof's own",
        )
    return [
        Cause(
            f"claimed log-probabilities are not the unwarped model's{_times(told, 'logprob_ratio')}",
            Certainty.LIKELY,
            typical,
            "claim the log-probabilities of the proof's own forward pass, before temperature",
        )
    ]


def sampling_causes(told: Numbers) -> list[Cause]:
    named = [name for statistic, name in TOKEN_STATISTICS.items() if statistic in told]
    warped = [name for name in named if name in SAMPLING_ALTERNATIVES]
    share = told.get("coarse_margin_share")
    if share is None and named:
        return [_drawn_by((warped or named)[0])]
    text = "draws do not follow the assigned seeds"
    if share is not None and share.value is not None:
        text += f": of the sampled rollouts {share.value:.0%} lose the draw again and again (honest: none in most files)"
    pooled = told.get("twin_margin")
    if pooled is not None and pooled.value is not None and pooled.threshold is not None:
        text += f"{';' if share else ':'} {pooled.value:.3g} of 32 positions are lost beyond what the validator's own numerics "
        text += f"lose, honest at most {pooled.threshold:.3g}"
    return [
        Cause(
            text,
            Certainty.LIKELY,
            (
                "best-of-N",
                "another temperature, top-k or top-p",
                "other seeds, or weights that were not proved (8-bit, 4-bit)",
            ),
            "draw every rollout once, with its own seed and the window's policy, from an fp32 head",
        )
    ]


def undecided_causes(details: Sequence[str]) -> list[Cause]:
    """Of findings that are for nobody and against nobody."""
    if any("own drift of" in detail for detail in details):
        return [
            Cause(
                "this validator's own pass is no measure of the float32 reference: it equals it, or lies as far off as another "
                "model would",
                Certainty.LIKELY,
                (
                    "a checkpoint whose numbers overflow or vanish in bf16",
                    "a device, driver or kernel that computes wrong numbers",
                    "a model that was loaded in float32",
                ),
                "compare with another validator's evidence; look at device and driver: the miner has no part in it",
            )
        ]
    if any("no rollout has a float32 reference" in detail for detail in details):
        return [
            Cause(
                "the float32 reference has no finite number for any sampled rollout",
                Certainty.LIKELY,
                ("a checkpoint whose numbers overflow", "a device that computes wrong numbers"),
                "compare with another validator's evidence; the miner has no part in it",
            )
        ]
    if any("in parts of" in detail for detail in details):
        return [
            Cause(
                "memory did not hold whole proof batches, and what would reject holds for whole ones alone",
                Certainty.CERTAIN,
                advice="leave the model process more memory, or a larger device",
            )
        ]
    return []


def _coarse_error(told: Numbers) -> Cause:
    worst = told["coarse_error"].value if "coarse_error" in told else None
    everywhere = (told["coarse_error_share"].value or 0) > 0.5 if "coarse_error_share" in told else worst is not None
    if everywhere and (worst is None or worst >= _NO_MODEL_ERROR):
        return Cause(
            "sketches have nothing in common with the window's checkpoint over these tokens",
            Certainty.LIKELY,
            (
                "a proof that ran no model (made-up sketches)",
                "sketches of another model, other tokens or another window",
            ),
            "prove with the window's checkpoint and its own window seed",
        )
    return Cause(
        "some sketches are far from the window's checkpoint over these tokens",
        Certainty.LIKELY,
        ("tokens that were changed after the proof", "a proof that was computed for a part of the rollouts only"),
        "prove the very tokens that are packed, all of them",
    )


def _weights(name: str) -> str:
    if name.startswith("previous-"):
        return f"the stale checkpoint {name.removeprefix('previous-')} before the window's"
    return f"a {'4-bit' if name.startswith('int4') else '8-bit'} copy of the weights ({name})"


def _drawn_by(name: str) -> Cause:
    if name in SAMPLING_ALTERNATIVES:
        return Cause(
            f"tokens were drawn with {name}, which is not the network's policy",
            Certainty.LIKELY,
            ("an engine with a setting of its own for temperature or top-p", "tokens that were made likelier on purpose"),
            "give the engine the checkpoint's generation policy and nothing else",
        )
    engine = (
        "that was not given the window's weights in time" if name.startswith("previous-") else "that runs quantised weights"
    )
    return Cause(
        f"tokens were drawn by {_weights(name)}, whatever proved them",
        Certainty.LIKELY,
        (f"an inference engine {engine}",),
        "generate with the very weights that prove; `grail-miner conformance` compares an engine with them",
    )


def _times(told: Numbers, name: str) -> str:
    """By how much, where a mean log ratio is at hand."""
    one = told.get(name)
    if one is None or one.value is None or one.threshold is None or not math.isfinite(one.value + one.threshold):
        return ""
    low, high = BOUNDS[name]
    value, threshold = (min(max(number, low), 2 * high) for number in (one.value, one.threshold))
    least = " or more" if value > _ALMOST_CLIPPED * high else ""
    return f": by {math.exp(value):.3g} times the energy{least}, honest at most {math.exp(threshold):.3g} times"


def _or(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])}, or {texts[-1]}"
