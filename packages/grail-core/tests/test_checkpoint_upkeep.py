"""Retention never takes what a kept checkpoint needs, late readers catch up in few objects, and unsafe folders stay out."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from grail_core.checkpoints.cache import CheckpointCache
from grail_core.checkpoints.delta.shards import (
    MAX_HEADER_BYTES,
    create_weights,
    map_weights,
    plan_shards,
    read_header,
    shard_bytes,
)
from grail_core.checkpoints.delta.tensors import DTYPES, Layout, RawTensor, raw_state, to_torch
from grail_core.checkpoints.plan import FRAME_PROFILES, cheapest_route
from grail_core.checkpoints.publish import ANCHOR_EVERY, skip_bases
from grail_core.checkpoints.retention import retention
from grail_core.checkpoints.safety import check_model_files
from grail_core.checkpoints.transfer import export_checkpoint, import_model, save_imported
from grail_core.environment import EnvironmentSpec
from grail_core.errors import CheckpointError
from grail_core.model.prompt_trial import check_template
from grail_core.protocol.manifest import CheckpointManifest, DeltaRef, FileRef, ObjectRef
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest, Hotkey, Window

CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}


def reference(text: str, size: int = 1) -> ObjectRef:
    return ObjectRef(size, ObjectRef.of(text.encode()).sha256)


def chain(length: int, *, full: int = 10_000, delta: int = 100, gone: frozenset[int] = frozenset()) -> list[CheckpointManifest]:
    """Manifests as the publisher would make them, `gone` ones left out; delta size grows with the distance."""
    made: dict[int, CheckpointManifest] = {}
    for n in range(length):
        bases = [b for b in skip_bases(n) if b not in gone]
        anchor = n % ANCHOR_EVERY == 0 or not bases
        deltas = [
            DeltaRef(made[b].digest, b, "small", (reference(f"delta {b} {n}", int(delta * (n - b) ** 0.8)),)) for b in bases
        ]
        made[n] = CheckpointManifest(
            network_id=Digest(bytes(32)),
            trainer=Hotkey(bytes(32)),
            sequence=n,
            window=Window(30 * n),
            valid_from=Window(30 * n + 60),
            parent=made[n - 1].digest if n else None,
            base=None,
            architecture="Qwen2ForCausalLM",
            weights_root=Digest(bytes(32)),
            index=reference(f"index {n}"),
            files=(FileRef("config.json", reference("config")),),
            shards=(FileRef("model.safetensors", reference(f"full {n}", full)),) if anchor else (),
            deltas=tuple(deltas),
            environment=EnvironmentSpec("sat", 1),
            policy=GenerationPolicy(max_tokens=8),
            end_token_ids=(0,),
            tokenizer_digest=Digest(bytes(32)),
            chat_template_digest=Digest(bytes(32)),
            thinking_mode="native",
            body=f"manifest {n}".encode(),
        )
    return [manifest for n, manifest in made.items() if n not in gone]


def test_a_delta_of_an_unknown_profile_is_no_way() -> None:
    manifests = chain(14)
    newer = [
        replace(m, deltas=(DeltaRef(manifests[0].digest, 0, "unheard", (reference("tiny"),)), *m.deltas)) if m.deltas else m
        for m in manifests
    ]
    known = {m.digest: m for m in newer}
    for old, new in zip(manifests, newer, strict=True):
        route = cheapest_route(new, known, [manifests[0].digest])
        assert all(delta.profile in FRAME_PROFILES for delta, _ in route.steps)
        assert route.bytes == cheapest_route(old, {m.digest: m for m in manifests}, [manifests[0].digest]).bytes
    alone = replace(manifests[3], deltas=newer[3].deltas[:1], body=b"alone")
    with pytest.raises(CheckpointError, match="no anchor and no sequence of deltas"):
        cheapest_route(alone, known, [manifests[0].digest])
    kept = {m.sequence for m in retention(newer, newest=1).keep}
    assert kept == {m.sequence for m in retention(manifests, newest=1).keep}


def test_what_the_store_lacks_is_gone_around() -> None:
    manifests = chain(13)
    known, head = {m.digest: m for m in manifests}, manifests[12]
    lacking = {shard.object.sha256 for shard in manifests[10].shards}
    route = cheapest_route(head, known, [], lacking)
    assert route.start == manifests[0].digest
    lacking |= {part.sha256 for delta, _ in route.steps for part in delta.parts}
    other = cheapest_route(head, known, [], lacking)
    assert not lacking & {part.sha256 for delta, _ in other.steps for part in delta.parts}
    lacking |= {ref.sha256 for m in manifests for ref in m.objects().values()}
    with pytest.raises(CheckpointError, match="no anchor and no sequence of deltas"):
        cheapest_route(head, known, [], lacking)


@settings(max_examples=200)
@given(
    st.integers(1, 90),
    st.integers(1, 30),
    st.one_of(st.none(), st.integers(0, 5)),
    st.sets(st.integers(0, 80), max_size=6),
)
def test_no_kept_checkpoint_ever_loses_an_object_it_needs(
    length: int, newest: int, anchors: int | None, gone: set[int]
) -> None:
    manifests = chain(length, gone=frozenset(gone - {length - 1}))
    plan = retention(manifests, newest=newest, newest_anchors=anchors)
    kept = {m.digest: m for m in plan.keep}
    deleted = {ref.sha256 for ref in plan.unreferenced}
    assert set(manifests[-newest:]) <= set(plan.keep)
    assert manifests[0] in plan.keep
    assert not deleted & {sha256 for m in plan.keep for sha256 in m.objects()}
    assert deleted <= {sha256 for m in plan.retire for sha256 in m.objects()}
    before = {m.digest: m for m in manifests}
    for manifest in plan.keep:
        route = cheapest_route(manifest, kept, [])
        assert route.start in kept
        assert cheapest_route(manifest, before, []).bytes <= route.bytes
    again = retention(plan.keep, newest=newest, newest_anchors=anchors)
    assert again.keep == plan.keep
    assert not again.unreferenced


def test_a_reader_37_windows_behind_fetches_at_most_eight_objects() -> None:
    manifests = chain(120, full=1_000_000_000, delta=10_000_000)
    known = {m.digest: m for m in manifests}
    worst = 0
    for target in manifests[37:]:
        held = manifests[target.sequence - 37]
        route = cheapest_route(target, known, [held.digest])
        assert route.start == held.digest
        worst = max(worst, route.objects)
        newcomer = cheapest_route(target, known, [])
        assert newcomer.objects <= 5
    assert 2 <= worst + 1 <= 8  # and the index of the target


def test_the_way_is_chosen_by_what_it_costs() -> None:
    manifests = chain(41, full=500, delta=400)
    known = {m.digest: m for m in manifests}
    route = cheapest_route(manifests[40], known, [manifests[3].digest])
    assert (route.fetch_start, route.start, route.steps) == (True, manifests[40].digest, ())
    with pytest.raises(CheckpointError, match="no anchor and no sequence of deltas leads to checkpoint 5"):
        cheapest_route(manifests[5], {manifests[5].digest: manifests[5]}, [])


def write_model(folder: Path, *, tied: bool = True, config: dict[str, object] | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    weights = {"model.embed_tokens.weight": torch.randn(10, 4), "model.norm.weight": torch.ones(4)}
    if tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": tied, **(config or {})}))
    (folder / "tokenizer.json").write_text("{}")
    return weights


def test_an_imported_model_is_cast_once_and_its_tied_head_is_not_published_twice(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "model")
    imported = import_model(tmp_path / "model")
    assert set(imported.weights) == {"model.embed_tokens.weight", "model.norm.weight"}
    assert imported.parameters == 44
    assert imported.nbytes == 88
    embedding = to_torch(imported.weights["model.embed_tokens.weight"])
    assert torch.equal(embedding, weights["model.embed_tokens.weight"].bfloat16())
    assert json.loads(imported.files.files["config.json"])["dtype"] == "bfloat16"


def test_an_imported_model_is_saved_as_a_folder_that_loads_with_the_same_weights(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    imported = import_model(tmp_path / "model")
    save_imported(imported, tmp_path / "saved")
    again = import_model(tmp_path / "saved")
    assert {n: t.bits.tobytes() for n, t in again.weights.items()} == {n: t.bits.tobytes() for n, t in imported.weights.items()}
    assert again.files.files == imported.files.files
    with pytest.raises(CheckpointError, match="something in this folder"):
        save_imported(imported, tmp_path / "saved")


def test_weights_that_are_not_finite_are_not_imported(tmp_path: Path) -> None:
    write_model(tmp_path / "model")  # the configuration of the tests before, which is not tried again
    save_file({"w": torch.tensor([1.0, float("nan")])}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match="not finite"):
        import_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling_evil.Model"}}, "asks for code to be loaded"),
        ({"text_config": {"auto_map": {"AutoModel": "x.Y"}}}, "asks for code to be loaded"),
        ({"architectures": ["A", "B"]}, "does not name one architecture"),
    ],
)
def test_a_config_that_asks_for_code_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_model(tmp_path / "model", config=change)
    with pytest.raises(CheckpointError, match=message):
        import_model(tmp_path / "model")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        import_model(tmp_path / "model")


@pytest.mark.parametrize("name", ["modeling.py", "../config.json", "a/b.json", "pytorch_model.bin", ".hidden", "model.pkl"])
def test_a_file_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="not one a checkpoint may hold"):
        check_model_files({"config.json": json.dumps(CONFIG).encode(), name: b"{}"})


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%d %b %Y') }}",
        "{% if strftime_now is defined %}{% set date = strftime_now('%Y') %}{% endif %}{{ date }}",
        "{% set f = strftime_now %}{{ f('%Y') }}",
        "{{ messages.datetime.now() }}",
        "{{ [1, 2, 3] | random }}",
        "{{ lipsum(5) }}",
        "{{ cycler.__init__.__globals__.os.environ }}",
        "{% include 'other' %}",
        "{{ unclosed ",
    ],
)
def test_a_template_that_reads_a_clock_or_worse_is_refused(template: str) -> None:
    with pytest.raises(CheckpointError):
        check_template(template, where="template")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% endfor %}",
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
        "{% set ns = namespace(time=0) %}{{ raise_exception('no') if not messages }}",
        "{%- set date_string = '26 Jul 2024' %}Today: {{ date_string }}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    ],
)
def test_an_ordinary_template_is_accepted(template: str) -> None:
    check_template(template, where="template")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "ended with code -24"),
        ("{{ 'x' * 10 ** 10 }}", "512 MiB"),
        ("{{ messages[0].content.center(10 ** 10) }}", "512 MiB"),
        ("{% set ns = namespace(t='x') %}{% for a in range(40) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}", "512 MiB"),
        ("{{ messages[0].content * 40 }}", "characters for a conversation"),
        ("{{ 9 ** (9 ** 9) }}", "ended with code -24"),
        ("{% macro f(n) %}{{ f(n) ~ f(n) if n }}{% endmacro %}{{ f(1) }}{{ now }}", "clock"),
        ("{{ raise_exception('tools only') }}", "renders no conversation: tools only"),
    ],
)
def test_a_template_that_takes_more_than_its_limits_is_refused_before_anybody_renders_it(template: str, message: str) -> None:
    files = {"config.json": json.dumps(CONFIG).encode(), "chat_template.jinja": template.encode()}
    with pytest.raises(CheckpointError, match=message):
        check_model_files(files)


def test_a_template_that_refuses_a_conversation_is_no_worse_for_it() -> None:
    template = b"{{ raise_exception('no system turn') if messages[0].role == 'system' }}{{ messages[0].content }}"
    check_model_files({"config.json": json.dumps(CONFIG).encode(), "chat_template.jinja": template})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("config.json", b'{"a": ' * 900 + b"1" + b"}" * 900, "architecture"),
        ("config.json", b"[" * 10**6, "no JSON"),
        ("config.json", b'{"architectures": ["A"], "architectures": ["B"]}', "twice"),
        ("config.json", b" " * (1 << 20) + b"{}", "the limit is 1048576"),
        ("tokenizer_config.json", b" " * (8 << 20) + b"{}", "the limit is 8388608"),
    ],
)
def test_a_hostile_file_beside_the_weights_is_refused(name: str, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_model_files({"config.json": json.dumps(CONFIG).encode(), name: data})


def test_an_exported_folder_is_whole_and_never_overwrites(tmp_path: Path) -> None:
    write_model(tmp_path / "cached", tied=False)
    (tmp_path / "cached" / "grail-manifest.json").write_text("{}")
    export_checkpoint(tmp_path / "cached", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("config.json", "grail-manifest.json", "model.safetensors", "tokenizer.json"),
    ]
    with pytest.raises(CheckpointError, match="something in this folder already"):
        export_checkpoint(tmp_path / "cached", tmp_path / "out")


def sample_state() -> dict[str, RawTensor]:
    torch.manual_seed(1)
    return raw_state(
        {
            "odd": torch.arange(5, dtype=torch.uint8),
            "w": torch.randn(7, 3, dtype=torch.bfloat16),
            "empty": torch.zeros(0, 4),
            "scalar": torch.tensor(2.5, dtype=torch.float64),
            "big": torch.randn(100, dtype=torch.float32),
        }
    )


@pytest.mark.parametrize("limit", [64, 1 << 20])
def test_files_that_we_write_are_read_by_the_safetensors_library(tmp_path: Path, limit: int) -> None:
    state = sample_state()
    plans = plan_shards({n: t.layout for n, t in state.items()}, limit)
    made = create_weights(tmp_path, {n: t.layout for n, t in state.items()}, limit)
    for name, tensor in state.items():
        made[name].bits[:] = tensor.bits
    loaded = {}
    for plan in plans:
        assert (tmp_path / plan.name).read_bytes() == shard_bytes(plan, state)
        loaded.update(load_file(tmp_path / plan.name))
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(loaded[name], to_torch(tensor))
        assert (map_weights(tmp_path)[name].bits == tensor.bits).all()


@settings(max_examples=150)
@given(st.data())
def test_a_hostile_safetensors_header_is_refused_or_means_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    state = {"w": RawTensor(Layout(DTYPES["BF16"], (4, 4)), np.arange(16, dtype=np.uint16))}
    raw = bytearray(shard_bytes(plan_shards({n: t.layout for n, t in state.items()})[0], state))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 33))] = data.draw(st.integers(0, 255))
    path = folder / "model.safetensors"
    path.write_bytes(bytes(raw))
    try:
        placed = read_header(path)
    except CheckpointError:
        return
    assert sum(item.layout.nbytes for item in placed.values()) == 32
    assert all(0 < item.start <= len(raw) - item.layout.nbytes for item in placed.values())


def test_the_cache_evicts_the_least_recently_used_and_never_what_is_kept(tmp_path: Path) -> None:
    cache = CheckpointCache(tmp_path, limit_bytes=2500)
    digests = [Digest(bytes([n]) * 32) for n in range(4)]
    for n, digest in enumerate(digests):
        with cache.building(digest, b"manifest") as folder:
            (folder / "model.safetensors").write_bytes(bytes(1000))
        stamp = 1_000_000 + n
        os.utime(cache.folder(digest), (stamp, stamp))
    cache.trim(keep={digests[0]})
    assert cache.entries() == [digests[0], digests[3]]


def test_an_entry_whose_making_fails_does_not_exist(tmp_path: Path) -> None:
    cache = CheckpointCache(tmp_path)
    digest = Digest(b"\x01" * 32)

    def die(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError), cache.building(digest, b"manifest") as folder:
        die(folder)
    assert cache.entry(digest) is None
    assert not list((tmp_path / "checkpoints").iterdir())


def header_file(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


TENSOR = '{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[" * 10**6, "parts"),
        (b'{"a":' * 30_000, "nested too deeply"),
        (b'{"a":[' + b"[]," * 10**6 + b"[]]}", "parts"),
        (b"{" + b",".join(b'"%x":0' % number for number in range(300_000)) + b"}", "parts"),
        (b'{"a":{"dtype":"F32","shape":[1000000000000000000],"data_offsets":[0,8]}}', "a"),
        (b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}', "a"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}', "outside"),
        (b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}', "F99"),
        (f'{{"a":{TENSOR % (0, 8)},"a":{TENSOR % (0, 8)}}}'.encode(), "twice"),
        (f'{{"a":{TENSOR % (0, 8)},"b":{TENSOR % (0, 8)}}}'.encode(), "overlaps"),
        (f'{{"a":{TENSOR % (0, 8)},"b":{TENSOR % (4, 12)}}}'.encode(), "overlaps"),
        (f'{{"a":{TENSOR % (8, 16)}}}'.encode(), "hole"),
        (f'{{"a":{TENSOR % (0, 80)}}}'.encode(), "80 bytes for a tensor"),
    ],
)
def test_a_hostile_header_is_refused_and_costs_little(tmp_path: Path, header: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_header(header_file(tmp_path / "model.safetensors", header, bytes(8)))


def test_a_header_longer_than_any_shards_is_not_read(tmp_path: Path) -> None:
    path = header_file(tmp_path / "model.safetensors", b"{}" + b" " * MAX_HEADER_BYTES)
    with pytest.raises(CheckpointError, match="out of bounds"):
        read_header(path)
