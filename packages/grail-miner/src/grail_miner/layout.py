"""What runs on which device: settings and the number of visible CUDA devices in, a layout or the reason why there is none out.

Pure: it opens no device and imports no torch. Indices count the visible devices (`CUDA_VISIBLE_DEVICES`). Every index is held
against them before anything is started; what contradicts another setting or the protocol is refused, never mended in silence.
`layout_picture` draws the result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from grail_core.errors import ConfigurationError, ProtocolViolationError
from grail_core.participant.settings import Settings
from grail_core.participant.settings_pipeline import gpu_indices

WorkerKind = Literal["in process", "threads", "processes"]


@dataclass(frozen=True)
class ProofWorkers:
    """What proves. `in process` is one worker in the miner's own process; threads and processes are several."""

    kind: WorkerKind
    devices: tuple[str, ...]  # torch devices, one per worker; a device with several workers stands there several times


@dataclass(frozen=True)
class Layout:
    """Where generation and proofs run."""

    backend: str
    why: str  # the reason that it is this backend, for a person
    visible: int  # CUDA devices
    url: str | None  # of a server that somebody else runs: where it runs is not ours to say
    generation_gpus: tuple[int, ...]  # indices, one per tensor-parallel rank; empty: the CPU, or somebody else's server
    generation_device: str | None  # torch device, where generation is in this process; else None
    memory_share: float  # of each generating GPU's memory, what the server takes
    workers: ProofWorkers
    notes: tuple[str, ...] = ()  # what is allowed and worth a look, one sentence each

    @property
    def in_process(self) -> bool:
        return self.generation_device is not None

    @property
    def shared_model(self) -> bool:
        """One copy of the weights draws and proves."""
        return self.in_process and self.workers.kind == "in process" and self.workers.devices == (self.generation_device,)

    @property
    def shared_gpus(self) -> tuple[int, ...]:
        """GPUs on which a server generates and a worker proves."""
        return tuple(gpu for gpu in self.generation_gpus if f"cuda:{gpu}" in self.workers.devices)


def plan(settings: Settings, visible: int) -> Layout:
    """The layout on a machine with so many visible CUDA devices.

    Raises:
        ProtocolViolationError: an index that no visible device has (with the index and their number), or a way to compute that
            the protocol does not allow.
        ConfigurationError: settings that contradict each other; both are named.
    """
    if settings.pipeline_proof_flash_attn:
        raise ProtocolViolationError(
            "proofs are made with SDPA alone: the proof path must match the validators', and theirs is SDPA",
            where="GRAIL_PIPELINE_PROOF_FLASH_ATTN",
            hint="set it to false, or leave it unset",
        )
    backend, why = choose_backend(settings, visible)
    if settings.pipeline_deterministic and backend != "sglang":
        raise ConfigurationError(
            f"the deterministic mode is SGLang's, and {backend} generates",
            where="GRAIL_PIPELINE_DETERMINISTIC",
            hint="leave it unset, or set GRAIL_PIPELINE_BACKEND to sglang",
        )
    url = server_url(settings, backend)
    gpus = () if url else _generation_gpus(settings, visible, backend)
    devices = _proof_devices(settings, visible, gpus if backend == "hf" else ())
    in_process = None
    if backend == "hf":  # one model draws and proves, unless a GPU is named for either
        apart = _is_set(settings, "pipeline_vllm_gpu", "pipeline_proof_gpu", "pipeline_proof_gpu_ids")
        in_process = f"cuda:{gpus[0]}" if gpus and apart else devices[0]
    workers = _workers(settings, devices)
    layout = Layout(
        backend=backend,
        why=why,
        visible=visible,
        url=url,
        generation_gpus=() if in_process else gpus,
        generation_device=in_process,
        memory_share=settings.pipeline_gpu_mem_util,
        workers=workers,
    )
    return _with_notes(layout, _unused(settings, backend, why))


def choose_backend(settings: Settings, visible: int) -> tuple[str, str]:
    """The engine, and why it is this one."""
    if settings.pipeline_backend is not None:
        return settings.pipeline_backend, "GRAIL_PIPELINE_BACKEND says so"
    if visible:
        devices = "a CUDA device is" if visible == 1 else f"{visible} CUDA devices are"
        return "sglang", f"the default where {devices} visible"
    return "hf", "the default where no CUDA device is visible"


def server_url(settings: Settings, backend: str) -> str | None:
    """The address of a server that somebody else runs.

    Raises:
        ConfigurationError: an interpreter to start one with is set too.
    """
    if backend not in ("sglang", "vllm"):
        return None
    url, python = (
        (settings.sglang_url, settings.sglang_python) if backend == "sglang" else (settings.vllm_url, settings.vllm_python)
    )
    if url and python:
        name = backend.upper()
        raise ConfigurationError(
            "a server that somebody else runs is set, and an interpreter to start one with",
            where=f"GRAIL_{name}_URL, GRAIL_{name}_PYTHON",
            hint="keep one of them",
        )
    return url or None


def _generation_gpus(settings: Settings, visible: int, backend: str) -> tuple[int, ...]:
    first, count = settings.pipeline_vllm_gpu, settings.pipeline_vllm_tp
    if not visible and not _is_set(settings, "pipeline_vllm_gpu", "pipeline_vllm_tp"):
        return ()
    last = first + count - 1
    if last >= visible:
        which = f"GPU {first}" if count == 1 else f"GPUs {first} to {last}"
        where = "GRAIL_PIPELINE_VLLM_GPU" + (", GRAIL_PIPELINE_VLLM_TP" if count > 1 else "")
        raise _not_visible(f"{which} to generate on", max(first, visible), visible, where)
    if backend == "hf" and count > 1:
        raise ConfigurationError(
            f"generation in process takes one GPU, not {count}",
            where="GRAIL_PIPELINE_VLLM_TP",
            hint="leave it unset, or set GRAIL_PIPELINE_BACKEND to sglang or vllm",
        )
    return tuple(range(first, last + 1))


