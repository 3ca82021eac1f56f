"""A model of random weights over bytes, for who has none at hand: it shows that all runs, and no real model's figures."""

from __future__ import annotations

from pathlib import Path

TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}> {% endif %}"
_END = "<end>"
_SEED = 11


def synthetic_model(folder: Path) -> Path:
    """An ordinary Transformers folder of about 0.2 MB. Returns `folder`. Leaves torch's random state as it was."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), _END]
    config = Qwen2Config(
        vocab_size=len(alphabet),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=len(alphabet) - 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder
