"""A seal that is its miner's and window's is taken; every other one is refused with what is wrong and what would be right."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail_core.keys import LocalSigner
from grail_core.proof.calibration import CalibrationTable, Shape, shipped_table
from grail_core.protocol import Finding, Outcome, Seal, WindowHeader, canonical_json
from grail_core.protocol.constants import MAX_FILE_BYTES, MAX_ROW_BYTES
from grail_core.protocol.context import WindowContext
from grail_core.protocol.seals import MAX_SEAL_BYTES
from grail_core.protocol.types import Digest, Signature, Window
from grail_core.text import printable
from grail_core.verification.header import Classes
from grail_core.verification.seal import CHECK, read_seal
from grail_core.verification.window_file import Submission, check_file
from tooling.testing import plain_window as plain

CONTEXT = plain.window_context()
MINER, OTHER = plain.MINERS[:2]
DATA = plain.window_file(CONTEXT, MINER, plain.rollouts(CONTEXT, MINER, range(2)))
SEAL = plain.seal(CONTEXT, MINER, DATA)
SDPA, EAGER = "bf16-sdpa-cpu-transformers", "bf16-eager-cpu-transformers"
TABLE = shipped_table()
SMALL, LARGE = Shape(2, 64), Shape(28, 2048)

STRICT = replace(CONTEXT, params=replace(CONTEXT.params, uncalibrated="refused"))


def sealed(signer: LocalSigner = MINER, *, size: int | None = None, **changes: Any) -> Seal:
    """A seal whose header differs from the honest one in these members, signed all the same."""
    header = replace(SEAL.header, **changes)
    honest = plain.seal(CONTEXT, signer, DATA, header)
    if size is None:
        return honest
    message = Seal.message(CONTEXT.network_id, honest.kind, header, honest.content_digest, size)
    return replace(honest, size=size, signature=signer.sign(message))


def read(
    seal: Seal | bytes,
    context: WindowContext = CONTEXT,
    *,
    known: Classes | None = None,
    table: CalibrationTable = TABLE,
    shape: Shape = SMALL,
) -> Seal | list[Finding]:
    raw = seal if isinstance(seal, bytes) else seal.encode()
    return read_seal(raw, MINER.hotkey, context, known=known, table=table, shape=shape)


def refusal(seal: Seal | bytes, context: WindowContext = CONTEXT, **options: Any) -> Finding:
    """The one finding that refuses it."""
    findings = read(seal, context, **options)
    assert not isinstance(findings, Seal)
    (finding,) = findings
    assert (finding.check, finding.outcome) == (CHECK, Outcome.REJECT)
    return finding


def test_an_honest_seal_is_taken_as_it_was_written() -> None:
    for context in (CONTEXT, STRICT):
        for known in (None, (SDPA, SDPA)):
            assert read(SEAL, context, known=known) == SEAL


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"window": Window(CONTEXT.window + 30)}, "window"),
        ({"block_hash": b"x" * 32}, "block hash"),
        ({"checkpoint_digest": Digest(b"x" * 32)}, "checkpoint digest"),
        ({"env_digest": Digest(b"x" * 32)}, "environment digest"),
        ({"policy_digest": Digest(b"x" * 32)}, "policy digest"),
    ],
)
def test_a_seal_of_another_window_or_model_is_refused_with_both_values(changes: dict[str, Any], name: str) -> None:
    finding = refusal(sealed(**changes))
    (member, wrong), right = next(iter(changes.items())), next(iter(changes))
    expected = getattr(SEAL.header, right)
    assert finding.detail == f"wrong {name}"
    assert finding.value == (wrong.hex() if isinstance(wrong, bytes) else wrong)
    assert finding.threshold == (expected.hex() if isinstance(expected, bytes) else expected)
    assert member == right


def test_a_seal_with_another_beacon_round_is_refused() -> None:
    findings = read(sealed(beacon_round=7, beacon_signature=bytes(48)))
    assert not isinstance(findings, Seal)
    assert [finding.detail for finding in findings] == ["wrong beacon round", "wrong beacon signature"]


def test_another_hotkeys_seal_under_ones_own_key_is_refused_whoever_signed_it() -> None:
    assert refusal(sealed(OTHER, hotkey=OTHER.hotkey)).detail == "wrong hotkey"
    assert refusal(sealed(MINER, hotkey=OTHER.hotkey)).detail == "wrong hotkey"


@pytest.mark.parametrize(
    "forged",
    [
        replace(SEAL, size=SEAL.size + 1),
        replace(SEAL, content_digest=Digest(bytes(32))),
        replace(SEAL, header=replace(SEAL.header, merkle_root=Digest(bytes(32)))),
        replace(SEAL, signature=Signature(bytes(64))),
        sealed(OTHER),
    ],
    ids=["size", "digest", "header", "no signature", "other signer"],
)
def test_what_the_hotkey_did_not_sign_is_refused(forged: Seal) -> None:
    assert refusal(forged).detail == "the signature is not the hotkey's over this seal"


def test_a_seal_signed_on_another_network_is_refused() -> None:
    elsewhere = Seal.message(bytes(32), SEAL.kind, SEAL.header, SEAL.content_digest, SEAL.size)
    assert "signature" in refusal(replace(SEAL, signature=MINER.sign(elsewhere))).detail


# --- numerics classes


@pytest.mark.parametrize("kind", ["proof", "generation"])
@pytest.mark.parametrize("name", ["bf16-flash-cuda-vllm", "fp8-anything", "\u202etxet", SDPA.upper()])
def test_a_class_that_the_network_does_not_admit_is_refused_with_those_it_does(kind: str, name: str) -> None:
    changes: dict[str, Any] = {f"{kind}_class": name}
    finding = refusal(sealed(**changes))
    assert finding.value == printable(name)
    assert finding.detail == f"{kind} class is not admitted on {CONTEXT.params.name}; admitted: {SDPA}, {EAGER}"


def test_each_kind_of_class_has_its_own_list() -> None:
    params = replace(CONTEXT.params, proof_classes=(SDPA,), generation_classes=(EAGER,))
    context = replace(CONTEXT, params=params)
    assert isinstance(read(sealed(generation_class=EAGER), context), Seal)
    assert refusal(SEAL, context).detail.startswith("generation class is not admitted")
    assert refusal(sealed(proof_class=EAGER, generation_class=EAGER), context).detail.startswith("proof class is not admitted")


@pytest.mark.parametrize("shape", [LARGE, Shape(2 * TABLE.lookup(SDPA, SDPA).largest.layers + 1, 64)])  # type: ignore[union-attr]
def test_a_model_beyond_every_table_is_refused_or_reported_as_the_network_says(shape: Shape) -> None:
    findings = read(SEAL, STRICT, shape=shape)
    assert not isinstance(findings, Seal)
    assert [finding.value for finding in findings] == [SDPA, SDPA]  # once for each kind
    for kind, finding in zip(("proof", "generation"), findings, strict=True):
        assert finding.detail == (
            f"{kind} class has no table for {shape.layers} layers of {shape.hidden_size} measured in {SDPA} "
            f"in calibration {TABLE.version}"
        )
    assert read(SEAL, CONTEXT, shape=shape) == SEAL


@pytest.mark.parametrize(("proof", "generation"), list(itertools.product((SDPA, EAGER), repeat=2)))
def test_a_class_needs_a_table_with_the_class_that_the_proof_is_measured_in_and_with_no_other(
    proof: str, generation: str
) -> None:
    """Validators refuse alike, whatever each of them computes with: they measure with the attention of the proof class, and
    long files with SDPA."""
    seal = sealed(proof_class=proof, generation_class=generation)
    needed = {(of, measured_in) for of in (proof, generation) for measured_in in (proof, SDPA)}
    for missing in TABLE.pairs:
        without_one = replace(TABLE, pairs={pair: table for pair, table in TABLE.pairs.items() if pair != missing})
        found = read(seal, STRICT, table=without_one)
        assert isinstance(found, Seal) == (missing not in needed)
        if not isinstance(found, Seal):
            assert found[0].detail.endswith(f"class has no table measured in {missing[1]} in calibration {TABLE.version}")
        assert isinstance(read(seal, CONTEXT, table=without_one), Seal)


def test_a_class_of_an_attention_that_validators_lack_needs_a_table_with_each_of_theirs() -> None:
    """Nobody can measure with that attention, so each validator measures in its own class."""
    flash = "bf16-flash-cuda-vllm"
    params = replace(STRICT.params, proof_classes=(*STRICT.params.proof_classes, flash))
    findings = read(sealed(proof_class=flash), replace(STRICT, params=params))
    assert not isinstance(findings, Seal)
    assert [(finding.value, finding.detail) for finding in findings] == [
        (flash, f"proof class has no table measured in {SDPA} in calibration {TABLE.version}")
    ]


def test_a_table_made_of_too_little_is_none() -> None:
    pairs = {pair: replace(table, tokens=99_999) for pair, table in TABLE.pairs.items()}
    assert not isinstance(read(SEAL, STRICT, table=replace(TABLE, pairs=pairs)), Seal)


@pytest.mark.parametrize("known", [(EAGER, SDPA), (SDPA, EAGER), (EAGER, EAGER)])
def test_a_class_that_changed_too_soon_is_refused_with_the_one_it_is_bound_to(known: Classes) -> None:
    finding = refusal(SEAL, known=known)
    assert (finding.value, finding.threshold) == (f"{SDPA} {SDPA}", " ".join(known))
    assert finding.detail == "numerics class changed too soon: a hotkey keeps its classes for 36 windows"


def test_a_refused_class_is_named_before_a_changed_one() -> None:
    assert "not admitted" in refusal(sealed(proof_class="other"), known=(SDPA, SDPA)).detail


# --- counts and sizes


@pytest.mark.parametrize(
    ("groups", "gaps", "allowed"), [(20, 2, 1), (1, 2, 1), (37, 2, 1), (38, 2, None), (19, 1, None), (57, 4, 3), (375, 20, 19)]
)
def test_more_gaps_than_the_allowance_are_refused(groups: int, gaps: int, allowed: int | None) -> None:
    seal = sealed(groups=groups, gaps=gaps, declared=16 * max(0, groups - 10 * gaps))
    if allowed is None:
        assert read(seal) == seal
        return
    finding = refusal(seal)
    assert (finding.value, finding.threshold, finding.detail) == (gaps, allowed, "more groups are missing than may be")


def test_gaps_without_end_are_refused_in_words_that_fit() -> None:
    assert refusal(sealed(groups=1, gaps=2**53 - 1, declared=0)).value == 2**53 - 1


def document(**changes: Any) -> dict[str, Any]:
    """The honest seal's JSON with other members, of the header where they are its."""
    value: dict[str, Any] = SEAL.to_json()
    of_header = {name: item for name, item in changes.items() if name in value["header"]}
    rest = {name: item for name, item in changes.items() if name not in value["header"]}
    return value | rest | {"header": value["header"] | of_header}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": MAX_ROW_BYTES * 32 + 1}, f"a file of 2 groups has 1 … {MAX_ROW_BYTES * 32}"),
        ({"size": MAX_FILE_BYTES + 1, "groups": 375, "declared": 6000}, f"a file of 375 groups has 1 … {MAX_FILE_BYTES}"),
        ({"size": 0}, "size: 0 bytes"),
        ({"size": -1}, "$seal.size"),
        ({"size": 2**53 - 1}, "a file of 2 groups has"),
        ({"size": True}, "$seal.size"),
        ({"groups": 376, "declared": 6016}, "groups: 376 is outside 1 … 375"),
        ({"groups": 0, "declared": 0}, "groups: 0 is outside"),
        ({"declared": 48}, "declared: 48 does not follow from 2 groups and 0 gaps"),
        ({"gaps": 1}, "declared: 32 does not follow"),
        ({"kind": "gradients"}, "kind: 'gradients' is no kind of work"),
        ({"kind": ""}, "kind"),
        ({"kind": "x" * 33}, "$seal.kind"),
        ({"content_digest": "0" * 62}, "$seal.content_digest"),
        ({"signature": None}, "$seal.signature"),
        ({"protocol_version": 2}, "protocol_version: 2 is unknown"),
        ({"window": 31}, "no window"),
        ({"proof_class": ""}, "proof_class"),
        ({"software": {str(i): "" for i in range(33)}}, "software"),
        ({"surplus": 1}, "unknown member 'surplus'"),
    ],
)
def test_a_malformed_seal_is_refused_with_the_member(changes: dict[str, Any], words: str) -> None:
    finding = refusal(canonical_json(document(**changes)))
    assert finding.detail.startswith("not a seal: $seal")
    assert words in finding.detail


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no valid JSON"),
        (b"PAR1", "no valid JSON"),
        (b"\xff\xfe", "no valid JSON"),
        (b"[]", "an object is expected"),
        (b"null", "an object is expected"),
        (b'"\\ud800"', "an object is expected"),
        (b"[" * 30_000, "nested too deeply"),
        (b'{"a":' * 6_000, "nested too deeply"),
        (b"1" * 5_000, "no valid JSON"),
        (SEAL.encode().replace(b'"size":', b'"size":' + b"9" * 16), "is outside"),
        (SEAL.encode() + b" ", "not in canonical form"),
        (json.dumps(SEAL.to_json()).encode(), "not in canonical form"),
        (SEAL.encode().replace(b'"kind"', b'"kind":"","kind"'), "twice"),
        (SEAL.encode().replace(b'"gaps":0', b'"gaps":0.0'), "no integer"),
        (SEAL.encode().replace(b'"gaps":0', b'"gaps":-0'), "not in canonical form"),
        (SEAL.encode() + b" " * MAX_SEAL_BYTES, f"at most {MAX_SEAL_BYTES}"),
        (SEAL.encode().replace(b'"kind"', b'"\\ud800":0,"kind"'), "unknown member"),
    ],
)
def test_bytes_that_are_no_seal_are_refused_with_their_size(raw: bytes, words: str) -> None:
    finding = refusal(raw)
    assert finding.value == len(raw)
    assert words in finding.detail


def is_fit_for_a_verdict(answer: Seal | list[Finding]) -> bool:
    """A refusal stands in a signed verdict: it has bytes, and few of them."""
    return isinstance(answer, Seal) or (
        0 < len(answer) <= 16 and len(canonical_json([finding.to_json() for finding in answer])) < 16_384
    )


@given(st.binary(max_size=200))
def test_reading_junk_never_raises(raw: bytes) -> None:
    assert is_fit_for_a_verdict(read(raw))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=140),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
MEMBERS = sorted({*SEAL.to_json(), *SEAL.header.to_json()} - {"header"})


@given(st.dictionaries(st.sampled_from([*MEMBERS, "header", "surplus"]), JSON, min_size=1, max_size=3))
@settings(max_examples=300)
def test_reading_a_seal_with_any_members_never_raises(changes: dict[str, Any]) -> None:
    whole = changes.pop("header", None)
    value = document(**changes) | ({} if whole is None else {"header": whole})
    for ascii_only in (True, False):
        raw = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only)
        assert is_fit_for_a_verdict(read(raw.encode("utf-8", "surrogatepass")))


@given(st.integers(0, len(SEAL.encode()) - 1), st.integers(1, 255))
@settings(max_examples=200)
def test_reading_a_seal_with_a_flipped_byte_never_raises_and_never_takes_it(at: int, change: int) -> None:
    raw = bytearray(SEAL.encode())
    raw[at] ^= change
    answer = read(bytes(raw))
    assert not isinstance(answer, Seal)
    assert is_fit_for_a_verdict(answer)


# --- what is sealed is what is opened


def test_a_drawn_file_is_the_one_that_was_sealed() -> None:
    opened = check_file(DATA, SEAL.content_digest, MINER.hotkey, CONTEXT, SEAL.header)
    assert isinstance(opened, Submission)
    assert opened.file.header == SEAL.header


@pytest.mark.parametrize(
    "header",
    [
        replace(SEAL.header, generation_class=EAGER),
        replace(SEAL.header, groups=10, declared=160),
        replace(SEAL.header, merkle_root=Digest(bytes(32))),
        replace(SEAL.header, software={"torch": "2"}),
    ],
    ids=["class", "counts", "rollouts", "software"],
)
def test_a_file_whose_header_differs_from_the_seals_in_anything_is_rejected(header: WindowHeader) -> None:
    """The draw looked at the sealed one: a file that says otherwise in what was not drawn for would be another promise."""
    findings = check_file(DATA, SEAL.content_digest, MINER.hotkey, CONTEXT, header)
    assert isinstance(findings, list)
    assert [finding.detail for finding in findings] == ["the file's header is not the one that was sealed"]
    assert isinstance(check_file(DATA, SEAL.content_digest, MINER.hotkey, CONTEXT), Submission)


def test_a_file_of_another_window_is_rejected_with_the_field_even_where_it_equals_its_seal() -> None:
    context = replace(CONTEXT, window=Window(CONTEXT.window + 30))
    findings = check_file(DATA, SEAL.content_digest, MINER.hotkey, context, SEAL.header)
    assert isinstance(findings, list)
    assert findings[0].detail == "wrong window"
