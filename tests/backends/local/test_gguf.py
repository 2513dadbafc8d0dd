"""A GGUF file of our own making goes through the real conversion and says the same as the model it was made from."""

import pytest

from illm.errors import GatewayError, Kind

from .conftest import CHATML, SPECIALS

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pre_tokenizers = pytest.importorskip("tokenizers").pre_tokenizers
pytestmark = pytest.mark.model

from illm.backends.local.conversion import converted  # noqa: E402
from illm.backends.local.load import load_text  # noqa: E402
from illm.backends.local.sources import resolve_named  # noqa: E402

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


VOCABULARY = len(SPECIALS) + 256 + 1  # the bytes, and one merge: an empty list of them is not written


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,  # Transformers takes no other from a GGUF file of this architecture
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.Qwen3ForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()  # so that the converted copy can hold it exactly
    return model


def write_gguf(path, model, template=None, leave_out=""):
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*SPECIALS, *alphabet, "he"])
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(alphabet) + 1))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    if template:
        writer.add_chat_template(template)
    for name, weight in model.state_dict().items():
        if name != leave_out:
            writer.add_tensor(_their_name(name), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _their_name(name):
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def test_a_converted_file_says_what_the_original_says(tmp_path, model, monkeypatch):
    monkeypatch.setenv("ILLM_CACHE_DIR", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf", model, CHATML)
    told = []
    source = resolve_named(str(tmp_path / "tiny.gguf"), "text")
    text = load_text(source, device="cpu", dtype="float32", progress=lambda what, part: told.append((what, part)))
    assert (text.served, text.context, text.eos, text.vocabulary) == ("tiny", 128, {2}, VOCABULARY)
    assert text.stops == ()  # the template travelled in the file
    parts = [part for _, part in told if part is not None]
    assert len(parts) > 2
    assert parts == sorted(parts)
    ids = torch.tensor([text.renderer.raw("Grüße, hello")])
    with torch.no_grad():
        torch.testing.assert_close(text.model(ids).logits, model(ids).logits, rtol=0, atol=1e-6)

    told.clear()
    load_text(source, device="cpu", progress=lambda what, part: told.append(what))
    assert not any("unpacking" in str(what) for what in told)


def test_weights_that_a_file_lacks_are_not_made_up(tmp_path, model, monkeypatch):
    monkeypatch.setenv("ILLM_CACHE_DIR", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf", model, leave_out="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(GatewayError, match="lacks 1 of its weights"):
        converted(tmp_path / "tiny.gguf", lambda *_: None)


def test_a_file_that_is_no_model_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("ILLM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "junk.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(GatewayError) as caught:
        converted(tmp_path / "junk.gguf", lambda *_: None)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED
    assert str(tmp_path) not in caught.value.message
    assert [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == []
