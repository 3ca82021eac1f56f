"""Vectors of what everybody derives alike: encodings, windows, seeds, draws, noise, assignment (sections 1 to 5)."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

from grail_core.protocol import (
    CheckpointCandidate,
    Digest,
    Randomness,
    Window,
    WindowTimes,
    best_prefix,
    canonical_json,
    challenged_positions,
    constants,
    count_groups,
    decimal,
    draw,
    gumbel_noise,
    murmur3_words,
    noise_of,
    tagged_hash,
    tagged_stream,
    valid_checkpoint,
    window_of,
)
from grail_core.protocol.encoding import encode_part, message
from grail_core.protocol.network import NETWORKS
from grail_core.protocol.reading import Json
from tooling.testing.vectors.source import Source, float_text, part_json


def constants_(_: Source) -> Json:
    values: dict[str, Json] = {}
    for name, value in sorted(vars(constants).items()):
        if name.isupper():
            if isinstance(value, tuple):
                values[name] = list(value)
            else:
                values[name] = decimal(value) if isinstance(value, float) else value
    genesis = bytes(range(32))
    networks: list[Json] = [
        {
            "parameters": network.to_json(),
            "digest": network.digest.hex(),
            "genesis_hash": genesis.hex(),
            "network_id": network.network_id(genesis).hex(),
        }
        for network in NETWORKS.values()
    ]
    return {"constants": values, "networks": networks}


def encoding(source: Source) -> Json:
    network = source.bytes()
    parts: list[bytes | int | str] = [
        b"",
        b"\x00",
        source.bytes(),
        0,
        1,
        -1,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        "",
        "grail/window",
        "é∑",
    ]
    values: list[Json] = [
        {},
        {"b": 1, "a": [True, False, None], "é": "\u20ac\n\u0001"},
        {"\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"): 1, "\ufb01": 2},
        [2**53 - 1, -(2**53) + 1, 0],
        {"nested": {"z": [], "a": {}}},
    ]
    return {
        "parts": [{"part": part_json(part), "bytes": encode_part(part).hex()} for part in parts],
        "messages": [
            {
                "network_id": network.hex(),
                "tag": "grail/test",
                "parts": [part_json(part) for part in chosen],
                "message": message(network, "grail/test", *chosen).hex(),
                "hash": tagged_hash(network, "grail/test", *chosen).hex(),
                "stream_40": tagged_stream(network, "grail/test", *chosen, length=40).hex(),
            }
            for chosen in (parts[:0], parts[2:4], parts[3:7], parts)
        ],
        "canonical_json": [{"value": value, "bytes": canonical_json(value).hex()} for value in values],
    }


def windows(source: Source) -> Json:
    blocks = [0, 1, 29, 30, 59, 60, 5_000_000, 5_000_029, source.below(10**9)]
    times: list[Json] = [
        {
            "network": network.name,
            "window": window,
            "seed_beacon_block": (t := WindowTimes(Window(window), network)).seed_beacon_block,
            "deadline_block": t.deadline_block,
            "first_sight_end_block": t.first_sight_end_block,
            "challenge_block": t.challenge_block,
            "void_block": t.void_block,
        }
        for network in NETWORKS.values()
        for window in (0, 30, 5_000_010)
    ]
    return {"window_of": [[block, window_of(block)] for block in blocks], "times": times}


def seeds(source: Source) -> Json:
    cases: list[Json] = []
    for group, rollout in ((0, 0), (0, 15), (7, 3), (1249, 15), (2**31 - 1, 1)):
        network, block_hash, beacon, content, hotkey, env, checkpoint = (source.bytes() for _ in range(7))
        randomness = Randomness(network)
        window_seed = randomness.window_seed(block_hash, beacon)
        cases.append(
            {
                "network_id": network.hex(),
                "block_hash": block_hash.hex(),
                "beacon_randomness": beacon.hex(),
                "content_digest": content.hex(),
                "hotkey": hotkey.hex(),
                "env_digest": env.hex(),
                "checkpoint_digest": checkpoint.hex(),
                "group": group,
                "rollout": rollout,
                "window_seed": window_seed.hex(),
                "select_seed": randomness.select_seed(block_hash, beacon).hex(),
                "challenge_seed": randomness.challenge_seed(block_hash, beacon, content).hex(),
                "problem_seed": str(randomness.problem_seed(window_seed, hotkey, env, group)),
                "sampling_seed": str(randomness.sampling_seed(window_seed, hotkey, checkpoint, env, group, rollout)),
                "sketch_signs_13": [
                    "".join("+" if bit > 0 else "-" for bit in randomness.sketch_bits(window_seed, j, 13)) for j in range(4)
                ],
                "sketch_sum_896": [int(randomness.sketch_bits(window_seed, j, 896).sum()) for j in range(4)],
            }
        )
    return cases


def draws(source: Source) -> Json:
    # Beyond 2⁶³ about every second word is skipped: the case that shows whether an implementation rejects at all.
    shapes = [(1, 0), (1, 1), (2, 2), (10, 10), (100, 7), (1250, 2), (8190, 30), (200, 200), (2**63 + 1, 12), (2**64, 3)]
    tags = ("grail/draw/groups", "grail/draw/singles", "grail/draw/alternatives", "grail/draw/positions")
    return [
        {
            "seed": (seed := source.bytes()).hex(),
            "tag": (tag := tags[i % len(tags)]),
            "n": str(n),
            "k": k,
            "drawn": [str(index) for index in draw(seed, tag, n, k)],
        }
        for i, (n, k) in enumerate(shapes)
    ]


def positions(source: Source) -> Json:
    return [
        {
            "challenge_seed": (seed := source.bytes()).hex(),
            "row_digest": (digest := source.bytes()).hex(),
            "completion_length": length,
            "positions": list[Json](challenged_positions(seed, digest, length)),
        }
        for length in (1, 2, 31, 32, 33, 34, 64, 513, 2048, 8192)
    ]


def gumbel(source: Source) -> Json:
    cases = [
        (1234, 20),
        (-7, 5),
        (2**63 - 5, 31),
        (0, 0),
        (2**63 - 1, 12_287),
        (2**64 - 1, 1),
        (source.below(2**63), 2**32 - 1),
    ]
    tokens = [0, 1, 2, 3, 151_935, 2**31 - 1, 2**32 - 1]
    return {
        "cases": [
            {
                "seed": str(seed),
                "position": position,
                "token_ids": list[Json](tokens),
                "h": [int(h) for h in murmur3_words(seed, position, tokens)],
                "noise": [float_text(g) for g in gumbel_noise(seed, position, tokens)],
            }
            for seed, position in cases
        ],
        "noise_of_h": [[h, float_text(noise_of(h))] for h in (0, 1, 2, 2**31, 2**32 - 3, 2**32 - 2, 2**32 - 1)],
    }


def groups(_: Source) -> Json:
    lists = [[0], [1], [2], [0, 1, 2], [0, 2], [1, 2], [0, 3], [0, 0], [1, 0], [-1, 0], []]
    lists += [
        [*range(10), 11],  # eleven groups and a gap declare one
        [*range(9), 10],  # ten and a gap none
        [*range(39), 40],
        [*range(38), 40],
        [i for i in range(40) if i not in (3, 9)],
        [i for i in range(39) if i not in (3, 9)],
        [i for i in range(50) if i != 40],  # nine groups after a gap do not pay for it …
        [i for i in range(51) if i != 40],  # … ten do: the longest of equals
        [i for i in range(60) if i not in (20, 55)],
        [i for i in range(40) if i not in (3, 4, 5)],  # more than may be missing at any length
    ]
    cases: list[Json] = []
    for ids in lists:
        try:
            counted: Json = {name: int(value) for name, value in dataclasses.asdict(count_groups(ids)).items()}
        except ValueError:
            counted = None
        rising = all(a < b for a, b in pairwise([-1, *ids]))
        cases.append({"group_ids": list[Json](ids), "count": counted, "best_prefix": best_prefix(ids) if rising else None})
    return cases


def checkpoints(source: Source) -> Json:
    # The first needs no lead; the third was stored at its lead block's time, which is too late.
    shapes = ((0, 90, 900, 100), (1, 120, 99, 100), (2, 150, 100, 100), (3, 180, 1, 100))
    cases: list[Json] = []
    for window, chain in ((60, shapes), (90, shapes), (90, shapes[1:]), (120, shapes), (150, shapes), (300, shapes)):
        candidates = [
            CheckpointCandidate(Digest(source.bytes()), sequence, Window(valid_from), stored, lead)
            for sequence, valid_from, stored, lead in chain
        ]
        chosen = valid_checkpoint(candidates, Window(window))
        cases.append(
            {
                "window": window,
                "candidates": [{**dataclasses.asdict(c), "digest": c.digest.hex()} for c in candidates],
                "valid": None if chosen is None else chosen.digest.hex(),
            }
        )
    return cases
