"""What a model will take, from its files alone."""

import pytest

from illm.backends.local.footprint import footprint
from illm.backends.local.sources import Source
from illm.config import Config

from .conftest import write_config

SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
EACH = 2 * 2 * 2 * 16  # numbers of keys and values of one token


@pytest.fixture
def directory(tmp_path):
    def make(weights="model.safetensors", **config):
        directory = write_config(tmp_path / "model", max_position_embeddings=128, **{**SHAPE, **config})
        (directory / weights).write_bytes(bytes(1000))
        return directory

    return make


def source(directory, kind="text"):
    return Source("model", directory, kind)


@pytest.mark.parametrize(
    ("held", "options", "weights", "size"),
    [
        ("float32", {}, 1000, 4),
        ("bfloat16", {}, 1000, 2),
        ("float16", {}, 2000, 4),
        ("float16", {"device": "cuda"}, 1000, 2),
        ("bfloat16", {"dtype": "float32"}, 2000, 4),
    ],
)
def test_weights_and_as_many_keys_as_are_taken(directory, held, options, weights, size):
    config = Config(**{"kv_tokens": 50, **options})
    assert footprint(source(directory(dtype=held)), config) == weights + 50 * EACH * size


def test_weights_in_eight_bits_lie_beside_the_exact_ones(directory):
    exact, int8 = (
        footprint(source(directory()), Config(kv_tokens=50, dtype="bfloat16", quantize=quantize))
        for quantize in ("none", "int8")
    )
    assert int8 - exact == 250  # a byte for each of the weights that are 1,000 bytes as float32


def test_a_head_in_four_bits_lies_beside_them_in_bfloat16(directory):
    small, large = (
        footprint(source(directory(vocab_size=size)), Config(kv_tokens=50, dtype="bfloat16", quantize="int8"))
        for size in (0, 1000)
    )
    assert large - small == 64 * 1000 // 2 + 64 * 1000 // 32


def test_without_a_word_the_keys_of_as_many_contexts_as_there_are_sequences(directory):
    assert footprint(source(directory()), Config(max_sequences=3)) == 1000 + 3 * 128 * EACH * 4
    assert footprint(source(directory()), Config()) == 1000 + 64 * 128 * EACH * 4


def test_a_text_part_counts_and_old_names_do(directory):
    old = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 128}
    text = write_config(directory().parent / "old", text_config=old)
    (text / "pytorch_model.bin").write_bytes(bytes(10))
    assert footprint(source(text), Config(kv_tokens=1)) == 10 + 2 * 2 * 4 * 16 * 4


def test_an_embedder_keeps_nothing(directory):
    assert footprint(source(directory(), "embedding"), Config(kv_tokens=50)) == 1000


@pytest.mark.parametrize(
    ("kind", "options", "weights"),
    [
        ("embedding", {"dtype": "bfloat16"}, 1000),
        ("embedding", {"embedding_dtype": "bfloat16"}, 500),
        ("rerank", {"embedding_dtype": "bfloat16"}, 500),
        ("audio", {"dtype": "bfloat16", "embedding_dtype": "bfloat16"}, 1000),
    ],
)
def test_each_kind_has_its_own_number_format(directory, kind, options, weights):
    assert footprint(source(directory(), kind), Config(**options)) == weights


def test_a_file_to_convert_is_larger_than_it_is_and_what_is_unknown_counts_nothing(tmp_path, hub):
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(bytes(100))
    assert footprint(Source("model", None, "text", gguf=gguf), Config()) == 400
    assert footprint(Source("org/name", None, "text", hub="org/name"), Config()) == 0
