"""A1 to A11: forged proofs, each as real files before the real checks.

`ATTACKS` maps each id to what runs it. The scene (network, trained tiny model, miners) is made once a run; its size is
`attacking.WHOLE` from the command line and `attacking.BRIEF` in the tests.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from grail_core.environment import Message
from grail_core.files.window_file import HEADER_KEY, SIGNATURE_KEY, read_window_file, write_window_file
from grail_core.model.policy_model import PolicyModel
from grail_core.protocol import RolloutRow, header_digest
from grail_core.protocol.types import Digest
from grail_miner.mining import Group
from tooling.adversaries.courtroom import Courtroom, changed, with_completion
from tooling.adversaries.deviations.observation import Claim, Rollout
from tooling.adversaries.scene import WHOLE, Row, Scene, open_scene, random_words, run_deviations, shared_scene

_NO_MODEL_SCALES = ("0.5", "1", "100", "heavy-tailed")


def run_a1(scene: Scene) -> Row:
    """Sketch columns that are no sketches. The file is otherwise the honest one, its signature and header untouched."""
    row = Row("A1", "file")
    court, groups = scene.before(0), scene.honest(0, 1)
    table = pq.read_table(io.BytesIO(court.pack(groups)))
    honest: list[bytes] = table.column("sketches").to_pylist()
    reserved = [np.full(len(data) // 2, -32768, "<i2").tobytes() for data in honest]
    columns = {
        "one byte short": pa.array([data[:-1] for data in honest], pa.binary()),
        "one position short": pa.array([data[:-8] for data in honest], pa.binary()),
        "one position too many": pa.array([data + bytes(8) for data in honest], pa.binary()),
        "one dimension a position": pa.array([data[: len(data) // 4] for data in honest], pa.binary()),
        "missing in one row": pa.array([b"", *honest[1:]], pa.binary()),
        "missing in all rows": pa.array([b""] * len(honest), pa.binary()),
        "reserved value": pa.array(reserved, pa.binary()),
        "reserved value once": pa.array([reserved[0][:2] + honest[0][2:], *honest[1:]], pa.binary()),
        "null": pa.array([None, *honest[1:]], pa.binary()),
        "a number": pa.array([0.0] * len(honest), pa.float64()),
        "a list of numbers": pa.array([[0] * 8] * len(honest), pa.list_(pa.int16())),
        "text": pa.array(["0"] * len(honest), pa.string()),
    }
    for name, column in columns.items():
        place = table.schema.get_field_index("sketches")
        kind = pa.field("sketches", column.type, nullable=column.null_count > 0)
        row.add(name, court.judge(_parquet(table.set_column(place, kind, column))))
    row.add("no such column", court.judge(_parquet(table.drop_columns(["sketches"]))))
    row.honest(scene.honest_ruling(0, 1))
    return row


def run_a2(scene: Scene, scales: Sequence[str] = _NO_MODEL_SCALES) -> Row:
    """No model run, at every scale of the policy's hidden states: z does not know the scale."""
    row = Row("A2", "file")
    for scale in scales:
        folder = Path(tempfile.mkdtemp(prefix="grail-scaled-"))
        try:
            model = _rescaled(scene.folders.policy, folder / "model", scale)
            with open_scene(scene.extent, store=scene.store, model=model) as scaled:
                _no_model(row, scaled, scale)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return row


