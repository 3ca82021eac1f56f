"""The published vectors, read as another implementation would read them: from the JSON files, through the public API."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from grail_core.protocol import (
    Adopted,
    Candidate,
    CheckpointCandidate,
    Digest,
    Hotkey,
    MinerWindow,
    Randomness,
    RolloutRecord,
    ScoreInputs,
    Seal,
    Signature,
    SignedVerdict,
    VerdictBody,
    Window,
    WindowHeader,
    WindowTimes,
    best_prefix,
    canonical_json,
    challenged_positions,
    check_probabilities,
    constants,
    count_groups,
    counts_inconclusive,
    draw,
    gumbel_noise,
    header_digest,
    merkle_path,
    merkle_root,
    murmur3_words,
    noise_of,
    rollout_digest,
    sample_rollouts,
    score_inputs,
    select_miners,
    tagged_hash,
    tagged_stream,
    valid_checkpoint,
    verify,
    verify_merkle_path,
    weights,
    weights_now,
    window_of,
)
from grail_core.protocol.encoding import encode_part, message
from grail_core.protocol.network import NETWORKS, NetworkParameters
from grail_core.protocol.rollouts.records import rollout_message
from grail_core.protocol.scores import lookback_windows

ROOT = Path(__file__).resolve().parents[3]


def vectors(name: str) -> Any:
    document = json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text(encoding="utf-8"))
    assert document["protocol_version"] == constants.PROTOCOL_VERSION
    return document["vectors"]


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def part(value: dict[str, str]) -> bytes | int | str:
    ((kind, text),) = value.items()
    readers: dict[str, Callable[[str], bytes | int | str]] = {"bytes": raw, "integer": int, "text": str}
    return readers[kind](text)


def run_vectors(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_vectors_regenerate_byte_identically() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tooling.testing.vectors", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    published = [path for path in (ROOT / "tests" / "vectors").rglob("*") if path.is_file()]
    assert f"{len(published)} files under tests/vectors" in done.stdout, "every file there has a maker"


def test_a_changed_a_missing_and_a_stray_vector_file_are_noticed_and_put_right(tmp_path: Path) -> None:
    done = run_vectors(
        "import pathlib, tooling.testing.vectors.__main__ as m\n"
        f"m.FOLDER = pathlib.Path({str(tmp_path)!r})\n"
        "assert m.main([]) == 0 and m.main(['--check']) == 0\n"
        "for name in ('draw.json', 'checkpoint/delta.json'):\n"
        "    file = m.FOLDER / name\n"
        "    file.write_bytes(file.read_bytes().replace(b'1', b'2', 1))\n"
        "(m.FOLDER / 'checkpoint' / 'weights.json').unlink()\n"
        "(m.FOLDER / 'checkpoint' / 'old.bin').write_bytes(b'?')\n"
        "assert m.main(['--check']) == 1\n"
        "assert m.main([]) == 0 and m.main(['--check']) == 0\n"
        "assert not (m.FOLDER / 'checkpoint' / 'old.bin').exists()\n"
    )
    assert done.returncode == 0, done.stderr
    assert [line.removeprefix("tests/vectors/").split(":")[0] for line in done.stderr.splitlines()] == [
        "checkpoint/weights.json is missing",
        "draw.json differs from the specification",
        "checkpoint/delta.json differs from the specification",
        "checkpoint/old.bin is made by nobody",
    ]


def test_constants_and_networks() -> None:
    expected = vectors("constants")
    for name, value in expected["constants"].items():
        mine = getattr(constants, name)
        if isinstance(mine, tuple):
            assert list(mine) == value
        else:
            assert (repr(mine) if isinstance(mine, float) else mine) == value
    assert len(expected["networks"]) == len(NETWORKS)
    for case in expected["networks"]:
        network = NetworkParameters.from_json(case["parameters"])
        assert network == NETWORKS[network.name]
        assert network.digest.hex() == case["digest"]
        assert network.network_id(raw(case["genesis_hash"])).hex() == case["network_id"]


def test_encoding() -> None:
    expected = vectors("encoding")
    for case in expected["parts"]:
        assert encode_part(part(case["part"])).hex() == case["bytes"]
    for case in expected["messages"]:
        arguments = (raw(case["network_id"]), case["tag"], *map(part, case["parts"]))
        assert message(*arguments).hex() == case["message"]
        assert tagged_hash(*arguments).hex() == case["hash"]
        assert tagged_stream(*arguments, length=40).hex() == case["stream_40"]
    for case in expected["canonical_json"]:
        assert canonical_json(case["value"]).hex() == case["bytes"]


def test_windows() -> None:
    expected = vectors("windows")
    for block, window in expected["window_of"]:
        assert window_of(block) == window
    for case in expected["times"]:
        times = WindowTimes(Window(case["window"]), NETWORKS[case["network"]])
        for name in ("seed_beacon", "deadline", "first_sight_end", "challenge", "void"):
            assert getattr(times, f"{name}_block") == case[f"{name}_block"]


def test_seeds() -> None:
    for case in vectors("seeds"):
        c = SimpleNamespace(**{k: raw(v) if isinstance(v, str) and len(v) == 64 else v for k, v in case.items()})
        randomness = Randomness(c.network_id)
        assert randomness.window_seed(c.block_hash, c.beacon_randomness) == c.window_seed
        assert randomness.select_seed(c.block_hash, c.beacon_randomness) == c.select_seed
        assert randomness.challenge_seed(c.block_hash, c.beacon_randomness, c.content_digest) == c.challenge_seed
        assert randomness.problem_seed(c.window_seed, c.hotkey, c.env_digest, c.group) == int(c.problem_seed)
        sampling_seed = randomness.sampling_seed(c.window_seed, c.hotkey, c.checkpoint_digest, c.env_digest, c.group, c.rollout)
        assert sampling_seed == int(c.sampling_seed)
        for j in range(4):
            signs = randomness.sketch_bits(c.window_seed, j, 13)
            assert signs.tolist() == [1 if sign == "+" else -1 for sign in c.sketch_signs_13[j]]
            assert int(randomness.sketch_bits(c.window_seed, j, 896).sum()) == c.sketch_sum_896[j]


def test_draw() -> None:
    for case in vectors("draw"):
        drawn = draw(raw(case["seed"]), case["tag"], int(case["n"]), case["k"])
        assert [str(index) for index in drawn] == case["drawn"]


def test_positions() -> None:
    for case in vectors("positions"):
        found = challenged_positions(raw(case["challenge_seed"]), raw(case["row_digest"]), case["completion_length"])
        assert found == case["positions"]


def longest_best_prefix(group_ids: list[int]) -> int:
    """By trying all of them."""
    declared = {0: 0}
    for length in range(1, len(group_ids) + 1):
        gaps = group_ids[length - 1] + 1 - length
        allowed = gaps <= max(1, (group_ids[length - 1] + 1) // 20)
        declared[length] = max(0, length - 10 * gaps) if allowed else 0
    best = max(declared.values())
    return max(length for length, count in declared.items() if count == best) if best else 0


def test_groups() -> None:
    for case in vectors("groups"):
        if case["count"] is None:
            with pytest.raises(ValueError):
                count_groups(case["group_ids"])
        else:
            assert vars(count_groups(case["group_ids"])) == case["count"]
            assert case["count"]["declared"] == 16 * max(0, case["count"]["groups"] - 10 * case["count"]["gaps"])
        if case["best_prefix"] is not None:
            assert best_prefix(case["group_ids"]) == case["best_prefix"] == longest_best_prefix(case["group_ids"])


def test_checkpoints() -> None:
    for case in vectors("checkpoints"):
        candidates = [CheckpointCandidate(**{**c, "digest": raw(c["digest"])}) for c in case["candidates"]]
        chosen = valid_checkpoint(candidates, case["window"])
        assert (chosen and chosen.digest.hex()) == case["valid"]


@pytest.mark.parametrize(
    ("seed", "position", "words"),
    [
        (1234, 20, [2170659539, 2912094226, 1261763608, 2945442213]),
        (-7, 5, [3693819169, 128128446, 976139983, 849895819]),
        (2**63 - 5, 31, [2984942944, 1849543793, 2582766584, 3254171161]),
    ],
)
def test_the_golden_hashes_of_section_4(seed: int, position: int, words: list[int]) -> None:
    assert murmur3_words(seed, position, range(4)).tolist() == words
    cases = {(int(c["seed"]), c["position"]): c["h"] for c in vectors("gumbel")["cases"]}
    assert cases[seed, position][:4] == words


def test_gumbel() -> None:
    expected = vectors("gumbel")
    for case in expected["cases"]:
        seed, position, tokens = int(case["seed"]), case["position"], case["token_ids"]
        assert murmur3_words(seed, position, tokens).tolist() == case["h"]
        np.testing.assert_allclose(gumbel_noise(seed, position, tokens), [float(g) for g in case["noise"]], rtol=1e-11)
    for h, noise in expected["noise_of_h"]:
        assert float(noise_of(h)) == pytest.approx(float(noise), rel=1e-11)


def test_records() -> None:
    expected = vectors("records")
    network = raw(expected["network_id"])
    for case in expected["rows"]:
        row = RolloutRecord(
            group=case["group"],
            rollout=case["rollout"],
            tokens=np.array(case["tokens"], dtype=np.int32),
            prompt_length=case["prompt_length"],
            logprobs=np.frombuffer(raw(case["logprobs_float32"]), dtype="<f4"),
            sketches=raw(case["sketches"]),
            reward=float(np.frombuffer(raw(case["reward_float64"]), dtype="<f8")[0]),
            success=case["success"],
        )
        assert rollout_message(network, row).hex() == case["message"]
        assert rollout_digest(network, row).hex() == case["digest"] == hashlib.sha256(raw(case["message"])).hexdigest()
    for case in expected["headers"]:
        header = WindowHeader.from_canonical(case["canonical"].encode())
        assert header == WindowHeader.from_json(case["header"])
        assert header_digest(network, header).hex() == case["digest"]


def test_merkle() -> None:
    for case in vectors("merkle"):
        digests, root = [raw(text) for text in case["digests"]], raw(case["root"])
        assert merkle_root(digests) == root
        for index, path in zip(case["path_indices"], case["paths"], strict=True):
            assert [node.hex() for node in merkle_path(digests, index)] == path
            assert verify_merkle_path(root, digests[index], index, len(digests), [raw(node) for node in path])


def test_seals() -> None:
    expected = vectors("seals")
    network = raw(expected["network_id"])
    for case in expected["seals"]:
        seal = Seal.decode(case["canonical"].encode())
        header = canonical_json(case["seal"]["header"])
        parts = [network, b"grail/seal", seal.kind.encode(), header, seal.content_digest, seal.size.to_bytes(8, "big")]
        by_hand = hashlib.sha256(b"".join(len(one).to_bytes(4, "big") + one for one in parts)).hexdigest()
        assert Seal.message(network, seal.kind, seal.header, seal.content_digest, seal.size).hex() == case["message"] == by_hand
        assert seal.encode() == canonical_json(case["seal"]) == case["canonical"].encode()
        assert seal.signed(network) is case["signed"]
        assert seal.signed(bytes(32)) is case["signed_on_another_network"] is False
    assert [case["signed"] for case in expected["seals"]] == [True, False, False, False, False, False]


def test_what_is_no_seal_names_what_is_wrong() -> None:
    for case in vectors("seals")["malformed"]:
        with pytest.raises(ValueError, match=rf"^\$seal.*{case['error_names']}"):
            Seal.decode(case["bytes"].encode())


def chances(entries: list[dict[str, Any]]) -> list[Fraction]:
    """Section 10 from its text, for the entries of one window."""
    counted = [min(entry["declared"], 5000) for entry in entries]
    newcomers = [
        not entry["in_lookback"] and entry["supported"] < 4 * count for count, entry in zip(counted, entries, strict=True)
    ]
    assert [entry["counted"] for entry in entries] == counted
    assert [entry["newcomer"] for entry in entries] == newcomers
    free = sum(count for count, entry in zip(counted, entries, strict=True) if not entry["in_lookback"])
    new = sum(count for count, newcomer in zip(counted, newcomers, strict=True) if newcomer)
    found = []
    for entry, count, newcomer in zip(entries, counted, newcomers, strict=True):
        floor = Fraction(1, 10)
        among = free if newcomer else free - new
        p = floor if entry["in_lookback"] or not among else max(floor, min(Fraction(1), Fraction(35 * count, among)))
        found.append(max(p, min(Fraction(1, 2), Fraction(8, sum(newcomers)))) if newcomer else p)
    return found


def test_selection() -> None:
    expected = vectors("selection")
    for case in expected["miners"]:
        entries = case["selections"]
        candidates = {
            Hotkey(raw(entry["hotkey"])): Candidate(entry["declared"], entry["supported"], entry["in_lookback"])
            for entry in entries
        }
        probabilities = [Fraction(*entry["probability"]) for entry in entries]
        assert probabilities == chances(entries) == list(check_probabilities(candidates).values())
        for mine, given, p in zip(select_miners(raw(case["select_seed"]), candidates), entries, probabilities, strict=True):
            assert mine.hotkey.hex() == given["hotkey"]
            assert mine.probability == p
            assert (str(mine.coin), mine.selected) == (given["coin"], given["selected"])
            assert mine.selected >= (Fraction(mine.coin, 2**64) < p)
        free = [entry for entry in entries if not entry["in_lookback"]]
        assert sum(entry["selected"] for entry in free) >= min(2, len(free))
    for case in expected["rows"]:
        sample = sample_rollouts(raw(case["challenge_seed"]), case["groups"])
        assert list(sample.whole_groups) == case["whole_groups"]
        assert [list(row) for row in sample.singles] == case["singles"]
        assert [list(row) for row in sample.reserve] == case["reserve"]


def entry_of(entry: dict[str, Any]) -> MinerWindow:
    chance = entry["probability"]
    return MinerWindow(**entry | {"probability": None if chance is None else Fraction(*chance)})


def scored(entry: dict[str, Any]) -> ScoreInputs:
    return ScoreInputs(**entry | {name: int(entry[name]) for name in ("product_valid", "product_declared")})


def mean_products(values: list[int], degree: int) -> int:
    """e_degree by Newton's identities, from the sums of powers."""
    p = [sum(pow(value, k) for value in values) for k in range(5)]
    sums: list[int] = [
        1,
        p[1],
        (p[1] ** 2 - p[2]) // 2,
        (p[1] ** 3 - 3 * p[1] * p[2] + 2 * p[3]) // 6,
        (p[1] ** 4 - 6 * p[1] ** 2 * p[2] + 3 * p[2] ** 2 + 8 * p[1] * p[3] - 6 * p[4]) // 24,
    ]
    return sums[degree]


