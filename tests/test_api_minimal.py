"""The shortest path: `illm.create_app`, one request, one answer."""

import json
import sys

import anyio
import httpx
import pytest
from asgi.scripted import Scripted

import illm
from illm.config import Config

pytestmark = pytest.mark.anyio

PATIENCE = 60
CHAT = {"messages": [{"role": "user", "content": "echo hello"}], "max_tokens": 4, "temperature": 0}


async def post(app, path, body, *, until="ok"):
    """Ask the application, without a server, once its models are loaded."""
    async with app.running() as directory:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            with anyio.fail_after(PATIENCE):
                await directory.settled()
            health = (await client.get("/healthz")).json()
            assert health["status"] == until, health
            return await client.post(path, json=body)


@pytest.fixture
def scripted(monkeypatch):
    """Put a backend that needs no torch in the place of the local one."""
    from illm import build

    monkeypatch.setitem(build.PLANS, "transformers", lambda config: Scripted())


async def test_create_app_answers_a_chat(scripted):
    response = await post(illm.create_app(Config()), "/v1/chat/completions", CHAT)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"] == {
        "role": "assistant",
        "content": "hello",
        "refusal": None,
        "annotations": [],
    }


async def test_create_app_reads_the_environment(scripted, monkeypatch):
    monkeypatch.setenv("ILLM_API_KEY", "sesame")
    response = await post(illm.create_app(), "/v1/chat/completions", CHAT)
    assert response.status_code == 401


async def test_create_app_says_which_value_of_the_environment_is_wrong(monkeypatch):
    from illm.errors import ConfigError

    monkeypatch.setenv("ILLM_PORT", "many")
    with pytest.raises(ConfigError, match="ILLM_PORT 'many'"):
        illm.create_app()


async def test_without_torch_the_answer_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    app = illm.create_app(Config(model=str(tmp_path)))
    response = await post(app, "/v1/chat/completions", CHAT, until="degraded")
    assert response.status_code == 503
    assert "pip install" in response.json()["error"]["message"]


@pytest.fixture
def tiny_gpt2(tmp_path):
    """A directory with a GPT-2 of random weights and a tokenizer of one id a byte."""
    torch = pytest.importorskip("torch", reason="torch is in the extra `local`")
    transformers = pytest.importorskip("transformers", reason="transformers is in the extra `local`")
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers comes with transformers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(["<end>", *alphabet])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<end>", eos_token="<end>", pad_token="<end>"
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.model
async def test_create_app_answers_with_a_real_model(tiny_gpt2):
    app = illm.create_app(Config(model=str(tiny_gpt2), threads=1, kv_tokens=1024))
    response = await post(app, "/v1/chat/completions", {**CHAT, "ignore_eos": True})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens"] > 0
