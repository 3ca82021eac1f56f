"""`python -m tooling.testing.vectors [--check]`: one JSON file per subject under tests/vectors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from grail_core.protocol.constants import PROTOCOL_VERSION
from grail_core.protocol.reading import Json
from tooling import REPOSITORY
from tooling.testing.vectors import derivation, statements
from tooling.testing.vectors.source import Source

FOLDER = REPOSITORY / "tests" / "vectors"

FILES: dict[str, tuple[str, Callable[[Source], Json]]] = {
    "constants": ("section 1: constants, network parameters, network ids", derivation.constants_),
    "encoding": ("conventions: parts, tagged hash and stream, canonical JSON", derivation.encoding),
    "windows": ("sections 1 and 2: the blocks of a window", derivation.windows),
    "seeds": ("sections 2, 3 and 5: every seed, and the first signs of the projections", derivation.seeds),
    "draw": ("section 2: draw(seed, tag, n, k)", derivation.draws),
    "positions": ("section 2: challenged_positions(challenge_seed, row_digest, completion_length)", derivation.positions),
    "groups": ("section 3: the gap rule; null where the ids reject", derivation.groups),
    "checkpoints": ("section 3: the checkpoint of a window", derivation.checkpoints),
    "gumbel": ("section 4: murmur3_words and gumbel_noise", derivation.gumbel),
    "records": ("section 8: row and header digests", statements.records),
    "merkle": ("section 8: Merkle roots and paths", statements.merkle),
    "selection": ("sections 1 and 10: miners checked, rows sampled", statements.selection),
    "scores": ("section 10: score inputs and weights", statements.scores),
    "signatures": ("sections 8 and 11: sr25519", statements.signatures),
    "verdicts": ("section 11: canonical bodies and what is signed", statements.verdicts),
}


def render(name: str) -> bytes:
    """The bytes of one vector file."""
    about, make = FILES[name]
    document = {"protocol_version": PROTOCOL_VERSION, "about": about, "vectors": make(Source(name))}
    return (json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tooling.testing.vectors", description="write the published test vectors")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file differs from what would be written"
    )
    check = parser.parse_args(arguments).check
    stray = {path.stem for path in FOLDER.glob("*.json")} - FILES.keys()
    differing = sorted(stray) if check else []
    for name in FILES:
        path, data = FOLDER / f"{name}.json", render(name)
        if not check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        elif not path.exists() or path.read_bytes() != data:
            differing.append(name)
    if not check:
        for name in stray:
            (FOLDER / f"{name}.json").unlink()
    for name in differing:
        print(f"tests/vectors/{name}.json differs from the specification: python -m tooling.testing.vectors", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
