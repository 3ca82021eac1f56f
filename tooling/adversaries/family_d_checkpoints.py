"""D9, D14, D17: hostile checkpoints, checkpoints at the border of a window, and prompts that are not pure.

Each adversary is a list of named tries against one honest chain of two checkpoints in a real bucket. A try is accepted if the
victim ends with anything but a `CheckpointError`, or if the model it was running, or its cache, is not what it was. The honest
twin goes through the same code with nothing changed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grail_core.checkpoints.delta.codec import Profile, encode
from grail_core.checkpoints.delta.frames import Frame, Mode, pack_streams
from grail_core.checkpoints.manifests import CheckpointSequence, StoredManifest, select
from grail_core.errors import CheckpointError
from grail_core.protocol.encoding import tagged_hash
from grail_core.protocol.manifest import (
    MAX_MANIFEST_BYTES,
    build,
    parse,
)
from grail_core.protocol.types import Block, Digest, Window
from grail_core.storage.layout import manifest_key
from tooling.adversaries.checkpoint_world import (
    CONFIG,
    FILES,
    NETWORK_ID,
    PARAMS,
    STRANGER,
    TEMPLATE,
    TOKENIZER,
    TRAINER,
    World,
    weights,
)
from tooling.adversaries.rows import Try

# --- D9 ---------------------------------------------------------------------------------------------------------------


def _edit(path: list[str | int], value: object) -> Callable[[World], None]:
    def attack(world: World) -> None:
        def change(body: dict[str, Any]) -> None:
            target: Any = body
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = value

        world.sign_json(change)

    return attack


def _swap_bytes(world: World) -> None:
    ref = world.manifests[1].deltas[0].parts[0]
    data = bytearray(world.store.get(ref.key, max_bytes=ref.size))
    data[-5] ^= 1
    world.store.put(ref.key, bytes(data))


def _longer_object(world: World) -> None:
    ref = world.manifests[1].deltas[0].parts[0]
    data = world.store.get(ref.key, max_bytes=ref.size)
    world.store.put(ref.key, data[:-10])


def _symlinked_object(world: World) -> None:
    ref = world.manifests[1].deltas[0].parts[0]
    path = world.root / "trainer" / ref.key
    moved = world.root / "elsewhere"
    shutil.copyfile(path, moved)
    path.unlink()
    path.symlink_to(moved)


def _unsigned(world: World) -> None:
    world.forget()
    world.store.put(
        manifest_key(world.manifests[1].valid_from),
        b'{"manifest":' + world.manifests[1].body + b',"signature":"' + b"00" * 64 + b'"}',
    )


def _without_signature(world: World) -> None:
    world.forget()
    world.store.put(manifest_key(world.manifests[1].valid_from), b'{"manifest":' + world.manifests[1].body + b"}")


def _stranger(world: World) -> None:
    forged = build(world.content(trainer=STRANGER.hotkey, valid_from=Window(600)), STRANGER)
    world.store.put(manifest_key(forged.valid_from), forged.to_bytes())


def _stranger_with_trainers_name(world: World) -> None:
    world.forget()
    body = world.manifests[1].body
    signature = STRANGER.sign(tagged_hash(NETWORK_ID, "grail/manifest", body)).hex().encode()
    world.store.put(manifest_key(world.manifests[1].valid_from), b'{"manifest":' + body + b',"signature":"' + signature + b'"}')


def _other_network(world: World) -> None:
    world.forget()
    other = build(world.content(network_id=Digest(b"\x01" * 32)), TRAINER)
    world.store.put(manifest_key(other.valid_from), other.to_bytes())


def _copied_key(world: World) -> None:
    world.store.put(manifest_key(Window(600)), world.manifests[0].to_bytes())


def _resigned_old(world: World) -> None:
    old = build(world.content(0, valid_from=Window(600)), TRAINER)
    world.store.put(manifest_key(old.valid_from), old.to_bytes())


def _rolled_back(world: World) -> None:
    world.store.delete(manifest_key(world.manifests[1].valid_from))


def _equivocation(world: World) -> None:
    twin = build(world.content(training={"twin": "yes"}), TRAINER)
    world.store.put(manifest_key(twin.valid_from), twin.to_bytes())


def _huge_manifest(world: World) -> None:
    world.forget()
    world.store.put(
        manifest_key(world.manifests[1].valid_from), b'{"manifest":{"a":"' + b"x" * MAX_MANIFEST_BYTES + b'"},"signature":"00"}'
    )


def _deep_manifest(world: World) -> None:
    world.forget()
    world.store.put(
        manifest_key(world.manifests[1].valid_from), b'{"manifest":' + b"[" * 400_000 + b"]" * 400_000 + b',"signature":""}'
    )


def _delta(change: Callable[[list[Frame]], list[Frame]]) -> Callable[[World], None]:
    def attack(world: World) -> None:
        frames = list(encode(weights(0), weights(1), Profile.FAST))
        world.with_delta([frame.to_bytes() for frame in change(frames)])

    return attack


def _bomb(frames: list[Frame]) -> list[Frame]:
    """A payload that says, and would make, far more than a frame may hold."""
    bomb = pack_streams([bytes(1 << 28)]) + b"".join(pack_streams([b""]) for _ in range(3))
    return [frames[0], dataclasses.replace(frames[1], payload=bomb)]


def _shard(header: dict[str, Any], data: bytes) -> Callable[[World], None]:
    text = json.dumps(header).encode()
    return lambda world: world.with_shard(struct.pack("<Q", len(text)) + text + data)


def _other_weights(world: World) -> None:
    frames = list(encode(weights(0), weights(2), Profile.SMALL))
    world.with_delta([frame.to_bytes() for frame in frames])


def _pickle(world: World) -> None:
    import pickle

    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (world.root / "pwned",))

    world.with_shard(pickle.dumps(Boom()), name="pytorch_model.bin")


_AUTO_MAP = {"auto_map": {"AutoModelForCausalLM": "modeling_x.Model"}}
_WHOLE = {"dtype": "BF16", "shape": [60, 50], "data_offsets": [0, 6000]}

_DRAWING = {**TOKENIZER, "model": {"type": "BPE", "vocab": {"?": 0}, "merges": [], "unk_token": "?", "dropout": 0.1}}

D9_TRIES: dict[str, Callable[[World], None]] = {
    "path traversal in a file name": _edit(["files", 0, "path"], "../../pwned"),
    "absolute path": _edit(["files", 0, "path"], "/tmp/pwned"),
    "object outside the objects folder": _edit(["index", "key"], "grail/objects/../../secret"),
    "object of a petabyte": _edit(["index", "size"], 2**50),
    "negative size": _edit(["index", "size"], -1),
    "unknown manifest version": _edit(["version"], 2),
    "another protocol": _edit(["protocol_version"], 9),
    "temperature zero": _edit(["policy", "temperature"], "0"),
    "environment digest of another": _edit(["environment_digest"], "00" * 32),
    "kind that does not fit": _edit(["kind"], "FULL"),
    "manifest too large": _huge_manifest,
    "manifest nested deeply": _deep_manifest,
    "no signature": _without_signature,
    "empty signature": _unsigned,
    "signed by a stranger": _stranger,
    "signed by a stranger in the trainer's name": _stranger_with_trainers_name,
    "manifest of another network": _other_network,
    "old manifest under a new key": _copied_key,
    "old weights signed as new": _resigned_old,
    "newest checkpoint taken away": _rolled_back,
    "two manifests for one number": _equivocation,
    "one bit of an object flipped": _swap_bytes,
    "object cut short": _longer_object,
    "object replaced by a symbolic link": _symlinked_object,
    "delta to other weights": _other_weights,
    "delta without its layout frame": _delta(lambda frames: frames[1:]),
    "frame twice": _delta(lambda frames: [*frames, frames[1]]),
    "frame left out": _delta(lambda frames: frames[:1]),
    "decompression bomb": _delta(_bomb),
    "frame of an unknown mode": _delta(lambda frames: [frames[0], dataclasses.replace(frames[1], mode=Mode.GROUPED)]),
    "noise for a payload": _delta(lambda frames: [frames[0], dataclasses.replace(frames[1], payload=b"\xaa" * 500)]),
    "safetensors header out of bounds": _shard({"model.a": {**_WHOLE, "data_offsets": [0, 2**40]}}, bytes(6000)),
    "safetensors tensors overlapping": _shard({"model.a": _WHOLE, "model.b": _WHOLE}, bytes(6000)),
    "safetensors of other weights": _shard(
        {"model.a": _WHOLE, "model.b": {**_WHOLE, "data_offsets": [6000, 12000]}}, bytes(12000)
    ),
    "pickle instead of weights": _pickle,
    "code asked for by config.json": lambda world: world.with_file("config.json", json.dumps({**CONFIG, **_AUTO_MAP}).encode()),
    "code asked for by the tokenizer": lambda world: world.with_file("tokenizer_config.json", json.dumps(_AUTO_MAP).encode()),
    "a Python file": lambda world: world.with_file("modeling_x.py", b"import os"),
}

# --- D17 --------------------------------------------------------------------------------------------------------------

D17_TRIES: dict[str, dict[str, bytes]] = {
    "strftime_now": {"chat_template.jinja": b"{{ strftime_now('%d %B %Y') }}" + TEMPLATE.encode()},
    "strftime_now behind a name": {"chat_template.jinja": b"{% set f = strftime_now %}{{ f('%H') }}" + TEMPLATE.encode()},
    "strftime_now if defined": {"chat_template.jinja": b"{% if strftime_now is defined %}{{ strftime_now('%d') }}{% endif %}"},
    "a random choice": {"chat_template.jinja": b"{{ ['a', 'b'] | random }}" + TEMPLATE.encode()},
    "a clock in tokenizer_config.json": {"tokenizer_config.json": b'{"chat_template": "{{ strftime_now(1) }}"}'},
    "a clock in a named template": {
        "tokenizer_config.json": b'{"chat_template": [{"name": "tools", "template": "{{ strftime_now(1) }}"}]}'
    },
    "a tokenizer that draws at random": {"tokenizer.json": json.dumps(_DRAWING).encode()},
    "tokenizer of another version": {"tokenizer.json": b'{"version": "2.0"}'},
    "another chat template": {"chat_template.jinja": b"{{ messages[0].content }}"},
    "another added token": {"added_tokens.json": b'{"<x>": 9}'},
}


def run_d9() -> dict[str, Any]:
    tries = []
    for name, attack in D9_TRIES.items():
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder))
            attack(world)
            tries.append(_try_it(name, world.follow, world.harmed))
    return _row("D9", "checkpoint", tries, _honest(len(tries)))


def run_d14() -> dict[str, Any]:
    """Publication before, at and after the border, seen at many later times: all readers agree, none uses it late."""
    tries, honest_tries, honest_rejects = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        first, second = world.view().stored
        border = _time_of(Block(second.manifest.valid_from - PARAMS.checkpoint_lead))
        for offset in (-1, 0, 1, 1_500, 20_000, 10**9):
            item = StoredManifest(second.manifest, border + offset)
            readers = [
                select(CheckpointSequence((first, item)), Window(window), PARAMS, _time_of).sequence
                for window in range(second.manifest.valid_from, second.manifest.valid_from + 3000, 30)
                for _reader in range(3)
            ]
            used = set(readers)
            if offset < 0:
                honest_tries += len(readers)
                honest_rejects += sum(sequence != 1 for sequence in readers)
            else:
                tries.append(Try(f"{offset} ms late", used != {0}, "checkpoint lead", f"skipped for good: {sorted(used)}"))
        early = {
            select(CheckpointSequence((first, second)), Window(w), PARAMS, _time_of).sequence
            for w in range(0, second.manifest.valid_from, 30)
        }
        tries.append(Try("used before valid_from", early != {0}, "valid_from", f"{sorted(early)}"))
    return _row("D14", "publication", tries, (honest_tries, honest_rejects))


def run_d17() -> dict[str, Any]:
    tries = []
    for name, change in D17_TRIES.items():
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder))
            before = world.view()

            def attack(world: World = world, change: dict[str, bytes] = change) -> None:
                world.publish(2, weights(2), {**FILES, **change})

            def harmed(world: World = world, before: CheckpointSequence = before) -> bool:
                return world.view() != before

            tries.append(_try_it(f"publish: {name}", attack, harmed))
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder))
            for file, data in change.items():
                world.with_file(file, data)
            tries.append(_try_it(f"read: {name}", world.follow, world.harmed))
    return _row("D17", "checkpoint", tries, _honest(len(tries)))


ATTACKS: dict[str, Callable[[], dict[str, Any]]] = {"D9": run_d9, "D14": run_d14, "D17": run_d17}


def _try_it(name: str, action: Callable[[], None], harmed: Callable[[], bool]) -> Try:
    try:
        action()
    except CheckpointError as error:
        return Try(name, harmed(), type(error).__name__, str(error))
    return Try(name, True, "", "nothing stopped it")


def _honest(count: int) -> tuple[int, int]:
    """The same victim, bucket and code with nothing changed: how often, and how often it was refused."""
    rejects = 0
    tries = min(count, 5)
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder))
            try:
                world.follow()
            except CheckpointError:
                rejects += 1
                continue
            arrived = all((world.model[name] == tensor.bits).all() for name, tensor in weights(1).items())
            third = world.publish(2, weights(2))
            again = parse(third.to_bytes(), trainer_hotkey=TRAINER.hotkey, network_id=NETWORK_ID)
            rejects += not (arrived and again == third)
    return tries, rejects


def _time_of(block: Block) -> int:
    return block * 1_500


def _row(id_: str, unit: str, tries: list[Try], honest: tuple[int, int]) -> dict[str, Any]:
    accepted = sum(item.accepted for item in tries)
    honest_tries, rejects = honest
    refused = any(not item.accepted for item in tries)
    return {
        "id": id_,
        "status": "built",
        "unit": unit,
        "tries": len(tries),
        "accepted": accepted,
        "caught_by": "checkpoint" if refused else "",
        "honest_tries": honest_tries,
        "honest_false_rejects": rejects,
        "messages": {item.name: item.message.split("\n")[0] for item in tries},
        "details": [
            {"try": item.name, "accepted": item.accepted, "caught_by": item.caught_by, "message": item.message}
            for item in tries
        ],
    }