def _proof_devices(settings: Settings, visible: int, beside: tuple[int, ...]) -> tuple[str, ...]:
    """Torch devices that prove, each once. `beside`: the GPU of a generation in process, whose model may prove too."""
    said = settings.device if _is_set(settings, "device") else None
    name = next((n for n in ("pipeline_proof_gpu_ids", "pipeline_proof_gpu") if _is_set(settings, n)), None)
    variable = str(Settings.model_fields[name].alias) if name else ""
    if name is None:
        indices = beside or (settings.pipeline_proof_gpu,)
    else:
        indices = gpu_indices(settings.pipeline_proof_gpu_ids) or (settings.pipeline_proof_gpu,)
    if said is None and not visible and name is None:
        return ("cpu",)
    if said is not None and said.partition(":")[0] == "cuda" and not visible:
        raise _not_visible(f"{said} to prove on", int(said[5:]) if said[5:].isdigit() else 0, visible, "GRAIL_DEVICE")
    if said is not None and (number := re.fullmatch(r"cuda:([0-9]{1,3})", said)):
        own = int(number[1])
        if name is not None and indices != (own,):
            raise _contradiction(f"proofs on {said}, and on GPU {_listed(indices)}", variable)
        indices, variable = (own,), "GRAIL_DEVICE"
    elif said is not None and said != "cuda":
        if name is not None:
            raise _contradiction(f"proofs on {said}, and on GPU {_listed(indices)}", variable)
        return (said,)
    elif said == "cuda" and name is None and not beside and visible == 1:
        indices = (0,)  # the only one is meant
    for index in indices:
        if index >= visible:
            raise _not_visible(f"GPU {index} to prove on", index, visible, variable or "GRAIL_PIPELINE_PROOF_GPU")
    return tuple(f"cuda:{index}" for index in indices)


def _workers(settings: Settings, devices: tuple[str, ...]) -> ProofWorkers:
    each = tuple(device for device in devices for _ in range(settings.pipeline_proof_workers))
    if settings.pipeline_proof_subprocess:
        return ProofWorkers("processes", each)
    return ProofWorkers("in process" if len(each) == 1 else "threads", each)


def _unused(settings: Settings, backend: str, why: str) -> list[str]:
    """Settings of an engine that nobody chose: an address or an interpreter alone does not choose it."""
    if settings.pipeline_backend is not None:
        return []
    return [
        f"{Settings.model_fields[name].alias} is set and not used: {backend} generates, {why}"
        f" (GRAIL_PIPELINE_BACKEND={engine} uses it)"
        for engine in ("sglang", "vllm")
        for name in (f"{engine}_url", f"{engine}_python")
        if engine != backend and getattr(settings, name)
    ]


def _with_notes(layout: Layout, notes: list[str]) -> Layout:
    for gpu in layout.shared_gpus:
        left = round(100 * (1 - layout.memory_share))
        notes.append(
            f"GPU {gpu} generates and proves: the server takes {round(100 * layout.memory_share)} % of its memory, and proofs"
            f" have the {left} % left (GRAIL_PIPELINE_GPU_MEM_UTIL)"
        )
    used = {
        *layout.generation_gpus,
        *(int(d[5:]) for d in (*layout.workers.devices, layout.generation_device or "") if d.startswith("cuda:")),
    }
    idle = sorted(set(range(layout.visible)) - used)
    if idle and not layout.url:
        which = f"GPU {idle[0]}: visible, and nothing runs on it"
        if len(idle) > 1:
            which = f"GPUs {_listed(tuple(idle))}: visible, and nothing runs on them"
        notes.append(which)
    if layout.visible and layout.generation_device == "cpu":
        notes.append("a CUDA device is visible, and generation runs on the CPU (GRAIL_DEVICE)")
    return replace(layout, notes=tuple(notes))


def _is_set(settings: Settings, *names: str) -> bool:
    return any(name in settings.model_fields_set for name in names)


def _listed(indices: tuple[int, ...]) -> str:
    return ", ".join(map(str, indices))


def _not_visible(what: str, index: int, visible: int, where: str) -> ProtocolViolationError:
    seen = (
        "no CUDA device is visible"
        if not visible
        else f"{visible} visible: 0 to {visible - 1}"
        if visible > 1
        else "1 visible: 0"
    )
    hint = (
        "see `nvidia-smi` and CUDA_VISIBLE_DEVICES; or set GRAIL_PIPELINE_BACKEND=hf, and leave GPU indices and GRAIL_DEVICE"
        " unset"
    )
    if not visible and where == "GRAIL_DEVICE":
        hint = "set GRAIL_DEVICE=cpu, or leave it unset; `nvidia-smi` and CUDA_VISIBLE_DEVICES say why no device is visible"
    if visible == 1:
        hint = (
            "one GPU can do both: set GRAIL_PIPELINE_PROOF_GPU=0, and GRAIL_PIPELINE_GPU_MEM_UTIL so low that the proof model"
            " fits beside the server"
        )
    elif visible:
        hint = f"use 0 to {visible - 1}; indices count the visible devices (CUDA_VISIBLE_DEVICES)"
    return ProtocolViolationError(f"{what}: there is no GPU {index} ({seen})", where=where, hint=hint)


def _contradiction(what: str, variable: str) -> ConfigurationError:
    return ConfigurationError(
        f"two places for the proof model: {what}", where=f"GRAIL_DEVICE, {variable}", hint="keep one of them"
    )
