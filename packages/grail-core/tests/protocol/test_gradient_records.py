"""Gradient work, section 7: seals and update headers as hostile bytes, and what contradicts what."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings

from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.gradient.records import (
    MAX_UPDATE_HEADER_BYTES,
    UpdateHeader,
    disagreement,
    misfit,
    update_header_digest,
)
from grail_core.protocol.gradient.seal import GradientSeal, equivocates
from grail_core.protocol.gradient.spec import MOST_COMMITTED_STEPS
from grail_core.protocol.seals import Seal
from grail_core.protocol.types import Digest, Window
from tooling.testing.gradient_rules import NETWORK, digest, seal_of, update_header
from tooling.testing.gradient_specs import TINY
from tooling.testing.keys import ALICE, BOB
from tooling.testing.mutations import TAKEN, mutated, taken_or_refused

HEADER = update_header(ALICE.hotkey)
SEAL = seal_of(ALICE, HEADER.seal_header(), b"an update")


def test_a_seal_and_a_header_come_back_from_their_bytes() -> None:
    assert GradientSeal.decode(SEAL.encode()) == SEAL
    assert SEAL.signed(NETWORK)
    assert not SEAL.signed(bytes(32))
    assert UpdateHeader.from_canonical(HEADER.canonical()) == HEADER
    assert HEADER.seal_header().may_declare(TINY)
    assert not dataclasses.replace(HEADER.seal_header(), declared=33).may_declare(TINY)


@settings(max_examples=150)
@given(mutated(SEAL.to_json()))
def test_a_changed_seal_is_refused_with_its_path_or_says_what_it_says(raw: bytes) -> None:
    assert taken_or_refused(raw, lambda raw: GradientSeal.decode(raw).encode()).startswith(("$seal", TAKEN))


@settings(max_examples=150)
@given(mutated(HEADER.to_json()))
def test_a_changed_header_is_refused_with_its_path_or_says_what_it_says(raw: bytes) -> None:
    assert taken_or_refused(raw, lambda raw: UpdateHeader.from_canonical(raw).canonical()).startswith(("$update.header", TAKEN))


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"[" * 10_000_000, r"\$seal: 10000000 bytes, at most 1024"),
        (SEAL.encode() + b" ", r"\$seal: not in canonical form"),
        (SEAL.encode().replace(b'"gradient"', b'"rollouts"'), r"\$seal\.kind"),
        (SEAL.encode().replace(b'"declared":32', b'"declared":NaN'), r"\$seal: no valid JSON"),
        (SEAL.encode().replace(b'"declared":32', b'"declared":4294967296'), r"\$seal\.header\.declared"),
        (SEAL.encode().replace(b'"size":9', b'"size":9007199254740992'), r"\$seal\.size"),
        (SEAL.encode().replace(b'"size":9', b'"size":0'), r"\$seal: size"),
        (SEAL.encode().replace(b'"window":300', b'"window":301'), r"\$seal\.header: 301 is no window"),
    ],
)
def test_a_hostile_seal_is_refused_by_name(raw: bytes, path: str) -> None:
    with pytest.raises(ValueError, match=path):
        GradientSeal.decode(raw)


def test_a_seal_of_one_kind_is_none_of_the_other() -> None:
    with pytest.raises(ValueError, match=r"\$seal\.kind: 'gradient'"):
        Seal.decode(SEAL.encode())


def test_the_largest_header_and_its_seal_fit_their_limits() -> None:
    full = dataclasses.replace(
        HEADER,
        window=Window(2**53 // 30 * 30 - 30),
        beacon_round=2**53 - 1,
        uid=65_535,
        batch=1 << 16,
        declared=1 << 28,
        step_roots=tuple(digest(j) for j in range(MOST_COMMITTED_STEPS)),
        proof_class="c" * 128,
        software={"grail-core": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0", "numpy": "2.3.5"},
    )
    assert len(full.canonical()) <= MAX_UPDATE_HEADER_BYTES
    assert UpdateHeader.from_canonical(full.canonical()) == full
    seal = dataclasses.replace(SEAL, header=full.seal_header(), size=2**53 - 1)
    assert GradientSeal.decode(seal.encode()) == seal


def test_two_promises_of_one_round_convict_and_two_signatures_of_one_do_not() -> None:
    again, other = (seal_of(ALICE, HEADER.seal_header(), content) for content in (b"an update", b"another"))
    assert again.content_digest == SEAL.content_digest
    assert not equivocates(SEAL, again, NETWORK)
    assert equivocates(SEAL, other, NETWORK)
    smaller = seal_of(ALICE, update_header(ALICE.hotkey, batch=4).seal_header(), b"an update")
    assert equivocates(SEAL, smaller, NETWORK)
    later = seal_of(ALICE, dataclasses.replace(HEADER.seal_header(), window=Window(330)), b"another")
    theirs = seal_of(BOB, update_header(BOB.hotkey).seal_header(), b"another")
    forged = dataclasses.replace(other, size=10)
    assert not any(equivocates(SEAL, one, NETWORK) for one in (later, theirs, forged))


def test_a_header_is_held_to_its_seal_member_by_member() -> None:
    seal = SEAL.header
    assert disagreement(HEADER, seal) is None
    for name, value in (("declared", 16), ("block_hash", bytes(32)), ("proof_class", "other"), ("window", 330)):
        assert disagreement(HEADER, dataclasses.replace(seal, **{name: value})) == name  # type: ignore[arg-type]


def test_a_headers_counts_follow_from_the_spec() -> None:
    ends = dataclasses.replace(TINY, commit="ends")
    assert misfit(HEADER, TINY) is None
    assert misfit(update_header(ALICE.hotkey, spec=ends), ends) is None
    assert (misfit(HEADER, ends) or "").startswith("step_roots: 4")
    assert (misfit(update_header(ALICE.hotkey, batch=3), TINY) or "").startswith("batch")
    assert (misfit(dataclasses.replace(HEADER, declared=40), TINY) or "").startswith("declared")
    sgd = dataclasses.replace(TINY, optimiser="sgd", inner_steps=1)
    assert misfit(update_header(ALICE.hotkey, spec=sgd), sgd) is None
    one = dataclasses.replace(HEADER, declared=8)
    assert (misfit(one, sgd) or "").startswith("moment_end_roots")


@pytest.mark.parametrize(
    ("member", "value", "what"),
    [
        ("moment_end_roots", None, "step_roots"),
        ("step_roots", [], "step_roots"),
        ("moment_end_roots", ["ab" * 32], "moment_end_roots"),
        ("step_roots", ["ab" * 32] * 193, "step_roots"),
        ("batch", 5, "declared"),
        ("beacon_round", 0, "beacon_round"),
        ("gradient_version", 2, "gradient_version"),
        ("software", {str(i): "1" for i in range(9)}, "software"),
        ("proof_class", 'a"b', "proof_class"),
    ],
)
def test_a_header_that_no_miner_writes_is_refused_by_name(member: str, value: object, what: str) -> None:
    raw = canonical_json({**HEADER.to_json(), member: value})
    with pytest.raises(ValueError, match=rf"^\$update\.header.*{what}"):
        UpdateHeader.from_canonical(raw)


def test_what_is_signed_is_of_one_network() -> None:
    one, other = (update_header_digest(network, HEADER.canonical()) for network in (NETWORK, Digest(bytes(32))))
    assert one != other