def _no_model(row: Row, scene: Scene, scale: str) -> None:
    forgeries: dict[str, Callable[[RolloutRow], bytes]] = {
        "zero": lambda one: bytes(len(one.sketches)),
        "constant": lambda one: np.full(len(one.sketches) // 2, 1024, "<i2").tobytes(),
        "largest value": lambda one: np.full(len(one.sketches) // 2, 32767, "<i2").tobytes(),
        "random normal": lambda one: random_words(len(one.sketches) // 8, one.rollout),
        "one honest position repeated": lambda one: bytes(one.sketches[:8]) * (len(one.sketches) // 8),
    }
    groups = scene.honest(0, 1)
    for name, forge in forgeries.items():

        def replaced(one: RolloutRow, forge: Callable[[RolloutRow], bytes] = forge) -> RolloutRow:
            return dataclasses.replace(one, sketches=forge(one))

        row.add(f"{name}, hidden states × {scale}", scene.judge(0, changed(groups, replaced)))
    row.honest(scene.honest_ruling(0, 1))


def run_a3(scene: Scene) -> Row:
    return run_deviations(scene, Row("A3", "file"), ["sketches of another model"], 1)


def run_a4(scene: Scene) -> Row:
    row = Row("A4", "miner-window")
    groups = scene.extent.window_groups
    run_deviations(scene, row, ["4-bit weights, per channel", "4-bit weights, groups of 32"], groups)
    eight = ["8-bit weights, per channel", "8-bit weights, groups of 32"]
    return run_deviations(scene, row, eight, groups, power=True)


def run_a5(scene: Scene) -> Row:
    names = [f"previous checkpoint, lr {rate}" for rate in ("1e-6", "3e-6", "1e-5")]
    return run_deviations(scene, Row("A5", "miner-window"), names, scene.extent.window_groups, power=True)


def run_a6(scene: Scene) -> Row:
    names = ["hidden states of the layer before", "hidden states before the norm"]
    return run_deviations(scene, Row("A6", "miner-window"), names, scene.extent.window_groups)


def run_a7(scene: Scene) -> Row:
    """Another prompt: shown in the file, or hidden behind the assigned tokens."""
    row = Row("A7", "miner-window")
    court = scene.before(0)
    for name, messages in _other_prompts(court).items():
        prompt = court.loaded.renderer.render(messages)
        bench = scene.bench(0, 1)
        rollouts = bench.sample(prompts=[prompt])
        row.add(name, court.judge(court.pack(court.groups_of(rollouts, bench.prove(rollouts)))))
        hidden = [Rollout(r.group, r.rollout, (*court.prompt(0), *r.completion), len(court.prompt(0))) for r in rollouts]
        forged = court.groups_of(hidden, bench.prove(rollouts))
        row.add(f"{name}, assigned tokens claimed", court.judge(court.pack(forged)))
    return run_deviations(scene, row, ["other prompt, right tokens claimed"], scene.extent.window_groups)


def _other_prompts(court: Courtroom) -> dict[str, list[Message]]:
    environment = court.network.environment
    own = environment.messages(environment.problem(court.context.problem_seed(court.hotkey, 0)))
    easier = environment.messages(environment.problem(court.context.problem_seed(court.hotkey, 1)))
    return {
        "system prompt swapped": [Message("system", "Answer in one word."), own[-1]],
        "few-shot prefix added": [*own[:-1], easier[-1], Message("assistant", "<answer>x1=0</answer>"), own[-1]],
        "another problem": easier,
    }


def run_a8(scene: Scene) -> Row:
    """Everything a miner could wish to choose of the window's randomness: in the header, in the projections, in the seeds."""
    row = Row("A8", "file")
    court = scene.before(0)
    data = court.pack(scene.honest(0, 1))
    header = read_window_file(data).header
    other = Digest(b"\x5a" * 32)
    wishes: dict[str, dict[str, Any]] = {
        "block hash": {"block_hash": other},
        "beacon round": {"beacon_round": header.beacon_round + 1},
        "beacon signature": {"beacon_signature": bytes(48)},
        "no beacon": {"beacon_round": 0, "beacon_signature": None},
        "checkpoint": {"checkpoint_digest": other},
        "environment": {"env_digest": other},
        "sampling policy": {"policy_digest": other},
        "window": {"window": header.window + 30},
        "another hotkey": {"hotkey": scene.before(1).hotkey},
    }
    rows = [one for group in scene.honest(0, 1) for one in group.rows]
    for name, fields in wishes.items():
        wished = dataclasses.replace(header, **fields)
        signature = court.mining.signer.sign(header_digest(court.context.network_id, wished))
        row.add(f"own {name}", court.judge(write_window_file(wished, signature, rows)))
    row.add("own projections", scene.judge(0, _own_projections(scene)))
    return run_deviations(scene, row, ["wrong seeds"], 1)


def _own_projections(scene: Scene) -> list[Group]:
    """Honest hidden states under projections that the miner chose (those of another window)."""
    bench = scene.bench(0, 1)
    rollouts = bench.sample()
    own = _OtherProjections(bench.setting.projections)
    setting = bench.setting
    bench.setting = own  # type: ignore[assignment]
    claims: list[Claim] = bench.prove(rollouts)
    bench.setting = setting
    return scene.before(0).groups_of(rollouts, claims)


@dataclasses.dataclass(frozen=True)
class _OtherProjections:
    real: Callable[[int], Any]

    def projections(self, hidden: int) -> Any:
        return np.ascontiguousarray(self.real(hidden)[:, ::-1])


def run_a9(scene: Scene) -> Row:
    """Tokens changed after proving, in every rollout of one group; the claims stay those of the tokens proved."""
    row = Row("A9", "file")
    groups = scene.honest(0, 1)

    def one_token(one: RolloutRow) -> RolloutRow:
        completion = one.completion.tolist()
        at = len(completion) // 2 if len(completion) > 1 else 0
        completion[at] = _another(completion[at], scene)
        return with_completion(one, completion)

    def last_token(one: RolloutRow) -> RolloutRow:
        completion = one.completion.tolist()
        if completion[-1] != scene.court.end:  # else `termination` would have its say before the proof
            completion[-1] = _another(completion[-1], scene)
        return with_completion(one, completion)

    def order(one: RolloutRow) -> RolloutRow:
        completion = one.completion.tolist()
        at = max(0, len(completion) // 2 - 1)
        completion[at : at + 2] = completion[at : at + 2][::-1]
        return with_completion(one, completion)

    for name, change in {"one token": one_token, "last token": last_token, "order of two": order}.items():
        row.add(name, scene.judge(0, _rejudged(scene, changed(groups, change))))
    row.honest(scene.honest_ruling(0, 1))
    return row


def _another(token: int, scene: Scene) -> int:
    other = (token + 17) % scene.court.model.vocabulary_size
    return other if other > 8 else 9  # not a control token


def _rejudged(scene: Scene, groups: list[Group]) -> list[Group]:
    """With the rewards that the changed text earns, so that no earlier check speaks for the proof."""
    rows = [one for group in groups for one in group.rows]
    rollouts = [Rollout(one.group, one.rollout, tuple(one.tokens.tolist()), one.prompt_length) for one in rows]
    return scene.before(0).groups_of(rollouts, [Claim(bytes(one.sketches), one.logprobs) for one in rows])


def run_a10(scene: Scene) -> Row:
    """A second reading of the same rollout: there is no place in a file for one."""
    row = Row("A10", "file")
    court = scene.before(0)
    table = pq.read_table(io.BytesIO(court.pack(scene.honest(0, 1))))
    tokens = table.column("tokens")
    for name in ("scored_tokens", "text", "tokens"):
        row.add(f"second column {name}", court.judge(_parquet(table.append_column(pa.field(name, tokens.type), tokens))))
    row.add("columns in another order", court.judge(_parquet(table.select(table.column_names[::-1]))))
    row.add("tokens of another row", court.judge(_parquet(_rotated(table, "tokens"))))
    row.honest(scene.honest_ruling(0, 1))
    return row


def _rotated(table: pa.Table, name: str) -> pa.Table:
    values = table.column(name).to_pylist()
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array([*values[1:], values[0]], pa.binary()))


def run_a11(scene: Scene) -> Row:
    names = ["middle layer skipped", "middle layer skipped, least-squares patch", "context cut to the last tokens"]
    return run_deviations(scene, Row("A11", "miner-window"), names, scene.extent.window_groups, power=True)


RUNS: dict[str, Callable[[Scene], Row]] = {
    "A1": run_a1,
    "A2": run_a2,
    "A3": run_a3,
    "A4": run_a4,
    "A5": run_a5,
    "A6": run_a6,
    "A7": run_a7,
    "A8": run_a8,
    "A9": run_a9,
    "A10": run_a10,
    "A11": run_a11,
}
"""Every id of the family over a scene that is open already."""


def _whole(id_: str, *, seed: int = 0, tries: int = WHOLE.tries) -> dict[str, Any]:
    return RUNS[id_](shared_scene(dataclasses.replace(WHOLE, seed=seed, tries=tries))).to_json()


ATTACKS: dict[str, Callable[[], dict[str, Any]]] = {id_: partial(_whole, id_) for id_ in RUNS}
"""The rows at the size of the published table, over one scene for all of them."""


def _parquet(table: pa.Table) -> bytes:
    """As the window file is written, header and signature kept."""
    sink = io.BytesIO()
    metadata = {key: table.schema.metadata[key] for key in (HEADER_KEY, SIGNATURE_KEY)}
    pq.write_table(
        table.replace_schema_metadata(metadata), sink, compression="zstd", use_dictionary=False, write_statistics=False
    )
    return sink.getvalue()


def _rescaled(model: Path, folder: Path, scale: str) -> Path:
    """The same model with its last norm's weights scaled (the head divided by as much, so it samples alike)."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    norm, head = weights["model.norm.weight"].float(), weights["lm_head.weight"].float()
    if scale == "heavy-tailed":
        factor = torch.ones_like(norm)
        factor[:: max(1, len(factor) // 3)] = 30.0
    else:
        factor = torch.full_like(norm, float(scale))
    weights["model.norm.weight"] = (norm * factor).to(torch.bfloat16)
    weights["lm_head.weight"] = (head / factor).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    PolicyModel.load(folder)  # it must still be a model
    return folder
