"""A small Llama made for comparing: every token is one letter, and its logits are exact.

One letter a token: a text that a watcher put together is its tokens, one by one, and a lost one is
a missing letter.

Exact logits: matrix products round differently with another batch size, and a draw that lies at a
boundary then comes out differently, which would look like a fault's doing. Here the residual stream
is the last token's embedding, of 1 and -1 only (attention and MLP are computed, and add 0), and the
output weights are multiples of 2**-16, so every sum is exact in float32 in any order. What
depends on all earlier tokens are the penalties, which the jobs set.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

LETTERS = string.ascii_letters + string.digits
CONTEXT_LENGTH = 1024
_EOS = "<eos>"
_STEP = 2.0**-16


def write_letter_model(path: Path, *, seed: int = 0) -> Path:
    """Write config, weights and tokenizer; the same seed gives the same model.

    Its size decides how long a job lasts: some milliseconds a token on one CPU core, so that
    a job of some hundred tokens is there to be hit.
    """
    vocab = {_EOS: 0} | {letter: i + 1 for i, letter in enumerate(LETTERS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_EOS).save_pretrained(path)

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        bos_token_id=None,
        eos_token_id=0,
        rms_norm_eps=0.0,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings = model.model.embed_tokens.weight
        embeddings.copy_(torch.randint(0, 2, embeddings.shape) * 2.0 - 1.0)
        head = model.lm_head.weight
        head.copy_(torch.round(torch.randn(head.shape) * 0.15 / _STEP) * _STEP)
        # The end token has no letter, so it never comes: its logit is always -64.
        embeddings[:, 0] = 1.0
        head[0] = 0.0
        head[0, 0] = -64.0
    hf_logging.disable_progress_bar()
    model.save_pretrained(path)
    return path
