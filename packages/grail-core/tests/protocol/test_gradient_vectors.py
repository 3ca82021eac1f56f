"""The published vectors of gradient work, derived again from the text of its rules, as another implementation would."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from grail_core.protocol.gradient.records import UpdateHeader
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.gradient.spec import GradientSpec
from grail_core.protocol.gradient.verdicts import GradientVerdictBody

VECTORS: Any = json.loads(
    (Path(__file__).resolve().parents[4] / "tests" / "vectors" / "gradient_rules.json").read_text(encoding="utf-8")
)["vectors"]
SPEC = VECTORS["spec"]
A = SPEC["inner_steps"] * SPEC["batch_most"]
NANO = 10**9


def parts(*values: bytes | int | str) -> bytes:
    raws = [v.to_bytes(8, "big") if isinstance(v, int) else v.encode() if isinstance(v, str) else v for v in values]
    return b"".join(len(raw).to_bytes(4, "big") + raw for raw in raws)


def h(*values: bytes | int | str) -> bytes:
    return hashlib.sha256(parts(*values)).digest()


def plain_permutation(network: bytes, seed: bytes, n: int, x: int) -> int:
    a = math.isqrt(n)
    a += a * a < n
    c = math.ceil(Fraction(n, a))
    while True:
        left, right = x // c, x % c
        for i in range(6):
            y = right if i % 2 == 0 else left
            word = int.from_bytes(h(network, "grail/gradient/permutation", seed, i, y)[:16], "big")
            if i % 2 == 0:
                left = (left + word) % a
            else:
                right = (right + word) % c
        x = left * c + right
        if x < n:
            return x


def plain_words(seed: bytes, tag: str, count: int) -> list[int]:
    stream = hashlib.shake_256(parts(tag, seed)).digest(8 * count)
    return [int.from_bytes(stream[8 * i : 8 * i + 8], "big") for i in range(count)]


def plain_draw(seed: bytes, tag: str, n: int, k: int) -> list[int]:
    moved: dict[int, int] = {}
    drawn, words = [], iter(plain_words(seed, tag, 4 * k + 8))
    for i in range(k):
        left = n - i
        word = next(w for w in words if w < 2**64 // left * left)
        at = i + word % left
        drawn.append(moved.get(at, at))
        moved[at] = moved.get(i, i)
    return drawn


def test_the_permutation_and_who_has_what() -> None:
    for case in VECTORS["permutation"]:
        network, seed = bytes.fromhex(case["network_id"]), bytes.fromhex(case["window_seed"])
        for x, image in case["images"]:
            assert plain_permutation(network, seed, int(case["n"]), int(x)) == int(image)
    case = VECTORS["assignment"]
    network, seed = bytes.fromhex(case["network_id"]), bytes.fromhex(case["window_seed"])
    for batch in case["batches"]:
        first = batch["uid"] * A + batch["step"] * SPEC["batch_most"]
        places = range(first, first + batch["batch"])
        assert batch["indices"] == [plain_permutation(network, seed, SPEC["sequences"], place) for place in places]


def test_draws() -> None:
    for case in VECTORS["draws"]:
        seed, total = bytes.fromhex(case["seed"]), case["total_chunks"]
        assert case["chunks"] == plain_draw(seed, "grail/draw/gradient-chunks", total, min(8, total))
        falls = Fraction(plain_words(seed, "grail/draw/gradient-replay", 1)[0], 2**64) < Fraction(case["replay_permille"], 1000)
        step = 0 if case["commit"] == "ends" else plain_draw(seed, "grail/draw/gradient-step", SPEC["inner_steps"], 1)[0]
        assert case["step"] == (step if falls else None)
        common = plain_draw(seed, "grail/draw/gradient-common", SPEC["sequences"] - 256 * A, 8)
        assert case["common_places"] == [256 * A + at for at in common]
        own = plain_draw(seed, "grail/draw/gradient-own", 6 * SPEC["inner_steps"], SPEC["own"])
        assert case["own_places"] == [[at // 6, at % 6] for at in own]
    for case in VECTORS["merge_orders"]:
        new, powers = sorted(case["newcomers"]), dict(case["powers"])
        drawn = plain_draw(bytes.fromhex(case["select_seed"]), "grail/draw/gradient-newcomers", len(new), min(2, len(new)))
        seated = [new[at] for at in drawn]
        assert case["order"] == seated + sorted(powers.keys() - set(seated), key=lambda uid: (-powers[uid], uid))


def test_headers_and_seals() -> None:
    for case in VECTORS["headers"]:
        network, raw, seal_raw = bytes.fromhex(case["network_id"]), case["header"].encode(), case["seal"].encode()
        assert h(network, "grail/gradient/header", raw).hex() == case["signed"]
        header, seal = UpdateHeader.from_canonical(raw), GradientSeal.decode(seal_raw)
        assert header.seal_header() == seal.header
        assert hashlib.sha256(seal_raw).hexdigest() == case["seal_digest"]
        said = json.loads(seal_raw)
        promised = json.dumps(said["header"], sort_keys=True, separators=(",", ":")).encode()
        signed = h(network, "grail/seal", "gradient", promised, bytes.fromhex(said["content_digest"]), said["size"])
        assert signed.hex() == case["seal_signed"]


def test_ranks() -> None:
    def behind(values: list[int]) -> bool:
        n, mean = len(values), Fraction(sum(values), len(values))
        variance = sum((value - mean) ** 2 for value in values) / Fraction(n - 1)
        return mean > 0 and mean**2 > 4 * variance / n

    for case in VECTORS["ranking"]:
        differences = dict(case["differences"])
        harmful = [uid for uid, one in differences.items() if behind([-value for value in one])]
        ranks: dict[int, int] = {}
        order = sorted(differences.keys() - set(harmful), key=lambda uid: (-sum(differences[uid]), uid))
        first, rank = None, 0
        for uid in order:
            if first is None or behind([a - b for a, b in zip(differences[first], differences[uid], strict=True)]):
                first, rank = uid, rank + 1
            ranks[uid] = rank
        for uid, score, error, told in case["scores"]:
            assert (score, told) == (sum(differences[uid]), ranks.get(uid, rank + 1))
            mean = Fraction(score, len(differences[uid]))
            squared = 12 * sum((value - mean) ** 2 for value in differences[uid]) / 11
            assert error**2 <= squared < (error + 1) ** 2


def test_ratings() -> None:
    """Weng and Lin's algorithm 4, player by player, in float64."""
    for case in VECTORS["ratings"]:
        mu = [one[0] / NANO for one in case["before"]]
        variance = [(one[1] / NANO) ** 2 + 0.01 for one in case["before"]]
        ranks, players = case["ranks"], range(len(mu))
        c = math.sqrt(sum(one + 49 for one in variance))
        strength = [math.exp(one / c) for one in mu]
        behind = [sum(strength[s] for s in players if ranks[s] >= ranks[q]) for q in players]
        tied = [ranks.count(ranks[q]) for q in players]
        for i in players:
            if len(mu) == 1:
                assert case["after"] == case["before"]
                continue
            omega = delta = 0.0
            for q in players:
                if ranks[q] <= ranks[i]:
                    p = strength[i] / behind[q]
                    omega += ((q == i) - p) / tied[q]
                    delta += p * (1 - p) / tied[q]
            delta *= variance[i] / c**2 * math.sqrt(variance[i]) / c
            after = mu[i] + variance[i] / c * omega, math.sqrt(variance[i] * max(1 - delta, 1e-4))
            assert [one / NANO for one in case["after"][i]] == pytest.approx(after, abs=2e-9)
        assert case["ordinals"] == [max(0, mu - 3 * sigma) for mu, sigma in case["after"]]


