"""What findings are typical of: recorded findings of dishonest miners name the true cause, with how sure that is."""

from __future__ import annotations

import pytest

from grail_core.protocol import Finding, Outcome
from grail_core.protocol.findings import MAX_DETAIL
from grail_core.verification.causes import Certainty, causes_of, read
from grail_core.verification.model_checks import NOT_ENFORCED
from grail_core.verification.wording import accept, reject, say

RECORDED = {
    # of `hatch run localnet` with every cheat; numbers as they stood in the verdicts
    "zero-sketch": (
        [
            reject("proof", value=0.5, threshold=0.3, detail="coarse_error: worst RMS sketch error of 4 rollouts", group=12),
            reject(
                "proof", value=1.0, threshold=0.0625, detail="coarse_error_share: share of 46 rollouts whose error is above"
            ),
            reject("proof", value=1.0, threshold=0.11, detail="sketch_ratio: mean log ratio, 46 units of 46 rollouts"),
        ],
        "ran no model",
        Certainty.LIKELY,
    ),
    "best-of-n": (
        [
            reject("sampling", value=0.0869565, threshold=0.0625, detail="coarse_margin_share: share of 46 rollouts"),
            reject("sampling", value=0.5, threshold=0.12, detail="twin_margin: lost margins, 46 units of 46 rollouts"),
        ],
        "best-of-N",
        Certainty.LIKELY,
    ),
    "another temperature, not named": (
        [reject("sampling", value=0.31, threshold=0.12, detail="twin_margin: lost margins, 46 units of 46 rollouts")],
        "0.31 of 32 positions are lost beyond what the validator's own numerics lose, honest at most 0.12",
        Certainty.LIKELY,
    ),
    "another temperature": (
        [
            reject("sampling", value=88.0, threshold=17.3, detail="int8 (tokens): log-evidence"),
            reject("sampling", value=99.0, threshold=17.3, detail="temperature x 0.9 (tokens): log-evidence"),
            reject("sampling", value=0.31, threshold=0.12, detail="twin_margin: lost margins, 46 units of 46 rollouts"),
        ],
        "temperature x 0.9, which is not the network's policy",
        Certainty.LIKELY,
    ),
    "4-bit generation": (
        [reject("sampling", value=99.0, threshold=17.3, detail="int4-groups (tokens): log-evidence")],
        "drawn by a 4-bit copy of the weights (int4-groups), whatever proved them",
        Certainty.LIKELY,
    ),
    "a stale engine": (
        [reject("sampling", value=99.0, threshold=17.3, detail="previous-2 (tokens): log-evidence")],
        "drawn by the stale checkpoint 2 before the window's",
        Certainty.LIKELY,
    ),
    "stale": (
        [reject("proof", value=0.6931, threshold=0.1098, detail="sketch_ratio: mean log ratio, 46 units of 46 rollouts")],
        "by 2 times the energy, honest at most 1.12 times; typical of a quantised copy of the weights (4-bit, fp8, 8-bit)",
        Certainty.LIKELY,
    ),
    "quantised": (
        [
            reject("proof", value=0.9, threshold=0.11, detail="sketch_ratio: mean log ratio, 46 units of 46 rollouts"),
            reject("proof", value=310.0, threshold=17.3, detail="int4-groups: log-evidence that int4-groups was run"),
        ],
        "a 4-bit copy of the weights (int4-groups)",
        Certainty.LIKELY,
    ),
    "other bits": (
        [reject("proof", value=0.1, threshold=-2.0, detail="bit_equal: largest log ratio", group=3, rollout=4)],
        "another device model",
        Certainty.LIKELY,
    ),
    "log-probabilities": (
        [reject("logprob", value=1.0, threshold=0.11, detail="logprob_ratio: mean log ratio, 46 units of 46 rollouts")],
        "by 2.72 times the energy or more, honest at most 1.12 times",
        Certainty.LIKELY,
    ),
    "stale, compared with": (
        [reject("proof", value=310.0, threshold=15.2, detail="previous-1: log-evidence that previous-1 was run, 46 rollouts")],
        "stale checkpoint 1 before",
        Certainty.LIKELY,
    ),
    "skip": (
        [reject("seal", value=8, threshold=1, detail="more groups are missing than may be")],
        "8 groups were left out",
        Certainty.CERTAIN,
    ),
    "copy": (
        [
            reject("prompt", detail="the prompt has 24 tokens, the assigned one 51", group=0),
            reject("prompt", detail="the prompt differs from the assigned one at token 3", group=4),
        ],
        "a copy",
        Certainty.CERTAIN,
    ),
}


