"""Tiny random models that look at pictures, one of each family, written out as directories that load like real ones.

Weights are drawn wide, so that another picture makes another answer.
"""

import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from PIL import Image as Pixels
from transformers import GenerationConfig

POSITIONS = 1024
SPECIALS = (
    "<pad>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)),
)  # fmt: skip
_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}


def template(placeholder: str) -> str:
    return (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}" + placeholder + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )


def tokenizer(chat_template: str | None) -> Any:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIALS[3:]),
        chat_template=chat_template,
    )


def _llava(words: Any) -> tuple[Any, Any, dict[str, Any]]:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            image_size=24, patch_size=8, projection_dim=32, **_TOWER | {"num_hidden_layers": 3}
        ),
        text_config=transformers.LlamaConfig(vocab_size=len(words), **_TEXT),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=9,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        initializer_range=0.3,
    )
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    said = {
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
        "processor_class": "LlavaProcessor",
    }
    return config, images, said


def _llava_next(words: Any) -> tuple[Any, Any, dict[str, Any]]:
    grid = {"image_grid_pinpoints": [[24, 48], [48, 24], [48, 48]]}
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(
            image_size=24, patch_size=8, projection_dim=32, **_TOWER | {"num_hidden_layers": 3}
        ),
        text_config=transformers.LlamaConfig(vocab_size=len(words), **_TEXT),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        initializer_range=0.3,
        **grid,
    )
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, **grid
    )
    said = {
        "patch_size": 8,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": "<image>",
        "processor_class": "LlavaNextProcessor",
    }
    return config, images, said


def _idefics(kind: str) -> Callable[[Any], tuple[Any, Any, dict[str, Any]]]:
    def make(words: Any) -> tuple[Any, Any, dict[str, Any]]:
        config = getattr(transformers, f"{kind}Config")(
            vision_config={"image_size": 16, "patch_size": 4, **_TOWER},
            text_config=transformers.LlamaConfig(vocab_size=len(words), **_TEXT),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            pad_token_id=0,
            initializer_range=0.3,
        )
        processor = getattr(transformers, f"{kind}ImageProcessorPil")
        images = processor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
        return config, images, {"image_seq_len": 4, "processor_class": f"{kind}Processor"}

    return make


def _qwen(kind: str, vision: dict[str, Any]) -> Callable[[Any], tuple[Any, Any, dict[str, Any]]]:
    def make(words: Any) -> tuple[Any, Any, dict[str, Any]]:
        tokens = {
            f"{name}_token_id": words.convert_tokens_to_ids(f"<|{token}|>")
            for name, token in (
                ("image", "image_pad"),
                ("video", "video_pad"),
                ("vision_start", "vision_start"),
                ("vision_end", "vision_end"),
            )
        }
        config = getattr(transformers, f"{kind}Config")(
            vision_config={
                "depth": 2, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "initializer_range": 0.3, **vision
            },
            text_config={
                "vocab_size": len(words),
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
                **_TEXT,
            },
            initializer_range=0.3,
            **tokens,
        )  # fmt: skip
        images = transformers.Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, size={"shortest_edge": 16 * 16, "longest_edge": 40 * 40}
        )
        return config, images, {"processor_class": f"{kind}Processor"}

    return make


_FAMILIES: dict[str, tuple[str, Callable[[Any], tuple[Any, Any, dict[str, Any]]]]] = {
    "llava": ("<image>", _llava),
    "llava_next": ("<image>", _llava_next),
    "idefics3": ("<image>", _idefics("Idefics3")),
    "smolvlm": ("<image>", _idefics("SmolVLM")),
    "qwen2_vl": (
        "<|vision_start|><|image_pad|><|vision_end|>",
        _qwen("Qwen2VL", {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2}),
    ),
    "qwen2_5_vl": (
        "<|vision_start|><|image_pad|><|vision_end|>",
        _qwen(
            "Qwen2_5_VL",
            {
                "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 48,
                "window_size": 16, "fullatt_block_indexes": [1],
            },
        ),
    ),
}  # fmt: skip
NAMES = tuple(_FAMILIES)
PLACEHOLDERS = {name: placeholder for name, (placeholder, _) in _FAMILIES.items()}


def write(name: str, directory: Path, *, dtype: Any = torch.float32, chat_template: bool = True) -> Any:
    """Write a model with its tokenizer and processor into a directory, and return it."""
    placeholder, make = _FAMILIES[name]
    words = tokenizer(template(placeholder) if chat_template else None)
    config, images, said = make(words)
    torch.manual_seed(7)
    model = transformers.AutoModelForImageTextToText.from_config(config).to(dtype).eval()
    _widen(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(directory)
    images.save_pretrained(directory)
    words.save_pretrained(directory)
    (directory / "processor_config.json").write_text(json.dumps(said))
    return model


def _widen(model: Any) -> None:
    """Let pictures weigh as much as words do."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and ("vis" in name or "connector" in name or "projector" in name):
                parameter.normal_(std=0.3)


def picture(seed: int, width: int = 30, height: int = 20) -> bytes:
    """Return a PNG of noise."""
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    file = BytesIO()
    Pixels.fromarray(noise.numpy()).save(file, "PNG")
    return file.getvalue()


Turns = Sequence[tuple[str, Sequence[str | bytes]]]
"""Role and parts, where bytes are an image file."""


def asked(processor: Any, turns: Turns) -> Any:
    """Return what the library's own processor makes of a conversation."""
    conversation = [
        {
            "role": role,
            "content": [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image", "image": Pixels.open(BytesIO(part))}
                for part in parts
            ],
        }
        for role, parts in turns
    ]
    return processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def expected(model: Any, processor: Any, turns: Turns, count: int) -> list[int]:
    """Return what the library itself answers: its processor on all of it, and `generate`."""
    given = asked(processor, turns)
    how = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=-1)
    with torch.inference_mode():
        return model.generate(**given, generation_config=how)[0, given["input_ids"].shape[1] :].tolist()
