"""TGI's local light adapter, the whole way: a tiny model, our server, and a client that thinks it speaks to TGI."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `local` is not installed")

from backends.local import gateway  # noqa: E402
from backends.local.gateway import PATIENCE  # noqa: E402
from illm.config import load  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.model]


@pytest.fixture
def tiny(tmp_path, tiny_llama):
    """A directory with a random model."""
    tiny_llama(tmp_path / "tiny", template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return tmp_path / "tiny"


def serving(directory, framework="tgi", **options):
    """Serve a model directory; yields a client, once the model is there."""
    return gateway.serving(framework=framework, tgi_local=True, model=str(directory), threads=1, **options)


async def on_thread(act):
    return await anyio.to_thread.run_sync(act)


def address(client) -> str:
    return str(client.base_url).rstrip("/")


async def test_both_names_reach_the_one_model(tiny):
    async with serving(tiny, framework="transformers") as client:
        asked = {"prompt": "Hello", "max_tokens": 4, "temperature": 0}
        answers = [
            (await client.post("/v1/completions", json={**asked, **more})).json()["choices"]
            for more in ({}, {"framework": "tgi"}, {"framework": "transformers"}, {"model": "tgi"})
        ]
        assert answers[0] == answers[1] == answers[2] == answers[3]
        providers = {row["framework"]: row for row in (await client.get("/healthz")).json()["providers"]}
        assert providers["tgi"]["models"] == providers["transformers"]["models"]
        [model] = providers["tgi"]["models"]
        assert model["engine"]["finished"] == 4
        listed = (await client.get("/models?framework=tgi")).json()["data"]
        assert [row["id"] for row in listed] == [model["id"]]
        info = (await client.get("/info")).json()
        assert (info["model_id"], info["max_total_tokens"]) == (model["id"], 96)


async def test_native_answers_are_the_models_own(tiny):
    """Token by token what the model itself prefers, with its own probabilities."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    prompt = tokenizer("Hello", return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :].tolist()
        logits = model(torch.cat((prompt, torch.tensor([expected])), 1)).logits[0, prompt.shape[1] - 1 : -1]
    scores = torch.log_softmax(logits.float(), -1)
    parameters = {"max_new_tokens": 8, "details": True, "top_n_tokens": 3}
    async with serving(tiny) as client:
        answer = await client.post("/generate", json={"inputs": "Hello", "parameters": parameters})
    details = answer.json()["details"]
    assert [token["id"] for token in details["tokens"]] == expected
    for row, token, top in zip(scores, details["tokens"], details["top_tokens"], strict=True):
        assert token["logprob"] == pytest.approx(row[token["id"]].item(), abs=1e-4)
        assert [other["id"] for other in top] == row.topk(3).indices.tolist()
        assert top[0]["id"] == token["id"]
    text = "".join(token["text"] for token in details["tokens"] if not token["special"])
    assert text == answer.json()["generated_text"]
    assert answer.headers["x-prompt-tokens"] == str(prompt.shape[1])


async def test_a_sampled_answer_can_be_had_again(tiny):
    parameters = {"max_new_tokens": 8, "details": True, "do_sample": True}
    async with serving(tiny) as client:
        first = (await client.post("/generate", json={"inputs": "Hello", "parameters": parameters})).json()
        parameters["seed"] = first["details"]["seed"]
        assert (await client.post("/generate", json={"inputs": "Hello", "parameters": parameters})).json() == first


async def test_too_long_a_prompt_is_its_mistake(tiny):
    async with serving(tiny) as client:
        answer = await client.post("/generate", json={"inputs": "x" * 200})
        assert answer.status_code == 422
        assert answer.json()["error_type"] == "validation"
        assert "`inputs` tokens + `max_new_tokens`" in answer.json()["error"]


