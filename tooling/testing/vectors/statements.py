"""Vectors of what participants sign: rows, headers, Merkle trees, seals, verdicts (sections 8 and 11)."""

from __future__ import annotations

import dataclasses
import hashlib
from fractions import Fraction

import numpy as np

from grail_core.protocol import (
    Adopted,
    Digest,
    Finding,
    Hotkey,
    MinerStatus,
    MinerVerdict,
    Outcome,
    RolloutRecord,
    ScoreInputs,
    Seal,
    Signature,
    SignedVerdict,
    VerdictBody,
    Versions,
    Window,
    WindowHeader,
    WindowInputs,
    WindowStatus,
    canonical_json,
    constants,
    decimal,
    header_digest,
    merkle_path,
    merkle_root,
    rollout_digest,
)
from grail_core.protocol.reading import Json
from grail_core.protocol.rollouts.records import rollout_message
from grail_core.protocol.seals import ROLLOUTS
from grail_core.protocol.signatures import verify
from tooling.testing.vectors.source import Source

# sr25519 signatures are randomised: these were made once, by the key of the seed 000102…1f, one over b"grail" and one over the
# message of the seal below. Who changes what a seal signs makes the second one anew.
SIGNER = bytes.fromhex("e2111779981618705ecacea1af6ff9350bce2b2dccd03e0c3e01eb0c823d2666")
SIGNATURE = bytes.fromhex(
    "5c0a999f43fd32c0ce1e6bda0c06cb5fa0c21cef3f7eb250013c2cfed121e34e"
    "668c26596b592059057759436a806a6bccc803c5601df39a5a64a8b646a10280"
)
SEAL_SIGNATURE = bytes.fromhex(
    "2801c8e990aebc5785a84d74064538295c6abccb62212d5133011f5139022b48"
    "384b77e98fd2d6207c10a19d54f11f95139053f3c9205b60506583f1ab66da8d"
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
            declared=16 * max(0, groups - 10 * gaps),
            merkle_root=merkle_root(digests),
            proof_class="bf16-sdpa-cpu-transformers",
            generation_class=generation,
            software=software,
        )
        for beacon_round, groups, gaps, generation, software in (
            (20_000_000, 40, 1, "bf16-eager-cpu-transformers", {"torch": "2.13.0", "grail-core": "0.1.0"}),
            (20_000_001, 3, 1, "bf16-sdpa-cpu-transformers", {}),
            (0, 1, 0, "bf16-sdpa-cpu-transformers", {}),
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


def seals(source: Source) -> Json:
    network, digest, size = source.bytes(), Digest(source.bytes()), 1_234_567
    header = WindowHeader(
        protocol_version=constants.PROTOCOL_VERSION,
        window=Window(5_000_010),
        block_hash=source.bytes(),
        beacon_round=20_000_000,
        beacon_signature=source.bytes(48),
        hotkey=Hotkey(SIGNER),
        checkpoint_digest=Digest(source.bytes()),
        env_digest=Digest(source.bytes()),
        policy_digest=Digest(source.bytes()),
        groups=39,
        gaps=1,
        declared=464,
        merkle_root=Digest(source.bytes()),
        proof_class="bf16-sdpa-cpu-transformers",
        generation_class="bf16-eager-cpu-transformers",
        software={"grail-core": "0.2.0"},
    )
    seal = Seal(ROLLOUTS, header, digest, size, Signature(SEAL_SIGNATURE))
    if not seal.signed(network):
        raise ValueError(f"the seal's signature is none over {seal.message(network, ROLLOUTS, header, digest, size).hex()}")
    others = [
        seal,
        dataclasses.replace(seal, size=size + 1),
        dataclasses.replace(seal, content_digest=Digest(bytes(32))),
        dataclasses.replace(seal, header=dataclasses.replace(header, window=Window(5_000_040))),
        dataclasses.replace(seal, header=dataclasses.replace(header, hotkey=Hotkey(source.bytes()))),
        dataclasses.replace(seal, signature=Signature(bytes(64))),
    ]
    return {
        "network_id": network.hex(),
        "seals": [
            {
                "canonical": one.encode().decode(),
                "seal": one.to_json(),
                "message": Seal.message(network, one.kind, one.header, one.content_digest, one.size).hex(),
                "signed": one.signed(network),
                "signed_on_another_network": one.signed(bytes(32)),
            }
            for one in others
        ],
        "malformed": _malformed(seal),
    }


def _malformed(seal: Seal) -> Json:
    """What no reader takes for a seal, and the member that it names."""
    value, header = seal.to_json(), seal.header.to_json()
    most_of_a_row = 160 * 2**10 * 16
    changed: list[tuple[str, dict[str, Json]]] = [
        ("kind", value | {"kind": "gradients"}),
        ("size", value | {"size": 0}),
        ("size", value | {"size": most_of_a_row * 39 + 1}),
        ("size", value | {"size": constants.MAX_FILE_BYTES + 1, "header": header | {"groups": 375, "declared": 16 * 365}}),
        ("size", value | {"size": "1234567"}),
        ("content_digest", value | {"content_digest": seal.content_digest.hex().upper()}),
        ("content_digest", {name: member for name, member in value.items() if name != "content_digest"}),
        ("signature", value | {"signature": seal.signature.hex()[:-2]}),
        ("surplus", value | {"surplus": 0}),
        ("groups", value | {"header": header | {"groups": 376, "declared": 16 * 369}}),
        ("declared", value | {"header": header | {"declared": 528}}),
        ("gaps", value | {"header": header | {"gaps": -1, "declared": 736}}),
        ("generation_class", value | {"header": header | {"generation_class": ""}}),
        ("proof_class", value | {"header": {name: member for name, member in header.items() if name != "proof_class"}}),
        ("protocol_version", value | {"header": header | {"protocol_version": 2}}),
    ]
    cases = [(member, canonical_json(document)) for member, document in changed]
    cases += [
        ("canonical", seal.encode() + b"\n"),
        ("canonical", seal.encode().replace(b'"gaps":1', b'"gaps": 1')),
        ("twice", seal.encode().replace(b'"kind"', b'"kind":"rollouts","kind"', 1)),
        ("no integer", seal.encode().replace(b'"size":1234567', b'"size":1234567.0')),
    ]
    listed: list[Json] = []
    for member, raw in cases:
        try:
            Seal.decode(raw)
        except ValueError as error:
            if member not in str(error):
                raise ValueError(f"{member}: the reader says {error}") from error
            listed.append({"bytes": raw.decode(), "error_names": member})
        else:
            raise ValueError(f"{member}: the reader takes {raw!r}")
    return listed


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
    network, hotkeys = Digest(source.bytes()), {uid: Hotkey(source.bytes()) for uid in (3, 7, 9, 11)}
    none = ScoreInputs(0, 0, 0, 0, 0, 0, in_lookback=False)
    body = VerdictBody(
        network_id=network,
        window=Window(5_000_010),
        status=WindowStatus.SCORED,
        versions=Versions("grail-core 0.2.0", "1", "sat 1"),
        inputs=WindowInputs(
            source.bytes(), source.bytes(), 20_000_000, 20_000_040, Digest(source.bytes()), Digest(source.bytes())
        ),
        miners=(
            MinerVerdict(
                hotkeys[3],
                3,
                MinerStatus.ACCEPTED,
                content_digest=Digest(source.bytes()),
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
                hotkeys[7],
                7,
                MinerStatus.FAILED,
                reason="sampling: the claimed tokens are not the seeds' ≥ 30 %",
                content_digest=Digest(source.bytes()),
                store_time_ms=1_790_000_000_001,
                active=True,
                declared=4992,
                gaps=1,
                checked=True,
                check_probability=Fraction(35, 226),
                coin=12_345,
                findings=(Finding("sampling", Outcome.REJECT, decimal(0.875), decimal(0.3), group=2, rollout=5),),
            ),
            MinerVerdict(
                hotkeys[9],
                9,
                MinerStatus.ABSENT,
                reason="seal 160 (threshold 128): wrong window",
                store_time_ms=1_790_000_000_002,
                findings=(Finding("seal", Outcome.REJECT, 160, 128, "wrong window"),),
            ),
            MinerVerdict(
                hotkeys[11],
                11,
                MinerStatus.INCONCLUSIVE,
                reason="this validator could not measure: out of memory",
                content_digest=Digest(source.bytes()),
                store_time_ms=1_790_000_000_003,
                declared=160,
                checked=True,  # the second one of its memory
                check_probability=Fraction(1, 10),
                coin=0,
            ),
        ),
        hotkeys=hotkeys,
        score_inputs={
            3: ScoreInputs(16, 15, 20, 1, 15, 16, in_lookback=False),
            7: ScoreInputs(59_904, 64_896, 227_136, 14, 10**17, 1001 * 4992**4, in_lookback=True),
            9: none,
            11: dataclasses.replace(none, audits=1, product_declared=160),
        },
        weights={0: 65_535, 3: 0, 7: 0, 9: 0, 11: 0},
    )
    missed = VerdictBody(network, Window(5_000_040), WindowStatus.MISSED, body.versions, reason="down at first sight")
    validator, evidence = Hotkey(source.bytes()), Digest(source.bytes())
    adopted = Adopted(Hotkey(source.bytes()), Window(4_997_850), Window(4_999_980))
    return [
        {
            "body": verdict.to_json(),
            "canonical_sha256": hashlib.sha256(verdict.canonical()).hexdigest(),
            "digest": verdict.digest().hex(),
            "validator": validator.hex(),
            "evidence_digest": evidence_digest.hex() if evidence_digest else None,
            "adopted": told.to_json() if told else None,
            "signed_message": SignedVerdict.message(verdict, validator, evidence_digest, told).hex(),
            "verdict_json_sha256": hashlib.sha256(
                SignedVerdict(verdict, validator, Signature(bytes(64)), evidence_digest, told).encode()
            ).hexdigest(),
        }
        for verdict, evidence_digest, told in ((body, evidence, None), (body, evidence, adopted), (missed, None, None))
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
