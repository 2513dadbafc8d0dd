"""Pictures all the way: the official client over a socket, streamed and not, and what is refused."""

from base64 import b64encode
from hashlib import sha256
from urllib.parse import urlsplit

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("PIL", reason="the extra `local` is not installed")
openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

import anyio  # noqa: E402

from backends.local import gateway  # noqa: E402
from backends.local.test_end_to_end import raw_post  # noqa: E402
from backends.local.vision import families  # noqa: E402
from backends.local.vision.families import picture  # noqa: E402
from backends.remote.fake_server import fake_server, response  # noqa: E402
from illm.backends.local.vision.load import load_processor  # noqa: E402
from illm.backends.local.vision.tower import VisionTower  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.model]

COUNT = 10
ONE, TWO = picture(1), picture(2, 20, 33)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory, and a function from turns to what `generate` answers."""
    directory = tmp_path_factory.mktemp("idefics3")
    own = families.write("idefics3", directory)
    words = families.tokenizer(families.template("<image>"))
    processor = load_processor(directory, own.config, words)
    processor.chat_template = words.chat_template

    def expected(turns):
        return words.decode(families.expected(own, processor, turns, COUNT), skip_special_tokens=True)

    def prompt_tokens(turns):
        return len(families.asked(processor, turns)["input_ids"][0])

    return directory, expected, prompt_tokens


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{b64encode(data).decode()}"


def wire(turns) -> list[dict]:
    return [
        {
            "role": role,
            "content": [
                {"type": "text", "text": part}
                if isinstance(part, str)
                else {"type": "image_url", "image_url": {"url": data_url(part)}}
                for part in parts
            ],
        }
        for role, parts in turns
    ]


def official(client) -> "openai.AsyncOpenAI":
    return openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)


ASKED = {"model": "", "max_tokens": COUNT, "temperature": 0, "extra_body": {"ignore_eos": True}}


# The client leaves the generators of its streams to the garbage collector, which trio minds.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_official_client_shows_pictures_over_several_turns(model):
    directory, expected, prompt_tokens = model
    turns = [("user", (ONE, "this?", TWO)), ("assistant", ("cats",)), ("user", ("and ", TWO, "?"))]
    async with gateway.serving(model=str(directory), threads=1) as client, official(client) as asking:
        about = {**ASKED, "model": directory.name, "messages": wire(turns)}
        whole = await asking.chat.completions.create(**about)
        assert whole.choices[0].message.content == expected(turns)
        assert whole.usage.prompt_tokens == prompt_tokens(turns)
        assert whole.usage.completion_tokens == COUNT
        stream = await asking.chat.completions.create(**about, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected(turns)
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, COUNT)
    assert usage.prompt_tokens_details.cached_tokens == whole.usage.prompt_tokens - 1, "pictures and all"


@pytest.mark.parametrize(
    ("name", "placeholder"), [("llava", "<image>"), ("qwen2_vl", families.PLACEHOLDERS["qwen2_vl"])]
)
async def test_other_families_are_shown_pictures_over_several_turns(tmp_path, name, placeholder):
    own = families.write(name, tmp_path / name)
    words = families.tokenizer(families.template(placeholder))
    processor = load_processor(tmp_path / name, own.config, words)
    processor.chat_template = words.chat_template
    turns = [("user", (ONE, "this?")), ("assistant", ("cats",)), ("user", ("and ", TWO, ONE, "?"))]
    expected = words.decode(families.expected(own, processor, turns, COUNT), skip_special_tokens=True)
    async with gateway.serving(model=str(tmp_path / name), threads=1) as client, official(client) as asking:
        answer = await asking.chat.completions.create(**{**ASKED, "model": name, "messages": wire(turns)})
    assert answer.choices[0].message.content == expected
    assert answer.usage.prompt_tokens == len(families.asked(processor, turns)["input_ids"][0])


async def test_who_asks_at_once_gets_what_each_gets_alone(model):
    directory, expected, _ = model
    asked = [
        [("user", (ONE, "what?"))],
        [("user", ("only words",))],
        [("user", (TWO, ONE, "?"))],
        [("user", ("more words than that",))],
    ]
    answers: dict[int, str] = {}
    async with gateway.serving(model=str(directory), threads=1) as client, official(client) as asking:

        async def ask(at: int) -> None:
            answer = await asking.chat.completions.create(
                **{**ASKED, "model": directory.name, "messages": wire(asked[at])}
            )
            answers[at] = answer.choices[0].message.content

        async with anyio.create_task_group() as tasks:
            for at in range(len(asked)):
                tasks.start_soon(ask, at)
    assert [answers[at] for at in range(len(asked))] == [expected(turns) for turns in asked]


async def test_a_model_in_a_process_of_its_own_looks_as_well(model):
    directory, expected, _ = model
    turns = [("user", (ONE, "what?"))]
    async with gateway.serving(model=str(directory), threads=1, engine="process") as client:
        body = {"messages": wire(turns), "max_tokens": COUNT, "temperature": 0, "ignore_eos": True}
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"] == expected(turns)


async def test_by_address_and_by_bare_base64(model):
    directory, expected, _ = model
    async with fake_server(probe=[response(ONE)]) as server:
        options = {"allow_image_hosts": ("127.0.0.1",), "allow_image_ports": (urlsplit(server.url).port,)}
        async with gateway.serving(model=str(directory), threads=1, **options) as client:
            for part in (
                {"type": "image_url", "image_url": {"url": server.url}},
                {"type": "image_base64", "image_base64": b64encode(ONE).decode()},
            ):
                answer = await client.post(
                    "/v1/chat/completions",
                    json={
                        "messages": [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}],
                        "max_tokens": COUNT,
                        "temperature": 0,
                        "ignore_eos": True,
                    },
                )
                content = answer.json()["choices"][0]["message"]["content"]
                assert content == expected([("user", (ONE, "what?"))])


async def refusal(client, *parts) -> tuple[int, dict]:
    content = [{"type": "text", "text": "?"}, *parts]
    answer = await client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    )
    return answer.status_code, answer.json().get("error")


def shown(data: bytes) -> dict:
    return {"type": "image_url", "image_url": {"url": data_url(data)}}


async def test_what_cannot_be_shown_is_a_400_that_names_the_part(model):
    directory, *_ = model
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    async with gateway.serving(model=str(directory), threads=1) as client:
        for part in (shown(svg), shown(ONE[:-200]), shown(b"")):
            status, error = await refusal(client, part)
            assert (status, error["param"]) == (400, "messages[0].content[1]")
        for url in ("file:///etc/passwd", "/etc/passwd"):
            status, error = await refusal(client, {"type": "image_url", "image_url": url})
            assert (status, error["param"]) == (400, "messages[0].content[1].image_url")
        status, error = await refusal(client, {"type": "image_url", "image_url": "http://127.0.0.1:80/x"})
        assert (status, error["param"]) == (400, "messages[0].content[1]")
        status, error = await refusal(client, *[shown(ONE)] * 100)
        assert (status, error["param"]) == (400, "messages")
        status, error = await refusal(client, *[shown(picture(at, 32, 32)) for at in range(60)])
        assert (status, error["code"]) == (400, "context_length_exceeded")
        assert (await refusal(client, shown(ONE)))[0] == 200


async def test_a_picture_that_the_model_stumbles_over_costs_its_own_request(model, monkeypatch):
    directory, expected, _ = model
    made, bad = VisionTower._made, sha256(TWO).digest()

    def stumble(self, one):
        if one.key.startswith(bad):
            raise ValueError("as if it had another size")
        return made(self, one)

    monkeypatch.setattr(VisionTower, "_made", stumble)
    async with gateway.serving(model=str(directory), threads=1) as client:
        for stream in (False, True):
            body = {"messages": wire([("user", (TWO,))]), "n": 2, "stream": stream}
            answer = await client.post("/v1/chat/completions", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        turns = [("user", (ONE, "what?"))]
        body = {"messages": wire(turns), "max_tokens": COUNT, "temperature": 0, "ignore_eos": True}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == expected(turns)
        described = (await client.get("/healthz")).json()["providers"][0]["models"][0]
    assert (described["restarts"], described["engine"]["kv_used"]) == (0, 0)


async def test_a_model_that_only_reads_is_shown_nothing(tmp_path, tiny_llama):
    tiny_llama(tmp_path)
    async with gateway.serving(model=str(tmp_path), threads=1) as client:
        status, error = await refusal(client, shown(ONE))
    assert (status, error["type"]) == (422, "CapabilityNotSupported")
    assert "images" in error["message"]


async def test_what_it_can_do_is_said(model):
    directory, *_ = model
    async with gateway.serving(model=str(directory), threads=1) as client:
        providers = (await client.get("/healthz")).json()["providers"]
    assert "images" in providers[0]["models"][0]["capabilities"]


async def test_who_leaves_halfway_leaves_nothing_behind(model):
    directory, *_ = model
    async with gateway.serving(model=str(directory), threads=1) as client:
        body = {"messages": wire([("user", (ONE, TWO))]), "max_tokens": 500, "ignore_eos": True, "stream": True}
        stream = await anyio.connect_tcp(client.base_url.host, client.base_url.port)
        async with stream:
            await stream.send(raw_post("/v1/chat/completions", body))
            received = b""
            while b'"content"' not in received:
                received += await stream.receive()
        with anyio.fail_after(gateway.PATIENCE):
            while True:
                providers = (await client.get("/healthz")).json()["providers"]
                engine = providers[0]["models"][0]["engine"]
                if engine["running"] == 0:
                    break
    assert (engine["aborted"], engine["kv_used"]) == (1, 0)