async def test_hugging_faces_client(tiny, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason="its client is not installed")
    errors = pytest.importorskip("huggingface_hub.errors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # which forbids this machine's own ports too
    async with serving(tiny) as server:
        client = hub.InferenceClient(base_url=address(server))

        def drive():
            asked = {"max_new_tokens": 6, "details": True}
            whole = client.text_generation("Hello", **asked)
            pieces = list(client.text_generation("Hello", stream=True, **asked))
            assert [piece.index for piece in pieces] == [1, 2, 3, 4, 5, 6]
            assert [piece.token.id for piece in pieces] == [token.id for token in whole.details.tokens]
            assert pieces[-1].generated_text == whole.generated_text
            assert pieces[-1].details.finish_reason == whole.details.finish_reason == "length"
            assert pieces[-1].details.generated_tokens == whole.details.generated_tokens == 6
            assert client.text_generation("Hello", max_new_tokens=6) == whole.generated_text
            assert "".join(client.text_generation("Hello", max_new_tokens=6, stream=True)) == whole.generated_text
            stop = whole.generated_text[1:3]
            stopped = client.text_generation("Hello", stop=[stop], **asked)
            assert stopped.generated_text.endswith(stop)
            assert stopped.details.finish_reason == "stop_sequence"
            best = client.text_generation("Hello", best_of=2, do_sample=True, **asked)
            assert len(best.details.best_of_sequences) == 1
            for stream in (False, True):
                with pytest.raises(errors.ValidationError, match="`temperature` must be strictly positive"):
                    list(client.text_generation("Hello", temperature=-1.0, stream=stream))
            message = {"role": "user", "content": "Hello"}
            assert client.chat_completion([message], max_tokens=4).choices[0].message.content is not None
            chunks = list(client.chat_completion([message], max_tokens=4, stream=True))
            assert chunks[-1].choices[0].finish_reason == "length"

        await on_thread(drive)


async def test_the_text_generation_package(tiny):
    """Its newest version wants an older `huggingface_hub` than the one here, so it may live in another environment."""
    here = sys.executable if find_spec("text_generation") else None
    python = os.environ.get("ILLM_TEXT_GENERATION_PYTHON", here)
    if python is None:
        pytest.skip("set ILLM_TEXT_GENERATION_PYTHON to a Python that has the package text-generation")
    async with serving(tiny) as server:
        with anyio.fail_after(PATIENCE):
            script = Path(__file__).with_name("text_generation_client.py")
            done = await anyio.run_process([python, str(script), address(server)], check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["whole", "stream", "stop", "refusals", "asynchronous"]


async def test_the_adapter_is_switched_on_by_the_environment(tiny):
    said = load({"ILLM_FRAMEWORK": "tgi", "ILLM_TGI_LOCAL": "1", "ILLM_MODEL": str(tiny)})
    assert said.tgi_local
    assert said.local
    assert not load({"ILLM_FRAMEWORK": "tgi"}).local


def in_front_of(behind):
    """Another gateway, for which the first one is a TGI."""
    return gateway.serving(framework="tgi", tgi_base_url=(address(behind),))


def told(answer) -> list:
    """What clients fold an answer together to: text, reason and counts, however it came."""
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        body = answer.json()
        parts = [body]
    else:
        *frames, end, rest = answer.text.split("\n\n")
        assert (end, rest) == ("data: [DONE]", "")
        parts = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for choice in (choice for part in parts for choice in part["choices"]):
        said = choice.get("message") or choice.get("delta") or choice
        texts[choice["index"]] = texts.get(choice["index"], "") + (said.get("content") or said.get("text") or "")
        reasons |= {choice["index"]: choice["finish_reason"]} if choice["finish_reason"] else {}
    return [texts, reasons, parts[-1].get("usage")]


@pytest.mark.parametrize("stream", [False, True])
async def test_one_gateway_in_front_of_another(tiny, stream):
    """What comes through two of them is what comes out of one."""
    options = {"stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}
    prompts = {"prompt": ["Hello", "Good day"], "max_tokens": 8, "temperature": 0, **options}
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0, **options}
    # With a prefix cache the second to ask would be told of fewer computed tokens.
    async with serving(tiny, prefix_cache="off") as behind, in_front_of(behind) as front:
        for path, body in (("/v1/completions", prompts), ("/v1/chat/completions", chat)):
            answers = [told(await client.post(path, json=body)) for client in (front, behind)]
            assert answers[0] == answers[1]
        stop = answers[0][0][0][1:3]
        for path, body in (("/v1/completions", prompts | {"prompt": "Hello"}), ("/v1/chat/completions", chat)):
            for wanted in ([stop], ["Q" * 8]):
                answers = [told(await client.post(path, json=body | {"stop": wanted})) for client in (front, behind)]
                assert answers[0][:2] == answers[1][:2]
        native = {"inputs": "Hello", "parameters": {"max_new_tokens": 8, "details": True, "top_n_tokens": 2}}
        answers = [(await client.post("/generate", json=native)).json() for client in (front, behind)]
        assert answers[0] == answers[1]
        too_long = await front.post("/v1/completions", json={"prompt": "x" * 200})
        assert too_long.json()["error"]["code"] == "context_length_exceeded"
        assert [row["id"] for row in (await front.get("/v1/models?framework=tgi")).json()["data"]] == ["tiny"]
