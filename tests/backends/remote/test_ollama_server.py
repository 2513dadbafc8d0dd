"""Our test Ollama satisfies the official client, so that it does not merely agree with our own code."""

from base64 import b64encode

import pytest

from backends.remote.ollama_server import Says, running_ollama

ollama_client = pytest.importorskip("ollama")

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def server():
    with running_ollama() as ollama:
        yield ollama


@pytest.fixture
def client(server):
    with ollama_client.Client(server.url) as client:
        yield client


def hello(text="hi", **more):
    return [{"role": "user", "content": text, **more}]


def test_it_lists_and_shows_models(client):
    assert [model.model for model in client.list().models] == [
        *("qwen3:4b", "llava:7b", "plain:latest", "coder:latest", "minilm:latest", "ears:latest")
    ]
    assert client.show("plain").capabilities == ["completion"]


def test_it_chats(client):
    answer = client.chat("plain", hello(), logprobs=True, top_logprobs=1)
    assert (answer.message.content, answer.done, answer.done_reason) == ("Hello there!", True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (5, 3)
    assert [one.top_logprobs[0].token for one in answer.logprobs] == ["alt"] * 3


def test_it_streams_a_chat_however_the_bytes_are_cut(client, server):
    server.says = Says(words=("né", "😀"), piece=1)
    parts = list(client.chat("plain", hello(), stream=True, options={"num_predict": 1}))
    assert [part.message.content for part in parts] == ["né", ""]
    assert parts[-1].done_reason == "length"


def test_a_model_that_can_think_does_unless_told_not_to(client):
    assert client.chat("qwen3:4b", hello()).message.thinking == "Hm..."
    assert client.chat("qwen3:4b", hello(), think=False).message.thinking is None


def test_it_calls_tools(client, server):
    server.says = Says(words=(), calls=[{"function": {"name": "f", "arguments": {"a": 1}}}])
    answer = client.chat("qwen3:4b", hello(), tools=[TOOL])
    assert answer.message.tool_calls[0].function.arguments == {"a": 1}
    assert answer.done_reason == "stop"


def test_it_sees_images(client):
    client.chat("llava:7b", hello(images=[PNG]))
    client.generate("llava:7b", "what is it?", images=[b64encode(PNG).decode()])


def test_it_hears(client):
    client.chat("ears", hello(images=[WAV]))


def test_its_other_layer_writes_down_what_it_hears(server):
    """Ollama's own client has no word for it; the layer is OpenAI's, and so is the client."""
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        create = client.audio.transcriptions.create
        assert create(model="ears", file=("a.wav", WAV)).text == "Hello there!"
        with pytest.raises(openai.BadRequestError, match="does not support audio"):
            create(model="plain", file=("a.wav", WAV))
        with pytest.raises(openai.NotFoundError, match="not found"):
            create(model="nope", file=("a.wav", WAV))


def test_it_continues_prompts(client):
    assert client.generate("plain", "Once", raw=True).response == "Hello there!"
    assert "".join(part.response for part in client.generate("plain", "Once", stream=True)) == "Hello there!"
    assert client.generate("plain").done_reason == "load"


def test_it_embeds(client):
    answer = client.embed("minilm", ["a", "bb"], dimensions=3)
    assert answer.embeddings == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert answer.prompt_eval_count == 3


@pytest.mark.parametrize(
    ("act", "status", "words"),
    [
        (lambda c: c.chat("nope", hello()), 404, "not found"),
        (lambda c: c.chat("plain", hello(), think=True), 400, "does not support thinking"),
        (lambda c: c.chat("qwen3:4b", hello(), think="a lot"), 400, "invalid think value"),
        (lambda c: c.chat("plain", hello(), tools=[TOOL]), 400, "does not support tools"),
        (lambda c: c.chat("plain", hello(), logprobs=True, top_logprobs=21), 400, "between 0 and 20"),
        (lambda c: c.chat("plain", hello(), options={"num_predict": 1.5}), 500, "must be of type integer"),
        (lambda c: c.chat("plain", hello(), options={"stop": "x"}), 500, "must be of type array"),
        (lambda c: c.chat("plain", hello(images=[PNG])), 500, "not supported"),
        (lambda c: c.chat("llava:7b", hello(images=[b"GIF7"])), 500, "Failed to load image"),
        (lambda c: c.generate("plain", "a", suffix="b"), 400, "does not support insert"),
        (lambda c: c.generate("plain", "a", raw=True, system="b"), 400, "raw mode"),
        (lambda c: c.embed("minilm", "x" * 600, truncate=False), 400, "exceeds the context length"),
    ],
)
def test_it_refuses_what_the_real_one_refuses(client, act, status, words):
    with pytest.raises(ollama_client.ResponseError, match=words) as caught:
        act(client)
    assert caught.value.status_code == status


def test_an_error_in_a_stream_is_a_line(client, server):
    server.says = Says(error_after=1)
    parts = client.chat("plain", hello(), stream=True)
    assert next(parts).message.content == "Hello"
    with pytest.raises(ollama_client.ResponseError, match="unexpected EOF"):
        next(parts)