def power(history: list[dict[str, Any]], window: int) -> int:
    """Section 10 from its text."""
    ago = [(window - entry["window"]) // 30 for entry in history]
    dated = [(back, entry) for back, entry in zip(ago, history, strict=True) if 0 <= back < 72]
    if any(entry["failed"] and back < min(36, max(14, ceil(5 / Fraction(*entry["probability"])))) for back, entry in dated):
        return 0
    work = sum(min(entry["declared"], 5000) for back, entry in dated if back < 12 and entry["active"])
    audits = [entry for _, entry in dated if entry["checked"] and entry["declared"]]
    d = [min(entry["declared"], 5000) for entry in audits]
    v = [min(entry["unique_valid"], declared) for entry, declared in zip(audits, d, strict=True)]
    m = min(4, len(audits))
    ratio = Fraction(mean_products(v, m), mean_products(d, m))
    estimate = sum(floor(valid / Fraction(*entry["probability"])) for valid, entry in zip(v, audits, strict=True))
    return int(2**64 * work**3 * min(work, 3 * sum(v), estimate) * ratio) if m else 0


def counts(case: dict[str, Any]) -> bool:
    """Section 9 from its text: does an inconclusive window count as an audit?"""
    memory = [entry for entry in case["history"] if 0 < (case["window"] - entry["window"]) // 30 < 72]
    audits = [entry for entry in memory if entry["checked"] and entry["declared"]]
    supported = sum(min(entry["unique_valid"], entry["declared"], 5000) for entry in audits)
    return any(entry["inconclusive"] for entry in memory) or supported < 10 * min(case["declared"], 5000)


def test_scores() -> None:
    expected = vectors("scores")
    for case in expected["histories"]:
        inputs = score_inputs([entry_of(entry) for entry in case["history"]], case["window"])
        assert inputs == scored(case["inputs"])
        assert inputs.power == int(case["power"]) == power(case["history"], case["window"])
    for case in expected["lookbacks"]:
        assert lookback_windows(Fraction(*case["probability"])) == case["windows"]
    for case in expected["inconclusive"]:
        history = [entry_of(entry) for entry in case["history"]]
        assert counts_inconclusive(history, case["window"], case["declared"]) is case["counts"] is counts(case)
    assert {case["counts"] for case in expected["inconclusive"]} == {True, False}
    for case in expected["weights"]:
        rule = SimpleNamespace(**{name: case[name] for name in ("weight_mode", "burn_share_permille", "burn_uid")})
        inputs_by_uid = {int(uid): scored(entry) for uid, entry in case["inputs"].items()}
        assert {str(uid): weight for uid, weight in weights(inputs_by_uid, rule).items()} == case["weights"]
        assert sum(case["weights"].values()) == 65_535


def test_weights_as_they_are_set() -> None:
    for case in vectors("scores")["weights_now"]:
        of_window, hotkeys = by_uid(case["weights"]), {uid: Hotkey(raw(key)) for uid, key in by_uid(case["hotkeys"]).items()}
        registered = {Hotkey(raw(hotkey)): uid for hotkey, uid in case["registered"].items()}
        now = weights_now(of_window, hotkeys, registered, case["burn_uid"])
        assert now == by_uid(case["now"])
        assert sum(now.values()) == 65_535


def by_uid(entries: dict[str, Any]) -> dict[int, Any]:
    return {int(uid): value for uid, value in entries.items()}


def test_signatures() -> None:
    cases = vectors("signatures")
    assert [verify(raw(c["hotkey"]), raw(c["message"]), raw(c["signature"])) for c in cases] == [c["valid"] for c in cases]
    assert {c["valid"] for c in cases} == {True, False}


def test_verdicts() -> None:
    for case in vectors("verdicts"):
        body = VerdictBody.from_json(case["body"])
        assert hashlib.sha256(body.canonical()).hexdigest() == case["canonical_sha256"]
        assert body.digest().hex() == case["digest"]
        validator = Hotkey(raw(case["validator"]))
        evidence = case["evidence_digest"] and Digest(raw(case["evidence_digest"]))
        adopted = case["adopted"] and Adopted.from_json(case["adopted"])
        assert SignedVerdict.message(body, validator, evidence, adopted).hex() == case["signed_message"]
        encoded = SignedVerdict(body, validator, Signature(bytes(64)), evidence, adopted).encode()
        assert hashlib.sha256(encoded).hexdigest() == case["verdict_json_sha256"]
