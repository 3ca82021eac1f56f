"""Vectors of gradient work (sections 6 to 8, 12), derived by `tooling.testing.plain_gradient`, not by the shipped code.

Numbers of a case are float32 patterns, little-endian hex; or, where they are many, made from a seed: word i of its SHAKE-256
stream (u32, little-endian) gives the sign (bit 31), the mantissa (bits 0 to 22) and an exponent (8 bits of the pattern):
`least` + (bits 23 to 30 modulo `spread`).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from fractions import Fraction

from grail_core.protocol.reading import Json
from tooling.testing import plain_gradient as plain
from tooling.testing.vectors.source import Source

BETA = 950_000
Numbers = list[float]


@dataclass(frozen=True)
class Seeded:
    """Numbers made from a seed."""

    seed: bytes
    least: int
    spread: int

    def json(self) -> Json:
        return {"seed": self.seed.hex(), "least": self.least, "spread": self.spread}

    def numbers(self, size: int) -> Numbers:
        words = struct.unpack(f"<{size}I", hashlib.shake_256(self.seed).digest(4 * size))
        patterns = [(w & 0x807FFFFF) | ((self.least + (w >> 23 & 0xFF) % self.spread) << 23) for w in words]
        return list(struct.unpack(f"<{size}f", struct.pack(f"<{size}I", *patterns)))


@dataclass(frozen=True)
class Case:
    """One tensor that is compressed."""

    shape: tuple[int, ...]
    chunk: int
    kept: int
    given: Seeded | Numbers
    about: str = ""


def gradient_codec(source: Source) -> Json:
    return {
        "scales": _scales(source),
        "streams": [_stream(case) for case in _cases(source)],
        "roots": _roots(source),
        "merges": _merges(source),
        "update_file": _update_file(source),
        "opening": _opening(source),
    }


def _scales(source: Source) -> Json:
    """[float64 pattern as hex text of C99, code, its integer]: ends, ties, and some of every size."""
    unit = Fraction(1, 2**40)
    exact = [Fraction(n, 2) for n in (0, 1, 2049, 2050, 4096, 4098, 4099, 4101, 8191, 8192, 8193, 8194, 8195)]
    ends = [Fraction(plain.SCALES[65535]), Fraction(plain.SCALES[65535] + plain.SCALES[65534], 2), Fraction(2**60)]
    drawn = [Fraction(1 + source.below(2**52), 2 ** source.below(48)) for _ in range(24)]
    values = [float(units * unit) for units in (*exact, *ends, *drawn)] + [2.0**-149, float.fromhex("0x1.fffffep+127")]
    return [[value.hex(), code := plain.scale_code(value), plain.SCALES[code]] for value in values]


def _cases(source: Source) -> list[Case]:
    """Shapes that end a chunk early, and values that codecs get wrong."""
    many = [
        ((1,), 4096, 64, 115),
        ((4095,), 4096, 64, 115),
        ((4097,), 4096, 64, 115),
        ((65, 63), 4096, 64, 115),
        ((3, 5, 140), 1024, 64, 115),
        ((200,), 64, 32, 120),
        ((130,), 64, 1, 90),
        ((70,), 64, 5, 0),  # subnormals
        ((70,), 64, 5, 125),  # the scale saturates
    ]
    few = [
        ("all zero", [0.0] * 66),
        ("zeros with a sign", [-0.0] * 66),
        ("ties go to the lower place", [0.0, 0.25, -0.25] * 22),
        ("one value, and zeros that fill up", [0.0] * 40 + [-0.5] + [0.0] * 30),
        ("magnitudes below half of the least scale", [-(2.0**-60)] * 66),
    ]
    cases = [Case(shape, chunk, kept, _seeded(source, least)) for shape, chunk, kept, least in many]
    return cases + [Case((len(numbers),), 64, 4, numbers, about) for about, numbers in few]


def _stream(case: Case) -> Json:
    """Δ to stream and e′, twice: with no e before, and with this e′ for the next round's e."""
    size = math.prod(case.shape)
    delta = case.given.numbers(size) if isinstance(case.given, Seeded) else case.given
    feedback, rounds = [0.0] * size, list[Json]()
    for _ in range(2):
        sums = plain.accumulated(delta, feedback, BETA)
        stream = plain.encoded(sums, case.chunk, case.kept)
        feedback = plain.rest(sums, plain.decoded(stream, size, case.chunk, case.kept))
        rounds.append({"stream": stream.hex(), "feedback_after_root": plain.root([feedback], case.chunk).hex()})
    return {
        "about": case.about,
        "shape": list(case.shape),
        "chunk": case.chunk,
        "kept": case.kept,
        "feedback": BETA,
        "delta": case.given.json() if isinstance(case.given, Seeded) else _pattern(case.given),
        "rounds": rounds,
    }


