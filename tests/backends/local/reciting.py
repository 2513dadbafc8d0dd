"""A model that says what the test wants: a real one, whose weights hold a text by its positions in the answer."""

from pathlib import Path
from typing import Any

import torch
import transformers

WIDTH = 512
POSITIONS = 1536


def write_reciting(directory: Path, tokenizer: Any, prompt: int, tokens: list[int]) -> None:
    """Write a model that answers a prompt of `prompt` tokens with these tokens, greedily, whatever the prompt says.

    Positions are far apart from each other, attention and feed-forward layers add nothing, and the head gives each
    token the sum of the positions at which it is due.
    """
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=WIDTH,
        n_layer=1,
        n_head=2,
        n_positions=POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.GPT2LMHeadModel(config)
    positions = torch.randn(POSITIONS, WIDTH)
    head = torch.zeros(len(tokenizer), WIDTH)
    for at, token in enumerate(tokens):
        head[token] += positions[prompt - 1 + at]
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
        model.transformer.wpe.weight.copy_(positions)
        for block in model.transformer.h:
            for layer in (block.attn.c_proj, block.mlp.c_proj):
                layer.weight.zero_()
                layer.bias.zero_()
        model.lm_head.weight.copy_(head)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