def test_own_data() -> None:
    for case in VECTORS["own"]:
        means, squares = [], []
        for values in (case["own"], case["common"]):
            mean = Fraction(sum(values), len(values))
            means.append(mean)
            squares.append(sum(((value - mean) ** 2 for value in values), Fraction(0)) / (len(values) * (len(values) - 1)))
        assert case["advantage"] == round(1024 * (means[0] - means[1]))
        assert case["error"] == math.isqrt(math.floor(2**20 * sum(squares)))
        total = case["advantage"] + case["advantage"] // 3
        assert abs(case["z_with_a_third_of_it"] - 10**6 * total / (case["error"] * math.sqrt(2))) < 1.01


def test_volumes_and_powers() -> None:
    cap = A
    for case in VECTORS["volumes"]:
        at, work, audited, valid = case["round"], 0, 0, 0
        for window, declared, active, checked, found in case["rounds"]:
            work += min(declared, cap) * active * (window > at - 12 * 30)
            audited += min(declared, cap) * checked * (window > at - 36 * 30)
            valid += min(found, cap, declared) * checked * (window > at - 36 * 30)
        assert (case["work"], case["audited"], case["valid"]) == (work, audited, valid)
    for case in VECTORS["powers"]:
        mu, sigma = case["rating"]
        worth = case["floor"] * NANO + min(50 * NANO, max(0, mu - 3 * sigma))
        share = Fraction(case["valid"], case["audited"] or 1)
        paid = case["unpaid_until"] <= case["round"]
        assert int(case["power"]) == math.floor(case["work"] * share * worth) * paid
        assert int(case["largest"]) == 12 * A * (case["floor"] + 50) * NANO
    for case in VECTORS["failures"]:
        permille = case["replay_permille"]
        assert case["else"] == 14
        assert case["by_replay"] == (math.ceil(Fraction(14_000, permille)) if permille else 14)


def test_weights_of_two_kinds() -> None:
    for case in VECTORS["weights"]:
        exact: dict[int, Fraction] = {0: Fraction(0)}
        for kind, powers in case["powers"].items():
            total = sum(int(power) for _, power in powers)
            unit = max(total, int(case["largest"][kind])) if case["mode"] == "capped" else total
            for uid, power in powers:
                share = Fraction(case["kinds"].count(kind), 12) * Fraction(1000 - case["burn_share_permille"], 1000)
                exact[uid] = exact.get(uid, Fraction(0)) + share * Fraction(int(power), unit)
        exact[0] = 1 - sum(exact.values(), Fraction(0))
        weights = dict(case["weights"])
        assert sum(weights.values()) == 65_535
        assert all(abs(weights[uid] - 65_535 * value) < 1 for uid, value in exact.items())


def test_verdicts_read_back_and_have_their_digests() -> None:
    spec = GradientSpec.from_json(SPEC)
    for case in VECTORS["verdicts"]:
        body = GradientVerdictBody.from_json(json.loads(case["canonical"]))
        assert body.canonical().decode() == case["canonical"]
        assert h(body.network_id, "grail/gradient/verdict/body", case["canonical"].encode()).hex() == case["digest"]
        assert dict(body.powers) == {uid: one.power(spec, body.window) for uid, one in body.standings.items()}