def _roots(source: Source) -> Json:
    """Of one or two tensors, the second starting a chunk of its own."""
    cases: list[Json] = []
    for sizes in ([64], [65, 10], [64 * 5, 64 * 2 + 1]):
        seeds = [_seeded(source, 110) for _ in sizes]
        tensors = [seed.numbers(size) for seed, size in zip(seeds, sizes, strict=True)]
        tensors[0][0] = -0.0
        tensors_json: list[Json] = [seed.json() for seed in seeds]
        cases.append({"sizes": list(sizes), "chunk": 64, "tensors": tensors_json, "root": plain.root(tensors, 64).hex()})
    return {"about": "the first number of the first tensor is replaced by −0.0", "cases": cases}


def _merges(source: Source) -> Json:
    """Updates of one tensor: of like size, one a hundred times larger, one of zeros, one peer alone."""
    size, chunk, kept = 150, 64, 8
    theta = _seeded(source, 118)
    cases: list[Json] = []
    sets = (((110, 110, 110, 117, None), 4_000_000), ((112,), 700_000), ((None, None), 10**6), ((112, None), 10**9))
    for leasts, rate in sets:
        given = [[0.0] * size if least is None else _seeded(source, least).numbers(size) for least in leasts]
        streams = [plain.encoded(numbers, chunk, kept) for numbers in given]
        sent = [plain.decoded(stream, size, chunk, kept) for stream in streams]
        norms = [sum(v * v for v in one) for one in sent]
        most, start = sorted(norms)[(len(norms) - 1) // 2], theta.numbers(size)
        cases.append(
            {
                "size": size,
                "chunk": chunk,
                "kept": kept,
                "rate": rate,
                "theta": theta.json(),
                "streams": [stream.hex() for stream in streams],
                "norms2": [str(norm) for norm in norms],
                "clips": list[Json](plain.clips(sent)),
                "merged": _pattern(plain.merged(start, sent, rate)),
                "score_step": 500,
                "scored": [_pattern(plain.scored(start, one, most, 500)) for one in sent],
            }
        )
    return cases


def _update_file(source: Source) -> Json:
    """Two tensors of chunk 64, 4 kept; L = 2, one sequence sketched."""
    header, signature, sketches = b'{"any":"canonical JSON"}', source.bytes(64), source.bytes(16)
    streams = [plain.encoded(_seeded(source, 112).numbers(size), 64, 4) for size in (70, 5)]
    lengths = b"".join(len(stream).to_bytes(4, "little") for stream in streams)
    body = sketches + lengths + b"".join(streams)
    return {
        "header": header.decode(),
        "signature": signature.hex(),
        "sketches": sketches.hex(),
        "streams": [stream.hex() for stream in streams],
        "sizes": [70, 5],
        "chunk": 64,
        "kept": 4,
        "sequence_length": 2,
        "body_digest": hashlib.sha256(body).hexdigest(),
        "file": (b"GRAILUP1" + len(header).to_bytes(4, "little") + header + signature + body).hex(),
    }


def _opening(source: Source) -> Json:
    """A replay of step 1, with a new start's e; the one tensor has a chunk of 64 and one of 6, and the second is drawn.

    Δ, θ_H and e′ are any numbers here: what a chunk test makes of them is another matter.
    """
    size, chunk = 70, 64
    names = ("delta", "theta_end", "feedback_after", "theta", "first_moment", "second_moment")
    vectors = {name: _seeded(source, 112) for name in (*names, *(f"{name}_after" for name in names[3:]))}
    numbers = {name: seed.numbers(size) for name, seed in vectors.items()}
    roots = {name: plain.root([values], chunk) for name, values in numbers.items()}
    header: dict[str, Json] = {
        "chunks": [1],
        "content_digest": source.bytes().hex(),
        "hotkey": source.bytes().hex(),
        "round": 900,
        "step": 1,
        "version": 1,
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    states = [[roots[f"{name}{when}"] for name in names[3:]] for when in ("", "_after")]
    parts = [*states[0], *states[1]]
    parts += [_shown(numbers[name], chunk) for name in names[:2]]
    parts.append(_path(numbers["feedback_after"], chunk))
    parts += [_shown(numbers[name], chunk) for name in (*names[4:], *(f"{name}_after" for name in names[3:]))]
    parts.append(bytes.fromhex(_pattern(numbers["theta"])))
    return {
        "about": "e is zero: nothing of it stands in the file; spec of adamw with commit all",
        "size": size,
        "chunk": chunk,
        "inner_steps": 4,
        "header": header,
        "vectors": {name: seed.json() for name, seed in vectors.items()},
        "roots": {name: root.hex() for name, root in roots.items()},
        "step_roots": [plain.tree(state).hex() for state in states],
        "file": (b"GRAILOP1" + len(text).to_bytes(4, "little") + text + b"".join(parts)).hex(),
    }


def _path(numbers: Numbers, chunk: int) -> bytes:
    """Of the second of two chunks: the first one's leaf."""
    return plain.tree([plain.leaves([numbers], chunk)[0]])


def _shown(numbers: Numbers, chunk: int) -> bytes:
    return bytes.fromhex(_pattern(numbers[chunk:])) + _path(numbers, chunk)


def _seeded(source: Source, least: int) -> Seeded:
    return Seeded(source.bytes(8), least, 8 if least else 1)


def _pattern(values: Numbers) -> str:
    return struct.pack(f"<{len(values)}f", *values).hex()
