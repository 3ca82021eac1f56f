"""Vectors of who is drawn, what of a file is looked at, and what it all counts (section 10)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

from grail_core.protocol import (
    Candidate,
    Hotkey,
    MinerWindow,
    ScoreInputs,
    Window,
    check_probabilities,
    counts_inconclusive,
    sample_rollouts,
    score_inputs,
    select_miners,
    weights,
    weights_now,
)
from grail_core.protocol.constants import MAX_FILE_ROWS, UNIQUE_ROLLOUTS_CAP
from grail_core.protocol.network import LOCALNET, SUBNET_81
from grail_core.protocol.reading import Json
from grail_core.protocol.scores import elementary_symmetric, lookback_windows
from tooling.testing.vectors.source import Source

WINDOW = Window(6000)
FULL = ScoreInputs(60_000, 25_000, 125_000, 5, 5 * 5000**4, 5 * 5000**4, in_lookback=False)
"""Twelve full windows, five full audits of chance 1/5, everything valid."""


def fraction_json(value: Fraction) -> Json:
    return [value.numerator, value.denominator]


def window_json(entry: MinerWindow) -> Json:
    value: dict[str, Json] = dict(dataclasses.asdict(entry))
    return value | {"probability": None if entry.probability is None else fraction_json(entry.probability)}


def inputs_json(inputs: ScoreInputs) -> Json:
    """The two products have up to 80 bits, so they are decimal text."""
    value: dict[str, Json] = dict(dataclasses.asdict(inputs))
    return value | {name: str(value[name]) for name in ("product_valid", "product_declared")}


def selection(source: Source) -> Json:
    def trusted(declared: int) -> Candidate:
        return Candidate(declared, 4 * UNIQUE_ROLLOUTS_CAP)

    rounds: list[Sequence[Candidate]] = [
        [],
        [trusted(160)],
        [Candidate(16), Candidate(16)],
        [Candidate(0), Candidate(0), Candidate(0)],
        [trusted(5000), trusted(16), trusted(16)],
        [trusted(16 * (i + 1)) for i in range(80)],
        # Beyond the cap nothing is declared that counts; 19,999 supports it, 20,000 is what four such windows take.
        [trusted(MAX_FILE_ROWS), trusted(5000), Candidate(MAX_FILE_ROWS, 19_999), Candidate(5000, 20_000), Candidate(5008)],
        # 20 newcomers: the least chance of each is 8/20, above what its share gives; with 12 it is 1/2.
        [trusted(5000) for _ in range(30)] + [Candidate(800, 100 * i) for i in range(20)],
        [trusted(5000) for _ in range(30)] + [Candidate(800, 100 * i) for i in range(12)],
        # Inside a look-back: at the floor, not in the sum, and no newcomer.
        [trusted(4000) for _ in range(60)] + [Candidate(5000, 0, in_lookback=True) for _ in range(20)],
        [Candidate(5000, 0, in_lookback=True) for _ in range(5)],
        [Candidate(5000, 0, in_lookback=True), Candidate(16), trusted(16), trusted(4800)],
        # Newcomers' sum is over all, the others' over themselves: 35/150 and 35/100; then who alone is none has 1.
        [trusted(5000) for _ in range(100)] + [Candidate(5000) for _ in range(50)],
        [trusted(16), trusted(0)] + [Candidate(5000) for _ in range(70)],
    ]
    miners: list[Json] = []
    for candidates in rounds:
        seed, by_hotkey = source.bytes(), {Hotkey(source.bytes()): candidate for candidate in candidates}
        chances = check_probabilities(by_hotkey)
        selections: list[Json] = [
            {
                "hotkey": one.hotkey.hex(),
                "declared": (candidate := by_hotkey[one.hotkey]).declared,
                "supported": candidate.supported,
                "in_lookback": candidate.in_lookback,
                "counted": candidate.counted,
                "newcomer": candidate.newcomer,
                "probability": fraction_json(chances[one.hotkey]),
                "coin": str(one.coin),
                "selected": one.selected,
            }
            for one in select_miners(seed, by_hotkey)
        ]
        miners.append({"select_seed": seed.hex(), "selections": selections})
    return {"miners": miners, "rows": _rows(source)}


def _rows(source: Source) -> Json:
    samples: list[Json] = []
    most = MAX_FILE_ROWS // 16
    for ids in ([0], [0, 1, 3, 4], [0, 1, 2, 3, 4], [*range(10), 11], list(range(34)), list(range(35)), list(range(most))):
        seed = source.bytes()
        sample = sample_rollouts(seed, ids)
        samples.append(
            {
                "challenge_seed": seed.hex(),
                "groups": list[Json](ids),
                "whole_groups": list[Json](sample.whole_groups),
                "singles": [list(row) for row in sample.singles],
                "reserve": [list(row) for row in sample.reserve],
            }
        )
    return samples


def scores(source: Source) -> Json:
    histories: list[Json] = []
    for history in _histories(source):
        inputs = score_inputs(history, WINDOW)
        histories.append(
            {
                "window": WINDOW,
                "history": [window_json(entry) for entry in history],
                "inputs": inputs_json(inputs),
                "power": str(inputs.power),
            }
        )
    return {
        "histories": histories,
        "lookbacks": [
            {"probability": fraction_json(p), "windows": lookback_windows(p)}
            for p in map(Fraction, ("1", "1/2", "5/14", "5/15", "2/7", "7/50", "5/36", "5/37", "1/10"))
        ],
        "inconclusive": _inconclusive(),
        "weights": _weights(source),
        "weights_now": _weights_now(source),
    }


def _histories(source: Source) -> list[list[MinerWindow]]:
    """Random ones that reach beyond every memory, and the edges of each."""
    histories = [
        [_miner_window(source, Window(WINDOW - 30 * back), kind) for back in range(80, -1, -1) if source.below(5)]
        for kind in (1, 2, 3, 6, 8, 9, 10, 11)
    ]
    honest = {"active": True, "checked": True, "failed": False, "probability": Fraction(1, 3)}

    def at(back: int, declared: int = 160, valid: int = 160, **changes: bool | int | Fraction) -> MinerWindow:
        fields = honest | {"unique_valid": valid} | changes
        return MinerWindow(Window(WINDOW - 30 * back), declared, **fields)  # type: ignore[arg-type]

    def failed(back: int, lookback: int) -> MinerWindow:
        return at(back, valid=0, failed=True, probability=Fraction(5, lookback) if lookback > 14 else Fraction(1))

    return [
        *histories,
        [],
        [at(0)],  # one audit: e_1
        [at(2), at(1), at(0, valid=0)],  # three audits, e_3: one invalid makes the product 0
        [at(back, 5000, 5000) for back in (4, 3, 2, 1, 0)],
        [at(0, MAX_FILE_ROWS, MAX_FILE_ROWS)],  # beyond the cap nothing counts
        [at(0, 144, 240)],  # a gap: no more valid than declared
        [at(0, 0, 16)],  # declares nothing: no audit
        [at(72), at(12), at(0, checked=False, valid=0)],  # out of both memories, out of the work alone, not drawn
        [at(71), at(11)],  # the oldest that count
        [failed(35, 36), at(0)],  # the last window of a long look-back
        [failed(36, 36), at(0)],  # the first one after it
        [failed(13, 14), at(0)],
        [failed(14, 14), at(0)],
        [at(30), at(20, valid=0, active=False, checked=False, inconclusive=True), at(0)],  # forgiven
        [at(30), at(20, valid=0, active=False, checked=True, inconclusive=True), at(0)],  # unsupported
        [at(3, 16, 16), at(2, 16, 16), at(1, 16, 16), at(0, 5000, 0, checked=False)],  # 3 · Σv
        # Σ⌊v/p⌋: four windows that had to be audited speak for four; of another chance for more, each rounded down.
        [
            *(at(back, 5000, 5000, probability=Fraction(1)) for back in (15, 14, 13, 12)),
            *(at(b, 5000, 0, checked=False) for b in range(11, -1, -1)),
        ],
        [
            at(2, 160, 159, probability=Fraction(1)),
            at(1, 160, 160, probability=Fraction(7, 8)),
            at(0, 160, 160, probability=Fraction(1)),
        ],
    ]


def _inconclusive() -> Json:
    def inconclusive(back: int) -> MinerWindow:
        return MinerWindow(Window(WINDOW - 30 * back), 160, False, False, 0, False, Fraction(1, 3), inconclusive=True)

    def audit(back: int, declared: int, valid: int | None = None) -> MinerWindow:
        valid = declared if valid is None else valid
        return MinerWindow(Window(WINDOW - 30 * back), declared, True, True, valid, False, Fraction(1, 3))

    ten = [audit(back, 160) for back in range(22, 12, -1)]
    gone = [audit(72, 160)]
    full = [audit(back, 5000) for back in range(22, 12, -1)]
    cases: list[tuple[list[MinerWindow], int]] = [
        ([], 160),  # no audit supports it
        ([], 0),
        (ten, 160),  # the first, well supported
        (ten[:9], 160),
        ([*gone, *ten[1:]], 160),  # the tenth is forgotten
        (ten, 176),  # more than they support
        ([*ten[:9], audit(12, 160, 159)], 160),
        ([*ten[:9], audit(12, 144, 160)], 160),  # a gap: no more valid than declared
        ([*(audit(back, 16) for back in range(42, 22, -1)), *full[:4]], 5000),  # many audits, little volume
        (full, MAX_FILE_ROWS),  # the cap is what counts
        ([*full[:9], audit(12, MAX_FILE_ROWS)], 5000),
        (full, 5000),
        *(([*ten, *map(inconclusive, backs)], 160) for backs in ((0,), (1,), (2, 1))),
        ([inconclusive(71), *ten], 160),
        ([inconclusive(72), *ten], 160),
        ([inconclusive(90), inconclusive(30), *ten], 160),
    ]
    return [
        {
            "window": WINDOW,
            "declared": declared,
            "history": [window_json(entry) for entry in history],
            "counts": counts_inconclusive(history, WINDOW, declared),
        }
        for history, declared in cases
    ]


def _weights(source: Source) -> Json:
    none = ScoreInputs(0, 0, 0, 0, 0, 0, in_lookback=False)

    def audited(work: int, valid: Sequence[int], declared: Sequence[int], *, in_lookback: bool = False) -> ScoreInputs:
        degree = min(4, len(declared))
        products = elementary_symmetric(valid, degree), elementary_symmetric(declared, degree)
        return ScoreInputs(work, sum(valid), 7 * sum(valid), len(declared), *products, in_lookback=in_lookback)

    def random_inputs() -> ScoreInputs:
        declared = [16 * (1 + source.below(312)) for _ in range(source.below(20))]
        valid = [d - 16 * source.below(d // 16 + 1) if source.below(3) == 0 else d for d in declared]
        return audited(source.below(60_001), valid, declared, in_lookback=source.below(9) == 0)

    sets: list[dict[int, ScoreInputs]] = [
        {},
        {0: none, 1: dataclasses.replace(none, work=160)},
        {1: FULL},
        {1: FULL, 2: FULL, 3: FULL},
        {0: FULL, 1: FULL, 7: dataclasses.replace(FULL, in_lookback=True)},
        {1: audited(192, [16] * 4, [16] * 4), 2: audited(192, [16, 16, 16, 15], [16] * 4), 5: audited(96, [16] * 4, [16] * 4)},
        {uid: random_inputs() for uid in range(64)},
    ]
    return [
        {
            "weight_mode": network.weight_mode,
            "burn_share_permille": burn,
            "burn_uid": network.burn_uid,
            "inputs": {str(uid): inputs_json(entry) for uid, entry in entries.items()},
            "weights": {str(uid): weight for uid, weight in weights(entries, rule).items()},
        }
        for entries in sets
        for network in (SUBNET_81, LOCALNET)
        for burn in (900, 0)
        for rule in (dataclasses.replace(network, burn_share_permille=burn),)
    ]


def _weights_now(source: Source) -> Json:
    a, b, c = (Hotkey(source.bytes()) for _ in range(3))
    of_window = {0: 50_000, 3: 10_000, 7: 5_000, 9: 535}
    hotkeys = {3: a, 7: b, 9: c}
    cases: list[dict[Hotkey, int]] = [
        {a: 3, b: 7, c: 9},  # nothing changed
        {a: 3, b: 11, c: 9},  # b moved
        {a: 7, b: 3},  # a and b changed places, c left
        {a: 0, c: 9},  # a holds the burn UID now, b left
        {},
    ]
    return [
        {
            "burn_uid": 0,
            "weights": {str(uid): weight for uid, weight in of_window.items()},
            "hotkeys": {str(uid): hotkey.hex() for uid, hotkey in hotkeys.items()},
            "registered": {hotkey.hex(): uid for hotkey, uid in registered.items()},
            "now": {str(uid): weight for uid, weight in weights_now(of_window, hotkeys, registered, 0).items()},
        }
        for registered in cases
    ]


def _miner_window(source: Source, window: Window, kind: int) -> MinerWindow:
    """Histories of growing size; every fourth kind fails now and then, every other one is inconclusive now and then."""
    declared = 16 * source.below((1, 5, 60, MAX_FILE_ROWS // 16 + 1)[kind % 4])
    failed = kind >= 8 and source.below(20) == 0
    inconclusive = not failed and kind % 2 == 1 and source.below(15) == 0
    checked = failed or source.below(3) == 0
    nothing = failed or inconclusive or not checked
    valid = 0 if nothing else min(MAX_FILE_ROWS, declared + 16 - source.below(declared + 16) // 4)
    return MinerWindow(
        window,
        declared,
        active=not inconclusive and source.below(6) > 0,
        checked=checked,
        unique_valid=valid,
        failed=failed,
        probability=Fraction(1 + source.below(9), 9) if checked or inconclusive else None,
        inconclusive=inconclusive,
    )
