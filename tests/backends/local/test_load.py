"""Loading: what an engine is told about a model, and what is refused."""

import json
import shutil

import pytest

from illm.core.requests import Sampling
from illm.errors import GatewayError, Kind

from .conftest import CHATML, write_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.model

from illm.backends.local import model_facts  # noqa: E402
from illm.backends.local.load import load_text  # noqa: E402
from illm.backends.local.model_facts import sampling_defaults  # noqa: E402
from illm.backends.local.sources import Source, resolve_named, resolve_requested  # noqa: E402


def quietly(text, part):
    pass


def loaded(directory, **options):
    return load_text(Source("tiny", directory, "text"), device="cpu", progress=quietly, **options)


def refusal(directory):
    with pytest.raises(GatewayError) as caught:
        loaded(directory)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED
    assert str(directory) not in caught.value.message
    return caught.value.message


def test_an_engine_is_told_what_it_has_to_know(tmp_path, tiny_llama):
    reference = tiny_llama(tmp_path, template=CHATML)
    told = []
    text = load_text(
        Source("tiny", tmp_path, "text"), device="cpu", progress=lambda what, part: told.append(what), threads=2
    )
    assert (text.served, text.context, text.eos, text.vocabulary) == ("tiny", 96, {2}, 261)
    assert (text.defaults, text.stops) == (Sampling(), ())
    assert told == ["loading tiny"]
    assert torch.get_num_threads() == 2
    assert not text.model.training
    assert text.model.config._attn_implementation == "sdpa"
    ids = torch.tensor([text.renderer.raw("hello")])
    with torch.no_grad():
        assert torch.equal(text.model(ids).logits, reference.eval()(ids).logits)


def test_generation_config_gives_defaults_and_ends(tmp_path, tiny_llama):
    tiny_llama(tmp_path, do_sample=True, temperature=0.5, top_k=7, eos_token_id=[4, 7])
    text = loaded(tmp_path)
    assert text.eos == {2, 4, 7}
    assert text.defaults == Sampling(temperature=0.5, top_k=7)
    assert "\nUser:" in text.stops


@pytest.mark.parametrize(
    ("generation", "defaults"),
    [
        ({}, Sampling()),
        ({"temperature": 0.6, "top_p": 0.9}, Sampling()),
        ({"do_sample": False, "temperature": 0.6}, Sampling()),
        ({"do_sample": True}, Sampling()),
        (
            {"do_sample": True, "top_p": 0.9, "repetition_penalty": 1.1, "top_k": None, "min_p": 0.1},
            Sampling(top_p=0.9, repetition_penalty=1.1, min_p=0.1),
        ),
    ],
)
def test_only_what_the_file_itself_asks_for(generation, defaults):
    assert sampling_defaults(generation) == defaults


@pytest.mark.parametrize(
    ("held", "fast", "device", "wanted", "expected"),
    [
        ("bfloat16", True, "cpu", None, "bfloat16"),
        ("bfloat16", False, "cpu", None, "float32"),
        ("bfloat16", False, "cuda:0", None, "bfloat16"),
        ("bfloat16", False, "mps", None, "float32"),
        ("float16", True, "cpu", None, "float32"),
        ("float16", True, "cuda", None, "float16"),
        ("float32", True, "cpu", None, "float32"),
        (None, True, "cpu", None, "float32"),
        ("float32", False, "cpu", "bfloat16", "bfloat16"),
        ("bfloat16", True, "cpu", "float32", "float32"),
    ],
)
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_which_dtype(held, fast, device, wanted, expected, key, tmp_path, monkeypatch):
    write_config(tmp_path, **{key: held})
    monkeypatch.setattr(model_facts, "_cpu_has_bf16", lambda: fast)
    assert model_facts.pick_dtype(tmp_path, device, wanted) is getattr(torch, expected)


def test_the_dtype_reaches_the_weights(tmp_path, tiny_llama):
    tiny_llama(tmp_path, dtype=torch.bfloat16)
    assert loaded(tmp_path, dtype="float32").model.dtype == torch.float32
    assert loaded(tmp_path, dtype="bfloat16").model.dtype == torch.bfloat16


def test_a_model_from_the_hub_cache(cached, tiny_llama):
    tiny_llama(cached("org/tiny"))
    text = load_text(resolve_requested("org/tiny"), device="cpu", progress=quietly)
    assert text.served == "org/tiny"


def test_weights_that_are_missing_are_not_made_up(tmp_path, tiny_llama):
    from safetensors.torch import load_file, save_file

    tiny_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 of its weights" in refusal(tmp_path)


@pytest.fixture
def pickled(tiny_llama):
    """A model whose weights are a pickle, as the oldest ones on the hub are."""
    from safetensors.torch import load_file

    def write(directory):
        tiny_llama(directory)
        weights = load_file(directory / "model.safetensors")
        (directory / "model.safetensors").unlink()
        torch.save(weights, directory / "pytorch_model.bin")

    return write


def test_pickles_that_a_request_names_are_not_loaded(cached, pickled):
    pickled(cached("org/old"))
    with pytest.raises(GatewayError) as caught:
        load_text(resolve_requested("org/old"), device="cpu", progress=quietly)
    assert caught.value.kind is Kind.MODEL_NOT_FOUND


def test_pickles_that_a_request_names_are_not_loaded_from_a_directory_either(tmp_path, pickled):
    pickled(tmp_path)
    assert "pickled weights are not loaded" in refusal(tmp_path)


def test_pickles_that_the_operator_names_are_loaded(cached, pickled):
    pickled(cached("org/old"))
    assert load_text(resolve_named("org/old", "text"), device="cpu", progress=quietly).served == "org/old"


def test_pickles_run_no_code(tmp_path, pickled):
    pickled(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(GatewayError) as caught:
        load_text(resolve_named(str(tmp_path), "text"), device="cpu", progress=quietly)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED


def test_code_from_a_repository_is_not_run(tmp_path, tiny_llama):
    tiny_llama(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    config = json.loads((tmp_path / "config.json").read_text())
    mapped = config | {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(mapped))
    assert loaded(tmp_path).served == "tiny"  # Transformers knows this architecture itself
    (tmp_path / "config.json").write_text(json.dumps(mapped | {"model_type": "evil"}))
    assert "needs code from its own repository" in refusal(tmp_path)


def test_damaged_files_are_an_error_without_our_paths(tmp_path, tiny_llama):
    tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    assert "could not be loaded" in refusal(tmp_path)


def test_a_directory_that_went_away(tmp_path, tiny_llama):
    tiny_llama(tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(GatewayError) as caught:
        loaded(tmp_path / "model")
    assert caught.value.kind is Kind.MODEL_NOT_FOUND


def test_an_encoder_does_not_generate(tmp_path):
    write_config(tmp_path, architectures=["BertModel"], model_type="bert")
    (tmp_path / "model.safetensors").touch()
    assert "not a model that generates text" in refusal(tmp_path)


class _Config:
    def __init__(self, positions):
        self.max_position_embeddings = positions

    def get_text_config(self):
        return self


@pytest.mark.parametrize(
    ("positions", "tokenizer", "expected"), [(128, 64, 128), (None, 64, 64), (None, int(1e30), 2048)]
)
def test_how_long_a_context_is(positions, tokenizer, expected):
    tokenizer = type("Tokenizer", (), {"model_max_length": tokenizer})
    assert model_facts.context_length(_Config(positions), tokenizer) == expected
