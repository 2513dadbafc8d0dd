"""The official client against our server: what it sends must be understood, what it gets must satisfy its types."""

import gc
import threading
from base64 import b64decode
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest
from asgi.scripted import Stage, directory

from illm.asgi.app import Gateway
from illm.config import Config
from illm.server import serve

openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

HELLO = [{"role": "user", "content": "echo hello you"}]
KEY = "sesame"


def gateway(stage: Stage) -> Gateway:
    return Gateway(Config(api_key=KEY), lambda: directory(stage))


async def settled(app: Gateway) -> None:
    found = await app._runtime.directory()
    await found.settled()


@asynccontextmanager
async def serving(app):
    """Serve while the block lasts; yields the base URL."""
    async with anyio.create_task_group() as tasks:
        shutdown = anyio.Event()

        async def run(*, task_status):
            await serve(app, port=0, shutdown=shutdown, task_status=task_status)

        ((host, port),) = await tasks.start(run)
        await settled(app)
        yield f"http://{host}:{port}/v1"
        shutdown.set()


@contextmanager
def served(app):
    """Serve from a thread while the block lasts, for the client that blocks; yields the base URL."""
    urls, ready, over = [], threading.Event(), threading.Event()

    async def main():
        async with serving(app) as url:
            urls.append(url)
            ready.set()
            await anyio.to_thread.run_sync(over.wait)

    thread = threading.Thread(target=anyio.run, args=(main,), daemon=True)
    thread.start()
    try:
        assert ready.wait(30)
        yield urls[0]
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def url():
    with served(gateway(Stage())) as url:
        yield url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def test_chat(client):
    answer = client.chat.completions.create(model="script", messages=HELLO, max_completion_tokens=5)
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.content == "hello you"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 2


def test_chat_streamed(client):
    with client.chat.completions.create(
        model="script", messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello you"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.total_tokens == 5


def test_the_streaming_helper_folds_chunks_into_an_answer(client):
    with client.chat.completions.stream(model="script", messages=HELLO, n=2) as stream:
        stream.until_done()
        answer = stream.get_final_completion()
    assert [choice.message.content for choice in answer.choices] == ["hello you", "hello you"]


def test_completions(client):
    answer = client.completions.create(model="script", prompt=["echo a", "echo a"])
    assert [choice.text for choice in answer.choices] == ["a", "a"]
    chunks = client.completions.create(model="script", prompt="echo a b", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a b"


def test_embeddings(client):
    decoded = client.embeddings.create(model="embed", input=["a", "bcd"])  # asks for base64, and decodes it
    numbers = client.embeddings.create(model="embed", input="bcd", encoding_format="float")
    coded = client.embeddings.create(model="embed", input="bcd", encoding_format="base64")
    assert [row.embedding for row in decoded.data] == [[1.0, 0.5, -1.0], [3.0, 0.5, -1.0]]
    assert numbers.data[0].embedding == [3.0, 0.5, -1.0]
    assert len(b64decode(coded.data[0].embedding)) == 12
    assert decoded.usage.prompt_tokens == 2


def test_models(client):
    assert [model.id for model in client.models.list()] == ["script", "narrow", "embed"]
    assert client.models.retrieve("script").owned_by == "transformers"


def test_the_request_id_is_there(client):
    raw = client.chat.completions.with_raw_response.create(
        model="script", messages=HELLO, extra_headers={"x-request-id": "mine"}
    )
    assert raw.headers["x-request-id"] == "mine"
    assert raw.parse()._request_id == "mine"


def chatting(prompt="echo a", **more):
    message = {"role": "user", "content": prompt}
    return lambda client: client.chat.completions.create(**{"model": "script", "messages": [message], **more})


@pytest.mark.parametrize(("ask", "error", "code"), [
    (chatting(temperature=7), "BadRequestError", None),
    (chatting(extra_body={"nonsense": 1}), "BadRequestError", "unsupported_parameter"),
    (chatting(model="none"), "NotFoundError", "model_not_found"),
    (chatting(model="embed"), "UnprocessableEntityError", "capability_not_supported"),
    (chatting("crash"), "InternalServerError", "internal_error"),
    (chatting("refuse"), "InternalServerError", "bad_upstream"),
    (chatting("refuse", stream=True), "InternalServerError", "bad_upstream"),
    (chatting(extra_body={"framework": "tgi"}), "InternalServerError", "not_configured"),
    (lambda client: client.models.retrieve("none"), "NotFoundError", "model_not_found"),
    (lambda client: client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"RIFF")),
     "UnprocessableEntityError", "capability_not_supported"),
    (lambda client: client.with_options(api_key="wrong").models.list(), "AuthenticationError", "invalid_api_key"),
    (lambda client: client.moderations.create(input="a"), "NotFoundError", "not_found"),
])  # fmt: skip
def test_errors_become_the_clients_own(client, ask, error, code):
    with pytest.raises(getattr(openai, error)) as caught:
        ask(client)
    assert caught.value.code == code
    assert caught.value.request_id
    assert caught.value.body["message"]


def test_a_refusal_that_will_not_go_away_is_not_retried():
    stage = Stage()
    app = gateway(stage)
    asked = []

    async def counting(scope, receive, send):
        if scope["type"] == "http":
            asked.append(scope["path"])
        await app(scope, receive, send)

    counting._runtime = app._runtime
    with (
        served(counting) as url,
        openai.OpenAI(base_url=url, api_key=KEY, max_retries=3) as client,
        pytest.raises(openai.InternalServerError, match="TGI base_url is not configured"),
    ):
        chatting(extra_body={"framework": "tgi"})(client)
    assert len(asked) == 1


def test_a_stream_that_breaks_raises():
    stage = Stage()
    with served(gateway(stage)) as url, openai.OpenAI(base_url=url, api_key=KEY) as client:
        message = {"role": "user", "content": "late-refusal a"}
        stream = client.chat.completions.create(model="script", messages=[message], stream=True)
        next(chunk for chunk in stream if chunk.choices[0].delta.content)
        chatting("step a")(client)
        with pytest.raises(openai.APIError, match="refused as told"):
            list(stream)


@pytest.mark.anyio
class TestAsynchronously:
    """The same, on both loops, and what only a client that does not block can show."""

    async def test_everything(self):
        stage = Stage()
        async with (
            serving(gateway(stage)) as url,
            openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client,
        ):
            answer = await client.chat.completions.create(model="script", messages=HELLO)
            assert answer.choices[0].message.content == "hello you"
            vectors = await client.embeddings.create(model="embed", input="abc")
            assert vectors.data[0].embedding == [3.0, 0.5, -1.0]
            with pytest.raises(openai.NotFoundError):
                await chatting(model="none")(client)

    # The client leaves the generators of a stream that is closed early to the garbage collector, which trio minds.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    async def test_a_stream_arrives_token_by_token_and_closing_it_stops_the_work(self):
        stage = Stage()
        async with (
            serving(gateway(stage)) as url,
            openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client,
        ):
            stream = await chatting("drip a", stream=True)(client)
            said = []
            async for chunk in stream:
                if chunk.choices[0].delta.content:
                    said.append(chunk.choices[0].delta.content)
                    assert len(said) == stage.cases["a"].released + 1
                    if len(said) == 4:
                        break
                    stage.cases["a"].step()
            await stream.close()
            del stream
            gc.collect()
            await stage.cases["a"].gone.wait()
        assert said == ["0 ", "1 ", "2 ", "3 "]
