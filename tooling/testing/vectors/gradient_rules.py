"""Vectors of the rules of gradient work: who trains on what, what is drawn, ranks, ratings, F, and weights of two kinds."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient import challenge
from grail_core.protocol.gradient.assignment import Assignment, Permutation
from grail_core.protocol.gradient.judging import MinerFacts, judge_round
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.own_test import Advantage, advantage, z_of
from grail_core.protocol.gradient.ranking import ranked
from grail_core.protocol.gradient.rating import Rating, rated
from grail_core.protocol.gradient.records import update_header_digest
from grail_core.protocol.gradient.scores import MinerRound, Standing, failure_rounds, largest_power, volume
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.reading import Json
from grail_core.protocol.scores import shares_of_kinds, shares_of_powers
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from tooling.testing.gradient_rules import digest, hotkey_of, losses, round_facts, unsigned_seal, update_header
from tooling.testing.gradient_specs import TINY
from tooling.testing.vectors.source import Source

ROUND = Window(6000)


def rules(source: Source) -> Json:
    return {
        "spec": TINY.to_json(),
        "permutation": _permutations(source),
        "assignment": _assignment(source),
        "draws": _draws(source),
        "merge_orders": _merge_orders(source),
        "headers": _headers(source),
        "ranking": _ranking(source),
        "ratings": _ratings(source),
        "own": _own(source),
        "volumes": _volumes(source),
        "powers": _powers(),
        "failures": [
            {
                "replay_permille": permille,
                "by_replay": failure_rounds(dataclasses.replace(TINY, replay_permille=permille), by_replay=True),
                "else": failure_rounds(dataclasses.replace(TINY, replay_permille=permille), by_replay=False),
            }
            for permille in (0, 1, 50, 999, 1000)
        ],
        "weights": _weights(),
        "verdicts": _verdicts(),
    }


def _permutations(source: Source) -> Json:
    cases: list[Json] = []
    for n in (1, 2, 3, 17, 100, 101, 4097, 10**6, 1 << 20, 2**48 - 1):
        network, seed = source.bytes(), source.bytes()
        permutation = Permutation(network, seed, n)
        at = sorted({0, n // 2, n - 1, source.below(n), source.below(n)})
        images: list[Json] = [[str(x), str(permutation(x))] for x in at]
        cases.append({"network_id": network.hex(), "window_seed": seed.hex(), "n": str(n), "images": images})
    return cases


def _assignment(source: Source) -> Json:
    network, seed = source.bytes(), source.bytes()
    assignment = Assignment(TINY, network, seed)
    batches: list[Json] = [
        {"uid": uid, "step": step, "batch": size, "indices": list[Json](assignment.batch(uid, step, size))}
        for uid, step, size in ((0, 0, 4), (0, 0, 8), (3, 1, 6), (255, 3, 8))
    ]
    return {"network_id": network.hex(), "window_seed": seed.hex(), "batches": batches}


def _draws(source: Source) -> Json:
    cases: list[Json] = []
    for permille, commit, total in ((1000, "all", 82), (500, "ends", 82), (500, "all", 5), (0, "all", 300)):
        spec = dataclasses.replace(TINY, replay_permille=permille, commit=commit)  # type: ignore[arg-type]
        seed = source.bytes()
        found = challenge.opened(spec, seed, total)
        cases.append(
            {
                "seed": seed.hex(),
                "replay_permille": permille,
                "commit": commit,
                "total_chunks": total,
                "chunks": list(found.chunks),
                "step": found.step,
                "common_places": list[Json](challenge.common_places(spec, seed, 255)[:8]),
                "own_places": [[one.step, one.row] for one in challenge.own_places(spec, seed, 0, 6)],
            }
        )
    return cases


def _merge_orders(source: Source) -> Json:
    cases: list[Json] = []
    for powers, newcomers in (
        ({1: 5, 2: 7, 9: 5}, []),
        ({uid: 100 - uid for uid in range(12)} | {20: 0, 21: 0, 22: 0}, [20, 21, 22]),
        ({4: 0}, [4]),
    ):
        seed = source.bytes()
        order = challenge.merge_order(TINY, seed, powers, newcomers)
        cases.append(
            {
                "select_seed": seed.hex(),
                "powers": [[uid, power] for uid, power in sorted(powers.items())],
                "newcomers": list(newcomers),
                "order": list[Json](order),
            }
        )
    return cases


def _headers(source: Source) -> Json:
    network, hotkey = source.bytes(), Hotkey(source.bytes())
    cases: list[Json] = []
    sgd = dataclasses.replace(TINY, optimiser="sgd", inner_steps=1)
    for header in (update_header(hotkey), update_header(hotkey, batch=4, window=ROUND), update_header(hotkey, spec=sgd)):
        promised, content = header.seal_header(), source.bytes()
        seal = GradientSeal("gradient", promised, Digest(content), 8123, Signature(content + content))
        cases.append(
            {
                "network_id": network.hex(),
                "header": header.canonical().decode(),
                "signed": update_header_digest(network, header.canonical()).hex(),
                "seal": seal.encode().decode(),
                "seal_digest": seal.digest().hex(),
                "seal_signed": GradientSeal.message(network, seal.kind, promised, seal.content_digest, seal.size).hex(),
            }
        )
    return cases


def _ranking(source: Source) -> Json:
    cases: list[Json] = []
    for means in ([500, 500, 400, 0], [300] * 5, [50, -50, -900, 900], [7], [-800, -700]):
        differences = {
            3 * i + source.below(3): [mean + source.below(200) - 100 for _ in range(12)] for i, mean in enumerate(means)
        }
        scores = ranked(differences)
        cases.append(
            {
                "differences": [[uid, list[Json](differences[uid])] for uid in sorted(differences)],
                "scores": [[uid, one.score, one.error, one.rank] for uid, one in scores.items()],
            }
        )
    return cases


def _ratings(source: Source) -> Json:
    cases: list[Json] = []
    for n in (1, 2, 3, 8, 35):
        before = [Rating(source.below(50 * 10**9), 1 + source.below(10**10)) for _ in range(n)]
        ranks = [1 + source.below(n) for _ in range(n)]
        after = rated(before, ranks)
        cases.append(
            {
                "before": [[one.mu, one.sigma] for one in before],
                "ranks": list[Json](ranks),
                "after": [[one.mu, one.sigma] for one in after],
                "ordinals": [one.ordinal for one in after],
            }
        )
    return cases


def _own(source: Source) -> Json:
    cases: list[Json] = []
    for own, common in ((4, 8), (16, 64), (2, 2)):
        first = [source.below(4000) - 1000 for _ in range(own)]
        second = [source.below(2000) - 1000 for _ in range(common)]
        found = advantage(first, second)
        z = z_of([found, Advantage(found.value // 3, found.error)])
        cases.append(
            {
                "own": list[Json](first),
                "common": list[Json](second),
                "advantage": found.value,
                "error": found.error,
                "z_with_a_third_of_it": z,
            }
        )
    return cases


def _volumes(source: Source) -> Json:
    cases: list[Json] = []
    for _ in range(4):
        rounds = []
        for back in range(50, -1, -1):
            if source.below(4):
                declared, active, audited = 4 * (4 + source.below(6)), bool(source.below(8)), bool(source.below(2))
                valid = declared if audited and active and source.below(5) else 0
                rounds.append(MinerRound(Window(ROUND - 30 * back), declared, active, audited, valid))
        work, audited_sum, valid_sum = volume(TINY, rounds, ROUND)
        cases.append(
            {
                "round": ROUND,
                "rounds": [[one.window, one.declared, one.active, one.audited, one.valid] for one in rounds],
                "work": work,
                "audited": audited_sum,
                "valid": valid_sum,
            }
        )
    return cases


def _powers() -> Json:
    cases: list[Json] = []
    for floor in (50, 0):
        spec = dataclasses.replace(TINY, floor=floor)
        for standing in (
            Standing(),
            Standing(work=384, audited=1000, valid=1000),
            Standing(Rating(40 * 10**9, 3 * 10**9), 384, 1000, 777),
            Standing(Rating(90 * 10**9, 3 * 10**9), 384, 1, 1),
            Standing(Rating(40 * 10**9, 3 * 10**9), 384, 1000, 777, Window(ROUND + 30)),
            Standing(Rating(40 * 10**9, 3 * 10**9), 384, 1000, 777, ROUND),
        ):
            cases.append(
                {
                    "floor": floor,
                    "round": ROUND,
                    "rating": [standing.rating.mu, standing.rating.sigma],
                    "work": standing.work,
                    "audited": standing.audited,
                    "valid": standing.valid,
                    "unpaid_until": standing.unpaid_until,
                    "power": str(standing.power(spec, ROUND)),
                    "largest": str(largest_power(spec)),
                }
            )
    return cases


def _weights() -> Json:
    cases: list[Json] = []
    for rollouts, gradient in ((12, 0), (11, 1), (5, 7), (0, 12)):
        kinds = ["rollouts"] * rollouts + ["gradient"] * gradient
        shares = shares_of_kinds(kinds)
        powers = {"rollouts": {1: 3 << 100, 7: 1 << 100}, "gradient": {2: 10**15, 7: 3 * 10**15}}
        largest = {"rollouts": 5 << 100, "gradient": 2 * 10**15}
        for mode, burnt in (("capped", 0), ("uncapped", 100)):
            rule = dataclasses.replace(LOCALNET, weight_mode=mode, burn_share_permille=burnt, burn_uid=0)  # type: ignore[arg-type]
            found = shares_of_powers([(shares.get(kind, Fraction(0)), powers[kind], largest[kind]) for kind in powers], rule)
            cases.append(
                {
                    "kinds": list[Json](kinds),
                    "mode": mode,
                    "burn_share_permille": burnt,
                    "powers": {kind: [[uid, str(power)] for uid, power in by.items()] for kind, by in powers.items()},
                    "largest": {kind: str(value) for kind, value in largest.items()},
                    "weights": [[uid, weight] for uid, weight in found.items()],
                }
            )
    return cases


def _verdicts() -> Json:
    """Two rounds of a small network, the second after a failure."""
    registered = {uid: hotkey_of(uid) for uid in range(4)}
    memory, cases = GradientMemory(), list[Json]()
    for number in range(2):
        window = Window(ROUND + 30 * number)
        miners = [
            MinerFacts(
                uid,
                hotkey,
                unsigned_seal(hotkey, window=window),
                digest("challenge", uid, window),
                findings=(Finding("chunks", Outcome.REJECT, 3, 1, ""),) if uid == number else (),
                feedback_after=update_header(hotkey, window=window).feedback_after,
                common=losses(900 + 100 * uid, uid, window),
                own=losses(2500, "own", uid, window, n=16),
            )
            for uid, hotkey in registered.items()
            if uid != 3 or number == 0
        ]
        body = judge_round(round_facts(miners, registered, window, rule=dataclasses.replace(LOCALNET, burn_uid=0)), memory)
        memory = memory.after(body, TINY)
        cases.append({"canonical": body.canonical().decode(), "digest": body.digest().hex()})
    return cases
