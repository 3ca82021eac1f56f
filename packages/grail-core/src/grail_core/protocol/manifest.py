"""The checkpoint manifest: what a network runs from one window on, signed by its trainer.

A manifest is canonical JSON (RFC 8785, no floats); its digest is the `checkpoint_digest` of every seed, and the trainer's
hotkey signs that digest. It is verified before anything it names is fetched. Fields this version does not know are kept
and covered by the digest; a format version it does not know is refused. Nothing here reads a store or a clock.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from grail_core.errors import CheckpointError
from grail_core.protocol.constants import PROTOCOL_VERSION, WINDOW_LENGTH
from grail_core.protocol.encoding import canonical_json, tagged_hash
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.policy import GenerationPolicy, policy_digest, policy_json, read_policy
from grail_core.protocol.reading import Node, parse_json
from grail_core.protocol.signatures import verify
from grail_core.protocol.signer import Signer
from grail_core.protocol.types import Digest, Hotkey, Signature, Window
from grail_core.protocol.upgrade import Upgrade

MANIFEST_VERSION = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_OBJECT_BYTES = 512 << 20
MAX_FILES = 32
MAX_SHARDS = 16_384
MAX_DELTAS = 24
MAX_END_TOKENS = 64
OBJECT_PREFIX = "grail/objects/"

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class OtherNetworkError(CheckpointError):
    """A manifest that the trainer signed for another network than the reader's: of the reader's it is none."""

    def __init__(self, ours: Digest, theirs: Digest, *, where: str = "") -> None:
        super().__init__(
            f"the manifest is of another network (id {theirs.hex()[:16]}…, here {ours.hex()[:16]}…), of the same trainer",
            where=where,
            hint="check the network's parameters file and its chain: one of them is not this network's",
        )
        self.ours, self.theirs = ours, theirs


class NewerManifestError(CheckpointError):
    """A manifest that the trainer signed, in a format or of a protocol version that is later than this software.

    `valid_from`: the window that it says it comes into force in; None where that cannot be read.
    """

    def __init__(self, version: int, protocol: int, valid_from: Window | None, *, where: str = "") -> None:
        super().__init__(
            f"the manifest has format {version} of protocol version {protocol}, and this software knows format "
            f"{MANIFEST_VERSION} of version {PROTOCOL_VERSION}",
            where=where,
            hint="pip install --upgrade grail-core, and the package of the role that runs here",
        )
        self.valid_from = valid_from


class CheckpointKind(Enum):
    FULL = "FULL"  # an anchor: the whole weights are offered, beside the deltas
    DELTA = "DELTA"


@dataclass(frozen=True)
class ObjectRef:
    """An immutable object, named by its content."""

    size: int  # bytes
    sha256: Digest

    @property
    def key(self) -> str:
        return OBJECT_PREFIX + self.sha256.hex()

    @classmethod
    def of(cls, data: bytes | memoryview) -> ObjectRef:
        return cls(len(data), Digest(hashlib.sha256(data).digest()))


@dataclass(frozen=True)
class FileRef:
    """An object that is one file of the model folder."""

    path: str
    object: ObjectRef


@dataclass(frozen=True)
class DeltaRef:
    """A way from the weights of checkpoint `base` to these: the concatenation of `parts` is the delta's byte stream."""

    base: Digest  # manifest digest
    base_sequence: int
    profile: str
    parts: tuple[ObjectRef, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class ManifestContent:
    """Every field of a manifest that is not derived from others; `build` turns it into a signed `CheckpointManifest`."""

    network_id: Digest
    trainer: Hotkey
    sequence: int  # 0 for the first checkpoint of a network, then one more each
    window: Window  # the window whose training made it
    valid_from: Window  # the first window it is used in
    parent: Digest | None  # the checkpoint before it; None only for sequence 0
    base: Digest | None  # the newest FULL checkpoint before it; None only where there is none
    architecture: str
    weights_root: Digest
    index: ObjectRef  # names, dtypes, shapes and digests of the tensors; its root is `weights_root`
    files: tuple[FileRef, ...]  # config, tokenizer, chat template, generation config
    shards: tuple[FileRef, ...]  # safetensors files with the whole weights; empty unless an anchor
    deltas: tuple[DeltaRef, ...]
    environment: EnvironmentSpec
    policy: GenerationPolicy
    end_token_ids: tuple[int, ...]
    tokenizer_digest: Digest
    chat_template_digest: Digest
    thinking_mode: str
    training: Mapping[str, Any] = field(default_factory=dict)  # summary for people; strings, integers, lists, mappings
    upgrade: Upgrade | None = None  # a later version of the protocol that is announced; no member where there is none

    def to_json(self) -> dict[str, Any]:
        """The canonical-JSON value that is signed: bytes as hex text, floats as decimal text."""
        return {
            "version": MANIFEST_VERSION,
            "protocol_version": PROTOCOL_VERSION,
            "network_id": self.network_id.hex(),
            "trainer": self.trainer.hex(),
            "sequence": self.sequence,
            "window": self.window,
            "valid_from": self.valid_from,
            "kind": (CheckpointKind.FULL if self.shards else CheckpointKind.DELTA).value,
            "parent": self.parent.hex() if self.parent else None,
            "base": self.base.hex() if self.base else None,
            "architecture": self.architecture,
            "weights_root": self.weights_root.hex(),
            "index": _object_json(self.index),
            "files": [{"path": f.path, **_object_json(f.object)} for f in self.files],
            "shards": [{"path": f.path, **_object_json(f.object)} for f in self.shards],
            "deltas": [
                {
                    "base": d.base.hex(),
                    "base_sequence": d.base_sequence,
                    "profile": d.profile,
                    "parts": [_object_json(part) for part in d.parts],
                }
                for d in self.deltas
            ],
            "environment": self.environment.to_json(),
            "environment_digest": self.environment.digest.hex(),
            "policy": policy_json(self.policy),
            "end_token_ids": list(self.end_token_ids),
            "tokenizer_digest": self.tokenizer_digest.hex(),
            "chat_template_digest": self.chat_template_digest.hex(),
            "thinking_mode": self.thinking_mode,
            "training": dict(self.training),
            **({} if self.upgrade is None else {"upgrade": self.upgrade.to_json()}),
        }


@dataclass(frozen=True)
class CheckpointManifest(ManifestContent):
    """A parsed manifest. `body` is its exact canonical JSON, `signature` the trainer's over `digest`."""

    body: bytes = field(default=b"", repr=False)
    signature: Signature = field(default=Signature(b""), repr=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.body)

    @cached_property
    def digest(self) -> Digest:
        """`checkpoint_digest`: H("grail/manifest", body)."""
        return tagged_hash(self.network_id, "grail/manifest", self.body)

    @property
    def kind(self) -> CheckpointKind:
        return CheckpointKind.FULL if self.shards else CheckpointKind.DELTA

    @property
    def env_digest(self) -> Digest:
        return self.environment.digest

    @property
    def policy_digest(self) -> Digest:
        return policy_digest(self.policy, self.end_token_ids, self.thinking_mode)

    @property
    def full_size(self) -> int:
        """Bytes of the shards; 0 unless an anchor."""
        return sum(shard.object.size for shard in self.shards)

    def objects(self) -> dict[Digest, ObjectRef]:
        """Every object the manifest names, by its sha256."""
        refs = [self.index, *(f.object for f in self.files), *(f.object for f in self.shards)]
        refs += [part for delta in self.deltas for part in delta.parts]
        return {ref.sha256: ref for ref in refs}

    def to_bytes(self) -> bytes:
        """What lies in the store: canonical JSON of the body and its signature."""
        return b'{"manifest":' + self.body + b',"signature":"' + self.signature.hex().encode() + b'"}'


def build(content: ManifestContent, signer: Signer) -> CheckpointManifest:
    """Sign `content`. The result is what `parse` makes of its own bytes, so nothing unreadable is ever signed.

    Raises:
        CheckpointError: a field is out of bounds, or the signer is not `content.trainer`.
    """
    if signer.hotkey != content.trainer:
        raise CheckpointError("the signer is not the trainer named in the manifest", where="trainer")
    try:
        body = canonical_json(content.to_json())
    except ValueError as error:
        raise CheckpointError(f"the manifest has no canonical JSON: {error}", hint="write floats as decimal text") from error
    digest = tagged_hash(content.network_id, "grail/manifest", body)
    raw = b'{"manifest":' + body + b',"signature":"' + signer.sign(digest).hex().encode() + b'"}'
    return parse(raw, trainer_hotkey=content.trainer, network_id=content.network_id)


def parse(raw: bytes, *, trainer_hotkey: Hotkey, network_id: Digest, where: str = "manifest") -> CheckpointManifest:
    """Read and verify a manifest. The signature is checked before any field beyond the network is looked at.

    Args:
        trainer_hotkey: the signer that the network's parameters name; no other is accepted.
        where: what to call the bytes in an error, usually the key.

    Raises:
        CheckpointError: too large, not canonical, signed by nobody or somebody else, of another network or version, or with
            a field out of bounds; the message says which.
    """
    try:
        root = parse_json(raw, most=MAX_MANIFEST_BYTES).members("manifest", "signature")
        signature = Signature(root["signature"].raw(64))
        body_node = root["manifest"]
        if not isinstance(body_node.value, dict):
            body_node.refuse("an object is expected")
        body = canonical_json(body_node.value)
    except ValueError as error:
        raise CheckpointError(f"this is no manifest: {error}", where=where) from error
    if raw != b'{"manifest":' + body + b',"signature":"' + signature.hex().encode() + b'"}':
        raise CheckpointError("the manifest is not in canonical form", where=where)
    digest = tagged_hash(network_id, "grail/manifest", body)
    if not verify(trainer_hotkey, digest, signature):
        theirs = _network_of(body_node)
        if theirs not in (None, network_id) and verify(trainer_hotkey, tagged_hash(theirs, "grail/manifest", body), signature):
            raise OtherNetworkError(network_id, theirs, where=where)
        raise CheckpointError(
            "the manifest is not signed by this network's trainer",
            where=where,
            hint="check the network's trainer hotkey and network id; if they are right, the bucket holds a forgery",
        )
    try:
        content = _content(_Members(body_node))
    except _NewerError as newer:
        raise NewerManifestError(newer.version, newer.protocol, newer.valid_from, where=where) from None
    except (ValueError, OverflowError) as error:
        raise CheckpointError(f"the manifest is out of bounds: {error}", where=where) from error
    if content.network_id != network_id or content.trainer != trainer_hotkey:
        raise CheckpointError("the manifest names another network or trainer than its signature", where=where)
    fields = {f.name: getattr(content, f.name) for f in dataclasses.fields(content)}
    return CheckpointManifest(**fields, body=body, signature=signature)


def _network_of(body: Node) -> Digest | None:
    """What a manifest of unknown signature says of its network, where it says anything."""
    try:
        return Digest(_Members(body)["network_id"].raw(32))
    except ValueError:
        return None


class _NewerError(Exception):
    def __init__(self, version: int, protocol: int, valid_from: Window | None) -> None:
        super().__init__()
        self.version, self.protocol, self.valid_from = version, protocol, valid_from


def _valid_from(m: _Members) -> Window | None:
    """What a manifest of a later format says of its window, as far as this one can tell."""
    try:
        return _window(m["valid_from"])
    except ValueError:
        return None


def _object_json(ref: ObjectRef) -> dict[str, Any]:
    return {"key": ref.key, "size": ref.size, "sha256": ref.sha256.hex()}


class _Members:
    """Known members of an object; unknown ones are tolerated."""

    def __init__(self, node: Node) -> None:
        if not isinstance(node.value, dict):
            node.refuse("an object is expected")
        self._node = node
        self._value: dict[str, Any] = node.value

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def __getitem__(self, name: str) -> Node:
        if name not in self._value:
            self._node.refuse(f"no member {name!r}")
        return Node(self._value[name], f"{self._node.path}.{name}")


def _content(m: _Members) -> ManifestContent:
    version, protocol = m["version"].integer(), m["protocol_version"].integer()
    if version > MANIFEST_VERSION or protocol > PROTOCOL_VERSION:
        raise _NewerError(version, protocol, _valid_from(m))
    if version != MANIFEST_VERSION:
        m["version"].refuse(f"manifest version {version} is not known here (known: {MANIFEST_VERSION})")
    if protocol != PROTOCOL_VERSION:
        m["protocol_version"].refuse(f"protocol version {protocol} is not known here (known: {PROTOCOL_VERSION})")
    spec = _environment(m["environment"])
    if m["environment_digest"].raw(32) != spec.digest:
        m["environment_digest"].refuse("is not the digest of the environment spec")
    content = ManifestContent(
        network_id=Digest(m["network_id"].raw(32)),
        trainer=Hotkey(m["trainer"].raw(32)),
        sequence=m["sequence"].integer(),
        window=_window(m["window"]),
        valid_from=_window(m["valid_from"]),
        parent=m["parent"].optional(_digest),
        base=m["base"].optional(_digest),
        architecture=m["architecture"].text(128),
        weights_root=_digest(m["weights_root"]),
        index=_object(m["index"]),
        files=_files(m["files"], MAX_FILES),
        shards=_files(m["shards"], MAX_SHARDS),
        deltas=tuple(_delta(node) for node in m["deltas"].items(MAX_DELTAS)),
        environment=spec,
        policy=read_policy(_Members(m["policy"])),
        end_token_ids=tuple(node.integer(0, 2**31 - 1) for node in m["end_token_ids"].items(MAX_END_TOKENS)),
        tokenizer_digest=_digest(m["tokenizer_digest"]),
        chat_template_digest=_digest(m["chat_template_digest"]),
        thinking_mode=m["thinking_mode"].text(32),
        training=_free_object(m["training"]),
        upgrade=Upgrade.from_json(m["upgrade"]) if "upgrade" in m else None,
    )
    _check_relations(m, content)
    return content


def _check_relations(m: _Members, content: ManifestContent) -> None:
    kind = m["kind"].text(8)
    if kind != (CheckpointKind.FULL if content.shards else CheckpointKind.DELTA).value:
        m["kind"].refuse(f"{kind!r} does not fit the objects that are offered")
    if content.valid_from < content.window or (content.sequence and content.valid_from == content.window):
        m["valid_from"].refuse("is not after the checkpoint's own window")
    if (content.sequence == 0) != (content.parent is None):
        m["parent"].refuse("exactly the first checkpoint has no parent")
    if not content.shards and not content.deltas:
        m["shards"].refuse("neither the whole weights nor a delta is offered")
    if any(delta.base_sequence >= content.sequence for delta in content.deltas):
        m["deltas"].refuse("a delta's base does not come before the checkpoint")
    paths = [f.path.lower() for f in (*content.files, *content.shards)]
    if len(set(paths)) != len(paths):
        m["files"].refuse("two files have the same name")
    if not content.end_token_ids or list(content.end_token_ids) != sorted(set(content.end_token_ids)):
        m["end_token_ids"].refuse("at least one id, in increasing order, is expected")


def _digest(node: Node) -> Digest:
    return Digest(node.raw(32))


def _window(node: Node) -> Window:
    value = node.integer()
    if value % WINDOW_LENGTH:
        node.refuse(f"{value} is no window: a multiple of {WINDOW_LENGTH} is expected")
    return Window(value)


def _object(node: Node) -> ObjectRef:
    m = _Members(node)
    ref = ObjectRef(m["size"].integer(0, MAX_OBJECT_BYTES), _digest(m["sha256"]))
    if m["key"].text(128) != ref.key:
        m["key"].refuse(f"an object is named by its content: {ref.key}")
    return ref


def _files(node: Node, most: int) -> tuple[FileRef, ...]:
    files = []
    for item in node.items(most):
        path = _Members(item)["path"]
        if not _FILE_NAME.fullmatch(path.text(128)):
            path.refuse(f"{str(path.value)[:80]!r} is no plain file name")
        files.append(FileRef(str(path.value), _object(item)))
    return tuple(files)


def _delta(node: Node) -> DeltaRef:
    m = _Members(node)
    parts = tuple(_object(part) for part in m["parts"].items(MAX_SHARDS))
    if not parts:
        m["parts"].refuse("a delta has at least one object")
    return DeltaRef(_digest(m["base"]), m["base_sequence"].integer(), m["profile"].text(16), parts)


def _environment(node: Node) -> EnvironmentSpec:
    m = _Members(node)
    return EnvironmentSpec(
        env_id=m["env_id"].text(128),
        version=m["version"].integer(),
        parameters=_free_object(m["parameters"]),
        data_digest=m["data_digest"].text(64),
    )


def _free_object(node: Node) -> dict[str, Any]:
    if not isinstance(node.value, dict):
        node.refuse("an object is expected")
    return node.value