@pytest.mark.parametrize("cheat", RECORDED)
def test_the_findings_of_a_cheat_name_it(cheat: str) -> None:
    findings, words, certainty = RECORDED[cheat]
    (cause,) = causes_of([accept("file"), *findings])
    assert words in str(cause)
    assert cause.certainty is certainty
    assert cause.advice


def test_one_wrong_token_everywhere_is_a_template_and_not_a_copy() -> None:
    detail = "the prompt differs from the assigned one at token 3"
    (cause,) = causes_of([reject("prompt", detail=detail, group=group) for group in range(4)])
    assert "template" in cause.typical_of[0]


def test_what_nothing_rejects_has_no_cause() -> None:
    assert causes_of([accept("file"), accept("proof", value=9.0, threshold=1.0, detail=f"energy: far{NOT_ENFORCED}")]) == []


def test_evidence_against_an_alternative_is_not_told_as_so_many_times_its_bound() -> None:
    """Log-evidence may be negative: "-1.5 times" says nothing."""
    assert read(accept("proof", value=-22.0, threshold=15.2, detail="int8: log-evidence")).line.endswith("(threshold 15.2)")
    assert read(accept("proof", value=7.6, threshold=15.2, detail="int8: log-evidence")).line.endswith(", 0.5 times)")


def test_a_log_ratio_is_not_told_as_so_many_times_its_bound() -> None:
    assert read(reject("proof", value=0.5, threshold=0.1, detail="sketch_ratio: mean")).line.endswith("(threshold 0.1)")
    assert read(reject("proof", value=0.5, threshold=-2.0, detail="bit_equal: largest")).margin is None


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        ("sketch_ratio: mean; undecided: the validator's own drift of 0.2 is not above 0 and at most 0.05", "own pass is no"),
        ("sketch_ratio: mean; undecided: no rollout has a float32 reference that says anything", "no finite number"),
        ("sketch_ratio: mean; batches that memory did not hold were measured in parts of 4", "memory did not hold"),
    ],
)
def test_what_is_undecided_is_told_as_the_validators_own(detail: str, words: str) -> None:
    (cause,) = causes_of([accept("file"), say(Outcome.INCONCLUSIVE, "proof", value=0.5, threshold=0.1, detail=detail)])
    assert words in str(cause)
    assert causes_of([reject("schema", detail="x"), say(Outcome.INCONCLUSIVE, "proof", detail=detail)]) != [cause]


def test_a_finding_is_told_with_its_margin_and_that_it_is_not_enforced() -> None:
    one = read(accept("proof", value=2.0, threshold=0.5, detail=f"energy: mean{NOT_ENFORCED}"))
    assert (one.statistic, one.margin, one.enforced, one.detail) == ("energy", 4.0, False, "mean")
    assert "4 times" in one.line
    assert one.line.endswith("reported and not enforced")


@pytest.mark.parametrize(
    "check", ["file", "seal", "schema", "prompt", "termination", "reward", "proof", "logprob", "sampling", "not yet invented"]
)
@pytest.mark.parametrize("value", [None, 0, 2**53 - 1, "inf", "nan", "a name", "x" * 64, ""])
def test_whatever_a_finding_holds_there_are_words_for_it(check: str, value: str | int | None) -> None:
    for detail in ("", "energy: ", "sketch_ratio: ", "top-p 0.95 (tokens): ", ": ", "class " * 40, "y" * MAX_DETAIL):
        for threshold in (None, 0, "0.0", "nan"):
            finding = Finding(check, Outcome.REJECT, value, threshold, detail, 3, 4)
            assert read(finding).line
            assert all(str(cause) for cause in causes_of([finding]))
            assert causes_of([finding])
