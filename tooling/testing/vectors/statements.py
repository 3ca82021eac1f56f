"""Vectors of what is said and judged: rows, headers, Merkle trees, samples, scores, verdicts (sections 8 to 11)."""

from __future__ import annotations

import dataclasses
import hashlib
from fractions import Fraction

import numpy as np

from grail_core.protocol import (
    Digest,
    Finding,
    Hotkey,
    MinerStatus,
    MinerVerdict,
    MinerWindow,
    Outcome,
    RolloutRecord,
    ScoreInputs,
    Signature,
    SignedVerdict,
    VerdictBody,
    Versions,
    Window,
    WindowHeader,
    WindowInputs,
    WindowStatus,
    constants,
    decimal,
    header_digest,
    merkle_path,
    merkle_root,
    rollout_digest,
    sample_rollouts,
    score_inputs,
    select_miners,
    weights,
)
from grail_core.protocol.network import LOCALNET, SUBNET_81
from grail_core.protocol.reading import Json
from grail_core.protocol.rollouts.records import rollout_message
from grail_core.protocol.scores import score_units
from grail_core.protocol.signatures import verify
from tooling.testing.vectors.source import Source

# sr25519 signatures are randomised: this one was made once, by the key of the seed 000102…1f over b"grail".
SIGNER = bytes.fromhex("e2111779981618705ecacea1af6ff9350bce2b2dccd03e0c3e01eb0c823d2666")
SIGNATURE = bytes.fromhex(
    "5c0a999f43fd32c0ce1e6bda0c06cb5fa0c21cef3f7eb250013c2cfed121e34e"
    "668c26596b592059057759436a806a6bccc803c5601df39a5a64a8b646a10280"
)


def records(source: Source) -> Json:
    network = source.bytes()
    rows = [_row(source, *shape) for shape in ((0, 0, 3, 1), (7, 15, 5, 4), (2**31 - 1, 8, 1, 40))]
    digests = [rollout_digest(network, row) for row in rows]
    headers = [
        WindowHeader(
            protocol_version=constants.PROTOCOL_VERSION,
            window=Window(5_000_010),
            block_hash=source.bytes(),
            beacon_round=beacon_round,
            beacon_signature=source.bytes(48) if beacon_round else None,
            hotkey=Hotkey(source.bytes()),
            checkpoint_digest=Digest(source.bytes()),
            env_digest=Digest(source.bytes()),
            policy_digest=Digest(source.bytes()),
            groups=groups,
            gaps=gaps,
            declared=16 * (groups - gaps),
            merkle_root=merkle_root(digests),
            numerics_class="bf16-sdpa-cpu-transformers",
            software=software,
        )
        for beacon_round, groups, gaps, software in (
            (20_000_000, 3, 1, {"torch": "2.13.0", "grail-core": "0.1.0"}),
            (0, 1, 0, {}),
        )
    ]
    return {
        "network_id": network.hex(),
        "rows": [
            {
                "group": row.group,
                "rollout": row.rollout,
                "tokens": [int(token) for token in row.tokens],
                "prompt_length": row.prompt_length,
                "logprobs_float32": row.logprobs.astype("<f4").tobytes().hex(),
                "sketches": row.sketches.hex(),
                "reward_float64": np.float64(row.reward).astype("<f8").tobytes().hex(),
                "success": row.success,
                "message": rollout_message(network, row).hex(),
                "digest": digest.hex(),
            }
            for row, digest in zip(rows, digests, strict=True)
        ],
        "headers": [
            {
                "header": header.to_json(),
                "canonical": header.canonical().decode(),
                "digest": header_digest(network, header).hex(),
            }
            for header in headers
        ],
    }


def merkle(source: Source) -> Json:
    cases: list[Json] = []
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 33):
        leaves = [source.bytes() for _ in range(count)]
        cases.append(
            {
                "digests": [leaf.hex() for leaf in leaves],
                "root": merkle_root(leaves).hex(),
                "paths": [[node.hex() for node in merkle_path(leaves, i)] for i in sorted({0, count // 2, count - 1})],
                "path_indices": list[Json](sorted({0, count // 2, count - 1})),
            }
        )
    return cases


def selection(source: Source) -> Json:
    rounds: list[Json] = []
    for declared in ([], [160], [16, 16], [0, 0, 0], [5000, 16, 16], [16 * (i + 1) for i in range(80)], [1600] * 40):
        seed, miners = source.bytes(), {Hotkey(source.bytes()): count for count in declared}
        rounds.append(
            {
                "select_seed": seed.hex(),
                "declared": {hotkey.hex(): count for hotkey, count in miners.items()},
                "selections": [
                    {
                        "hotkey": s.hotkey.hex(),
                        "probability": [s.probability.numerator, s.probability.denominator],
                        "coin": str(s.coin),
                        "selected": s.selected,
                    }
                    for s in select_miners(seed, miners)
                ],
            }
        )
    samples: list[Json] = []
    for ids in ([0], [0, 1, 3, 4], [0, 1, 2, 3, 4], [*range(10), 11], list(range(34)), list(range(35)), list(range(1250))):
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
    return {"miners": rounds, "rows": samples}


def scores(source: Source) -> Json:
    histories: list[Json] = []
    window = Window(3000)
    for kind in range(12):
        history = [_miner_window(source, Window(window - 30 * back), kind) for back in range(40, -1, -1) if source.below(5)]
        inputs = score_inputs(history, window)
        histories.append(
            {
                "window": window,
                "history": [dataclasses.asdict(entry) for entry in history],
                "inputs": dataclasses.asdict(inputs),
                "units": str(score_units(inputs)),
            }
        )
    full = ScoreInputs(60_000, 1000, 1000, False)
    sets: list[dict[int, ScoreInputs]] = [
        {},
        {0: ScoreInputs(0, 0, 0, False), 1: ScoreInputs(160, 0, 0, False)},
        {1: full},
        {1: full, 2: full, 3: full},
        {0: full, 1: full, 7: ScoreInputs(60_000, 1000, 1000, True)},
        {1: ScoreInputs(192, 64, 64, False), 2: ScoreInputs(192, 63, 64, False), 5: ScoreInputs(96, 64, 64, False)},
        {
            uid: ScoreInputs(source.below(60_001), audited // (1 + source.below(3)), audited, source.below(9) == 0)
            for uid in range(64)
            for audited in (16 * source.below(2000),)
        },
    ]
    vectors: list[Json] = [
        {
            "weight_mode": network.weight_mode,
            "burn_share_permille": burn,
            "burn_uid": network.burn_uid,
            "inputs": {str(uid): dataclasses.asdict(entry) for uid, entry in entries.items()},
            "weights": {str(uid): weight for uid, weight in weights(entries, rule).items()},
        }
        for entries in sets
        for network in (SUBNET_81, LOCALNET)
        for burn in (900, 0)
        for rule in (dataclasses.replace(network, burn_share_permille=burn),)
    ]
    return {"histories": histories, "weights": vectors}


def signatures(source: Source) -> Json:
    key, signature = SIGNER, SIGNATURE
    cases = [
        (key, b"grail", signature),
        (key, b"grail ", signature),
        (source.bytes(), b"grail", signature),
        (key, b"grail", signature[:-1] + bytes([signature[-1] ^ 1])),
        (key, b"grail", signature[:-1]),
        (key, b"grail", bytes(64)),
        (bytes(32), b"grail", bytes(63) + b"\x80"),
    ]
    return [
        {
            "hotkey": hotkey.hex(),
            "message": text.hex(),
            "signature": signed.hex(),
            "valid": verify(Hotkey(hotkey), text, Signature(signed)),
        }
        for hotkey, text, signed in cases
    ]


def verdicts(source: Source) -> Json:
    network, accepted, failed = Digest(source.bytes()), Hotkey(source.bytes()), Hotkey(source.bytes())
    body = VerdictBody(
        network_id=network,
        window=Window(5_000_010),
        status=WindowStatus.SCORED,
        versions=Versions("grail-core 0.1.0", "1", "sat 1"),
        inputs=WindowInputs(
            source.bytes(), source.bytes(), 20_000_000, 20_000_040, Digest(source.bytes()), Digest(source.bytes())
        ),
        miners=(
            MinerVerdict(
                accepted,
                3,
                MinerStatus.ACCEPTED,
                content_digest=Digest(source.bytes()),
                etag="9b2cf535f27731c974343645a3985328",
                store_time_ms=1_790_000_000_000,
                active=True,
                declared=16,
                checked=True,
                unique_valid=15,
                check_probability=Fraction(1),
                coin=2**64 - 1,
                sampled=tuple((0, r) for r in range(16)),
                findings=(Finding("proof", Outcome.ACCEPT, decimal(0.0073), decimal(0.3), "position error", 0),),
            ),
            MinerVerdict(
                failed,
                7,
                MinerStatus.FAILED,
                reason="sampling: the claimed tokens are not the seeds' ≥ 30 %",
                findings=(Finding("sampling", Outcome.REJECT, decimal(0.875), decimal(0.3), group=2, rollout=5),),
            ),
            MinerVerdict(Hotkey(source.bytes()), 9, MinerStatus.ABSENT),
        ),
        score_inputs={3: ScoreInputs(16, 15, 16, False), 7: ScoreInputs(0, 0, 0, True)},
        weights={0: 58_982, 3: 6_553, 7: 0},
    )
    missed = VerdictBody(network, Window(5_000_040), WindowStatus.MISSED, body.versions, reason="down at first sight")
    validator, evidence, rollouts = Hotkey(source.bytes()), Digest(source.bytes()), Digest(source.bytes())
    return [
        {
            "body": verdict.to_json(),
            "canonical_sha256": hashlib.sha256(verdict.canonical()).hexdigest(),
            "digest": verdict.digest().hex(),
            "validator": validator.hex(),
            "evidence_digest": evidence_digest.hex() if evidence_digest else None,
            "rollouts_digest": rollouts_digest.hex() if rollouts_digest else None,
            "signed_message": SignedVerdict.message(verdict, validator, evidence_digest, rollouts_digest).hex(),
            "verdict_json_sha256": hashlib.sha256(
                SignedVerdict(verdict, validator, Signature(bytes(64)), evidence_digest, rollouts_digest).encode()
            ).hexdigest(),
        }
        for verdict, evidence_digest, rollouts_digest in ((body, evidence, rollouts), (missed, None, None))
    ]


def _row(source: Source, group: int, rollout: int, prompt_length: int, completion_length: int) -> RolloutRecord:
    tokens = [source.below(151_936) for _ in range(prompt_length + completion_length)]
    logprobs = [-source.below(1 << 16) / 4096 for _ in range(completion_length)]
    sketches = [source.below(65_535) - 32_767 for _ in range(4 * (completion_length + 1))]
    return RolloutRecord(
        group=group,
        rollout=rollout,
        tokens=np.array(tokens, dtype=np.int32),
        prompt_length=prompt_length,
        logprobs=np.array(logprobs, dtype=np.float32) + np.float32(0),
        sketches=np.array(sketches, dtype="<i2").tobytes(),
        reward=source.below(8) / 8,
        success=bool(source.below(2)),
    )


def _miner_window(source: Source, window: Window, kind: int) -> MinerWindow:
    """Histories of growing size; every fourth kind fails now and then."""
    declared = 16 * source.below((1, 5, 60, 1251)[kind % 4])
    failed = kind >= 8 and source.below(20) == 0
    checked = source.below(3) == 0
    valid = 0 if failed or not checked else min(20_000, declared + 16 - source.below(declared + 16 or 1) // 4)
    return MinerWindow(window, declared, source.below(6) > 0, checked, valid, failed)
