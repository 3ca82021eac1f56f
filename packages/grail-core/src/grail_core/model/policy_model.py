"""The one forward pass that miner and validator share: token rows → final hidden states → float32 logits.

Section 5 of the protocol: base model, final hidden state after the last norm, no cache, no padding mask, rows padded on the
right; the language-model head is applied only to the positions asked for, in float32, from the bf16 hidden states and head
weights, and never rounded to bf16. A model is a local folder of safetensors; code from a folder is never run.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from grail_core.errors import CheckpointError, ConfigurationError, StorageError, is_out_of_memory
from grail_core.model.architecture import context_length, require_describable
from grail_core.model.errors import OutOfVocabularyError, OverlongSequenceError, no_model_folder

Attention = Literal["sdpa", "eager"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# Heads up to this size (float32) are kept as a float32 copy on the CPU. A tiny model's head costs 0.1 MB; a head of
# 151,936 × 896 would cost 545 MB, and is cast in blocks instead.
_HEAD_COPY_BYTES = 32 * 2**20
# A block that stays in the second-level cache between the cast and the product: at 32 rows, V 151,936, twice as fast as 16 MiB.
_HEAD_BLOCK_BYTES = 2**20


class PolicyModel:
    """A causal language model as the proof sees it. One forward pass at a time: methods hold `lock`.

    Attributes:
        module: the Transformers model, in evaluation mode, without gradients asked for.
        lock: held during every forward pass and weight change; take it to read weights consistently.
        weights_version: grows with every change that `weights_changed` tells of: what was made of them before is out of date.
    """

    def __init__(self, module: Any) -> None:
        """Wrap a Transformers causal model that exists already (the trainer's, a test's). Sets evaluation mode.

        Raises:
            CheckpointError: it is not what the protocol describes (`require_describable`), or could draw tokens that it has
                no embedding for.
        """
        require_describable(module)
        # `module.to(bfloat16)` also rounds the table of rotary frequencies, which a folder does not hold and loading computes
        # anew in float32: such a model drifts from every participant's. A single number (the scale of Gemma's embeddings) is in
        # the weights' type wherever the folder is loaded.
        kept = module.state_dict().keys()
        for name, buffer in module.named_buffers():
            if name not in kept and buffer.dim() and buffer.is_floating_point() and buffer.dtype != torch.float32:
                raise CheckpointError(
                    f"the buffer {name} was rounded to {buffer.dtype}",
                    where=type(module).__name__,
                    hint="cast the parameters alone (`parameter.data = parameter.data.to(...)`), or save the model and load it",
                )
        self.module: Any = module.eval()
        self.lock = threading.RLock()
        self.weights_version = 0
        self._base: Any = self.module.base_model
        head = self.module.get_output_embeddings()
        self._head_weight: Tensor = head.weight
        self._head_bias: Tensor | None = getattr(head, "bias", None)
        self._head_copy: tuple[int, Tensor] | None = None  # (weight version, float32 copy)
        self.vocabulary_size = int(head.weight.shape[0])
        self.hidden_size = int(head.weight.shape[1])
        self.embedding_rows = int(self.module.get_input_embeddings().weight.shape[0])
        if self.embedding_rows < self.vocabulary_size:
            raise CheckpointError(
                f"{self.vocabulary_size} tokens can be drawn, but only {self.embedding_rows} can be read",
                where=type(module).__name__,
                hint="make embedding and head of one size (`resize_token_embeddings`)",
            )
        self.context_length = context_length(module)
        self.layers = int(module.config.num_hidden_layers)
        self.config_file: bytes | None = None  # of the folder that it was loaded from

    @classmethod
    def load(
        cls, folder: str | Path, *, attention: Attention = "sdpa", dtype: str = "bfloat16", device: str = "cpu"
    ) -> PolicyModel:
        """Load a local folder in Transformers' layout (config.json, *.safetensors).

        Raises:
            CheckpointError: no such folder, no safetensors, code or quantisation in the configuration, an unknown
                architecture, or tensors that are missing, left over or of the wrong shape.
            ConfigurationError: torch cannot use this device here.
            StorageError: the system refuses to read it.
        """
        require_device(device)
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # a service's log is no place for it

        folder = Path(folder)
        config_file = _check_folder(folder)
        if dtype not in _DTYPES:
            raise CheckpointError(f"no such dtype: {dtype}", hint=f"one of {', '.join(_DTYPES)}")
        try:
            module, info = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=_DTYPES[dtype],
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # Transformers raises many kinds for a bad folder
            if is_out_of_memory(error):
                raise  # nothing is wrong with the folder
            if isinstance(error, OSError) and error.errno is not None:  # the system's, not Transformers' word for a bad folder
                raise StorageError(
                    f"the model's files cannot be read: {error.strerror}",
                    where=str(folder),
                    hint="look at the device and at this user's limits",
                ) from error
            raise CheckpointError(
                f"the model cannot be loaded: {type(error).__name__}: {error}",
                where=str(folder),
                hint="the folder needs config.json and model*.safetensors of a causal model that Transformers knows",
            ) from error
        problems = {
            name: sorted(map(str, info.get(name) or ())) for name in ("missing_keys", "mismatched_keys", "unexpected_keys")
        }
        if any(problems.values()):
            text = "; ".join(f"{name.replace('_', ' ')}: {', '.join(keys[:3])}" for name, keys in problems.items() if keys)
            raise CheckpointError(
                f"the tensors do not fit the configuration ({text})",
                where=str(folder),
                hint="config.json and weights must be of one model: save it anew with save_pretrained(folder)",
            )
        model = cls(module.to(device).requires_grad_(False))
        model.config_file = config_file
        return model

    @property
    def dtype(self) -> torch.dtype:
        return self._head_weight.dtype

    @property
    def device(self) -> torch.device:
        return self._head_weight.device

    @property
    def attention(self) -> str:
        return str(self.module.config._attn_implementation)

    @contextmanager
    def attending(self, attention: str) -> Iterator[None]:
        """With this kind of attention, bit for bit as a model that was loaded with it. Holds the lock throughout."""
        with self.lock:
            own = self.attention
            if attention == own:
                yield
                return
            self.module.set_attn_implementation(attention)
            try:
                yield
            finally:
                self.module.set_attn_implementation(own)

    @property
    def head_weight(self) -> Tensor:
        """[vocabulary, hidden_size], the head's live weights."""
        return self._head_weight

    @property
    def head_bias(self) -> Tensor | None:
        """[vocabulary], of the few architectures that have one."""
        return self._head_bias

    @property
    def base(self) -> Any:
        """The Transformers model without its head; `generation.hf` decodes with it."""
        return self._base

    def check_rows(self, rows: Sequence[Sequence[int]]) -> None:
        """Refuse token ids without an embedding or without a logit, and rows beyond the context, before any tensor is made.

        Raises:
            OutOfVocabularyError, OverlongSequenceError
        """
        size = min(self.vocabulary_size, self.embedding_rows)
        for index, row in enumerate(rows):
            if len(row) == 0:
                raise OverlongSequenceError("a row without tokens", where=f"row {index}")
            if len(row) > self.context_length:
                raise OverlongSequenceError(
                    f"{len(row)} tokens, but the context has {self.context_length}",
                    where=f"row {index}",
                    hint="the context is max_position_embeddings in config.json: use a model with a longer one",
                )
            low, high = min(row), max(row)
            if low < 0 or high >= size:
                bad = low if low < 0 else high
                raise OutOfVocabularyError(f"token id {bad} is outside the vocabulary of {size}", where=f"row {index}")

    @torch.inference_mode()
    def hidden_states(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Final hidden states of one proof batch, in one forward pass.

        Args:
            rows: token ids (prompt + completion), at most PROOF_BATCH_SIZE rows by the protocol; the order and the longest row
                are part of what both sides must agree on, since they decide the shapes of the matrix products.

        Returns:
            One tensor [len(row), hidden_size] per row, in the model's dtype, on its device.

        Raises:
            OutOfVocabularyError, OverlongSequenceError
        """
        self.check_rows(rows)
        longest = max(len(row) for row in rows)
        tokens = torch.zeros((len(rows), longest), dtype=torch.long)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        with self.lock:
            output = self._base(input_ids=tokens.to(self.device), use_cache=False).last_hidden_state
        return [output[index, : len(row)] for index, row in enumerate(rows)]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [n, vocabulary]: hidden [n, hidden_size] times the head's weights, accumulated in float32.

        Memory beyond the result: none worth naming where the head's float32 copy is kept, else one block of the head in
        float32 (1 MiB).
        """
        weight = self._head_weight
        if weight.device.type == "cuda" and weight.dtype != torch.float32:
            result = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        elif weight.numel() * 4 <= _HEAD_COPY_BYTES or weight.dtype == torch.float32:
            result = hidden.float() @ self._float_head().t()
        else:
            # The CPU has no bf16 product with a float32 result (torch.mm's out_dtype is CUDA only).
            wide = hidden.float()
            result = torch.empty((hidden.shape[0], weight.shape[0]), dtype=torch.float32)
            step = max(1, _HEAD_BLOCK_BYTES // (4 * weight.shape[1]))
            for start in range(0, weight.shape[0], step):
                torch.mm(wide, weight[start : start + step].float().t(), out=result[:, start : start + step])
        if self._head_bias is not None:
            result += self._head_bias.float()
        return result

    def _float_head(self) -> Tensor:
        version = self._head_weight._version
        if self._head_copy is None or self._head_copy[0] != version:
            self._head_copy = (version, self._head_weight.float())
        return self._head_copy[1]

    def state(self) -> dict[str, Tensor]:
        """The live weights by their name in the safetensors files; a tied tensor appears once. Writing into them is allowed
        while holding `lock`, followed by `weights_changed()`."""
        aliases = set(getattr(self.module, "_tied_weights_keys", None) or ())
        state: dict[str, Tensor] = {}
        seen: dict[int, str] = {}
        for name, tensor in sorted(self.module.state_dict().items(), key=lambda item: (item[0] in aliases, item[0])):
            if tensor.data_ptr() in seen and tensor.numel():
                continue
            seen[tensor.data_ptr()] = name
            state[name] = tensor.detach()
        return state

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace all weights in place, so that a delta can be applied to a model in use. All or nothing.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape or dtype differs; the model is untouched then.
        """
        live = self.state()
        known_aliases = set(getattr(self.module, "_tied_weights_keys", None) or ())
        given = {name: tensor for name, tensor in tensors.items() if name in live or name not in known_aliases}
        if given.keys() != live.keys():
            missing, unknown = sorted(live.keys() - given.keys()), sorted(given.keys() - live.keys())
            raise CheckpointError(f"the tensors are not those of the model: missing {missing[:3]}, unknown {unknown[:3]}")
        for name, tensor in given.items():
            if tensor.shape != live[name].shape or tensor.dtype != live[name].dtype:
                ours = live[name]
                raise CheckpointError(
                    f"tensor {name} is {tensor.dtype} {tuple(tensor.shape)}, the model's is {ours.dtype} {tuple(ours.shape)}"
                )
        with self.lock:
            for name, tensor in given.items():
                live[name].copy_(tensor)
            self.weights_changed()

    def weights_changed(self) -> None:
        """Forget what was derived from the weights. Call after writing into the tensors of `state()`."""
        self._head_copy = None
        self.weights_version += 1


def _check_folder(folder: Path) -> bytes:
    """Its config.json."""
    if not folder.is_dir():
        raise no_model_folder(folder)
    try:
        data = (folder / "config.json").read_bytes()
        config = json.loads(data.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"config.json cannot be read: {error}", where=str(folder)) from error
    if not isinstance(config, dict):
        raise CheckpointError("config.json is not an object", where=str(folder))
    for key in ("auto_map", "quantization_config"):
        if key in config:
            raise CheckpointError(
                f"config.json has {key}: only plain models without code of their own are loaded", where=str(folder)
            )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            "no safetensors file in the model folder", where=str(folder), hint="convert the weights to safetensors"
        )
    return data


def require_device(device: str) -> None:
    """Raises ConfigurationError where torch cannot use this device: at start, before a window is lost to it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ConfigurationError(
            f"{device!r} is no device that can be used here: {str(error).splitlines()[0][:200]}",
            where="GRAIL_DEVICE",
            hint="cpu, or cuda with a GPU and a build of torch for it",
        ) from error
