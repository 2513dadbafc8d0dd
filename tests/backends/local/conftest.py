"""Tiny models, made on the spot: byte-level tokenizers and random weights, as directories that load like real ones."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache that nothing but the test fills, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    root = tmp_path / "hub"
    root.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return root


@pytest.fixture
def cached(hub) -> Callable[[str], Path]:
    """Return the snapshot directory of a hub id in that cache, made as the hub's client makes it."""

    def snapshot(name: str) -> Path:
        revision = "0123456789abcdef0123456789abcdef01234567"
        repo = hub / f"models--{name.replace('/', '--')}"
        directory = repo / "snapshots" / revision
        directory.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(revision)
        return directory

    return snapshot


def write_config(directory: Path, **config) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


SPECIALS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")

CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def byte_tokenizer():
    """Return a maker of byte-level tokenizers: one id a byte, special tokens first, `<s>` in front of raw text."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")

    def make(template: str | None = None, more: tuple[str, ...] = ()):
        alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
        vocab = {token: index for index, token in enumerate([*SPECIALS, *more, *alphabet])}
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = tokenizers.decoders.ByteLevel()
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
        )
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<s>",
            eos_token="</s>",
            pad_token="<pad>",
            additional_special_tokens=[*SPECIALS[3:], *more],
            chat_template=template,
        )

    return make


@pytest.fixture
def tiny_llama(byte_tokenizer):
    """Return a function that writes a tiny random Llama with its tokenizer into a directory."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def write(directory: Path, *, template: str | None = None, dtype=None, **generation):
        torch.manual_seed(0)
        tokenizer = byte_tokenizer(template)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=96,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = transformers.LlamaForCausalLM(config).to(dtype or torch.float32)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        if generation:
            (directory / "generation_config.json").write_text(json.dumps(generation))
        return model

    return write


@pytest.fixture
def varied_llama(tmp_path, byte_tokenizer):
    """Return a function that writes a random Llama whose greedy output is varied; gives directory, model, tokenizer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def write(template: str, *, seed: int, context: int, more: tuple[str, ...] = (), **sizes: int):
        torch.manual_seed(seed)
        tokenizer = byte_tokenizer(template, more)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=2,
            **{"hidden_size": 48, "intermediate_size": 64} | sizes,
        )
        model = transformers.LlamaForCausalLM(config).eval()
        model.save_pretrained(tmp_path / "tiny")
        tokenizer.save_pretrained(tmp_path / "tiny")
        return tmp_path / "tiny", model, tokenizer

    return write


@pytest.fixture
def reciting(tmp_path, byte_tokenizer):
    """Return a function that makes a model with a template, and with a text for its answer to one request."""
    pytest.importorskip("torch")
    from backends.local.reciting import write_reciting
    from illm.backends.local.prompt import PromptRenderer
    from illm.dialects.openai import parse_chat

    def make(template: str, answer: str, request: dict, more: tuple[str, ...] = ()):
        tokenizer = byte_tokenizer(template, more)
        renderer = PromptRenderer(tokenizer, len(tokenizer))
        chat = parse_chat(request)
        prompt = len(renderer.chat(chat.messages, renderer.style().ask(chat)))
        tokens = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
        write_reciting(tmp_path / "model", tokenizer, prompt, tokens)
        return tmp_path / "model"

    return make
