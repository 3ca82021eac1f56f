"""`python -m tooling.testing.vectors [--check]`: every file under tests/vectors, and no other.

Each file has one maker; `--check` writes nothing and names what differs, what is missing and what nobody makes. A signature is
different each time it is made (sr25519 draws at random): those in signatures.json, seals.json and inference/ were made once,
and are verified each time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.reading import Json
from tooling import REPOSITORY
from tooling.testing.vectors import (
    checkpoints,
    derivation,
    gradient,
    gradient_rules,
    inference,
    receipts,
    scoring,
    statements,
    stops,
    training,
)
from tooling.testing.vectors.source import Source

FOLDER = REPOSITORY / "tests" / "vectors"

FILES: dict[str, tuple[str, Callable[[Source], Json]]] = {
    "constants": ("section 1: constants, network parameters, network ids", derivation.constants_),
    "encoding": ("conventions: parts, tagged hash and stream, canonical JSON", derivation.encoding),
    "windows": ("sections 1 and 2: the blocks of a window", derivation.windows),
    "seeds": ("sections 2, 3 and 5: every seed, and the first signs of the projections", derivation.seeds),
    "draw": ("section 2: draw(seed, tag, n, k)", derivation.draws),
    "positions": ("section 2: challenged_positions(challenge_seed, row_digest, completion_length)", derivation.positions),
    "groups": (
        "section 3: the gap rule, and how much of a list declares most; null where ids reject or do not rise",
        derivation.groups,
    ),
    "checkpoints": ("section 3: the checkpoint of a window", derivation.checkpoints),
    "gumbel": ("section 4: murmur3_words and gumbel_noise", derivation.gumbel),
    "records": ("section 8: row and header digests", statements.records),
    "merkle": ("section 8: Merkle roots and paths", statements.merkle),
    "seals": ("section 8: what a seal signs, and what is none", statements.seals),
    "selection": ("sections 1 and 10: miners checked, rows sampled", scoring.selection),
    "scores": ("section 10: score inputs, power, look-backs, weights of a window and as they are set", scoring.scores),
    "signatures": ("sections 8 and 11: sr25519", statements.signatures),
    "verdicts": ("section 11: canonical bodies and what is signed", statements.verdicts),
    "training": ("section 11: training logs and state anchors, canonical bodies and what is signed", training.training),
    "gradient_codec": (
        "gradient work: scales, streams and feedback, roots, merges, the update file, an opening",
        gradient.gradient_codec,
    ),
    "gradient_rules": (
        "gradient work: permutation, draws, seals and headers, ranks, ratings, F, weights of two kinds, verdict bodies",
        gradient_rules.rules,
    ),
    "inference/typed_data": ("inference: orders as typed data, and who signed them", inference.typed_data),
    "inference/seeds": ("inference: features, requests, and every seed of an answer", inference.seeds),
    "inference/stops": ("inference: where stop texts end a completion, and the text that is handed out", stops.stops),
    "inference/answers": ("inference: models, answers and their digests, gas", inference.answers),
    "inference/receipts": (
        "inference: receipts good, malformed (the path that is refused) and wrong (the check that rejects)",
        receipts.receipts,
    ),
}


def render(name: str) -> bytes:
    """The bytes of one vector file of the protocol."""
    about, make = FILES[name]
    document = {"protocol_version": PROTOCOL_VERSION, "about": about, "vectors": make(Source(name))}
    return (json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def rendered() -> Iterator[tuple[str, bytes]]:
    """Every published file: its path in the folder, and its bytes."""
    for name in FILES:
        yield f"{name}.json", render(name)
    for name in checkpoints.FILES:
        yield f"checkpoint/{name}.json", checkpoints.render(name)


def present(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def faults(folder: Path, files: dict[str, bytes]) -> list[str]:
    """What is wrong with a folder that should hold these files and no other, one line each."""
    there = present(folder)
    found = [f"{path} is missing" for path in files if path not in there]
    found += [
        f"{path} differs from the specification"
        for path in files
        if path in there and (folder / path).read_bytes() != files[path]
    ]
    return found + [f"{path} is made by nobody" for path in sorted(there - files.keys())]


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Make the folder hold these files and no other."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    for path in present(folder) - files.keys():
        (folder / path).unlink()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tooling.testing.vectors", description="write the published test vectors")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file differs, is missing or is made by nobody"
    )
    check = parser.parse_args(arguments).check
    files = dict(rendered())
    if not check:
        write(FOLDER, files)
        return 0
    found = faults(FOLDER, files)
    for fault in found:
        print(f"tests/vectors/{fault}: python -m tooling.testing.vectors", file=sys.stderr)
    if not found:
        print(
            f"{len(files)} files under tests/vectors regenerate byte for byte; "
            "the signatures of hotkeys in signatures.json, seals.json and inference/ were made once (sr25519 draws at random) "
            "and are verified"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
