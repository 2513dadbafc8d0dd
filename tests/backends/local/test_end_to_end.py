"""The whole way: HTTP over a real socket, the application, the actor, its threads, the engine, and back."""

from itertools import pairwise

import anyio
import orjson
import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `local` is not installed")

from backends.local import gateway  # noqa: E402
from backends.local.gateway import PATIENCE  # noqa: E402
from illm.backends.local.text_work import TextWork  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.model]

CONTEXT = 4096


@pytest.fixture
def tiny(varied_llama):
    """A random model whose greedy output is varied and, with no end token in reach, long."""
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    return varied_llama(template, seed=3, context=CONTEXT)


def serving(directory, **options):
    return gateway.serving(model=str(directory), threads=1, **options)


async def engine_counters(client) -> dict:
    providers = (await client.get("/healthz")).json()["providers"]
    return next(provider for provider in providers if provider["framework"] == "transformers")["models"][0]


async def until(client, condition) -> dict:
    """Ask for the counters until they say what is awaited."""
    with anyio.fail_after(PATIENCE):
        while not condition(model := await engine_counters(client)):
            pass
    return model


def completion(prompt, **more) -> dict:
    return {"prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True, **more}


def reference(model, tokenizer, prompt: str, count: int) -> str:
    ids = tokenizer.encode(prompt, return_tensors="pt")
    # Without an end token at all: `ignore_eos` is what the requests ask for.
    config = transformers.GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=-1)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def raw_post(path: str, body: dict) -> bytes:
    data = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def frames(response):
    """Yield the JSON of each event of a stream, and see it end properly."""
    last = None
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            last = line
            if line != "data: [DONE]":
                yield orjson.loads(line[6:])
    assert last == "data: [DONE]"


async def test_greedy_text_is_what_generate_gives_streamed_and_not(tiny):
    directory, model, tokenizer = tiny
    async with serving(directory) as client:
        for prompt in ("hello", "another prompt"):
            expected = reference(model, tokenizer, prompt, 24)
            assert len(set(expected)) >= 10
            whole = (await client.post("/v1/completions", json=completion(prompt))).json()
            assert whole["choices"][0]["text"] == expected
            assert whole["choices"][0]["finish_reason"] == "length"
            assert whole["usage"]["completion_tokens"] == 24
            async with client.stream("POST", "/v1/completions", json=completion(prompt, stream=True)) as response:
                pieces = [frame["choices"][0]["text"] async for frame in frames(response)]
            assert "".join(pieces) == expected
            assert len([piece for piece in pieces if piece]) > 5


async def test_in_a_process_of_its_own_it_says_the_same(tiny):
    directory, model, tokenizer = tiny
    async with serving(directory, engine="process") as client:
        answer = (await client.post("/v1/completions", json=completion("hello"))).json()
        assert answer["choices"][0]["text"] == reference(model, tokenizer, "hello", 24)
        described = await until(client, lambda model: "loop" in model and model["engine"]["finished"] == 1)
        assert (described["loop"], described["quantized"]) == ("packed", "none")
        refused = (await client.post("/v1/completions", json=completion("x" * (CONTEXT + 1)))).json()
        assert refused["error"]["param"] == "prompt"


async def test_what_the_packed_loop_refuses_is_answered_all_the_same(tiny, tmp_path):
    *_, tokenizer = tiny
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16, max_position_embeddings=CONTEXT,
        sliding_window=16, initializer_range=0.3, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = transformers.Gemma2ForCausalLM(config).eval()
    directory = tmp_path / "gemma2"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    async with serving(directory) as client:
        described = await engine_counters(client)
        assert described["loop"] == "transformers"
        assert "soft-capped" in described["loop_reason"]
        async with client.stream("POST", "/v1/completions", json=completion("hello", stream=True)) as response:
            pieces = [frame["choices"][0]["text"] async for frame in frames(response)]
        assert "".join(pieces) == reference(model, tokenizer, "hello", 24)
        assert len([piece for piece in pieces if piece]) > 1  # a reader who is late finds several in one
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.post("/v1/completions", json=completion("long", max_tokens=4000)))
            await until(client, lambda model: model["engine"]["running"] == 1)
            tasks.cancel_scope.cancel()
        stopped = await until(client, lambda model: model["engine"]["running"] == 0)
        assert (stopped["engine"]["aborted"], stopped["engine"]["kv_used"]) == (1, 0)


async def test_left_alone_it_is_unloaded_and_comes_back_for_who_asks(tiny):
    directory, model, tokenizer = tiny
    async with serving(directory, keep_alive=0.05) as client:
        for prompt in ("hello", "again"):
            await until(client, lambda model: model["state"] == "idle" and "engine" not in model)
            assert (await client.get("/healthz")).json()["status"] == "ok"
            answer = (await client.post("/v1/completions", json=completion(prompt))).json()
            assert answer["choices"][0]["text"] == reference(model, tokenizer, prompt, 24)


async def test_several_prompts_and_choices_keep_their_places(tiny):
    directory, model, tokenizer = tiny
    prompts = ["one", "two", "three"]
    async with serving(directory) as client:
        answer = (await client.post("/v1/completions", json=completion(prompts, n=2))).json()
    texts = [choice["text"] for choice in sorted(answer["choices"], key=lambda choice: choice["index"])]
    assert texts == [reference(model, tokenizer, prompt, 24) for prompt in prompts for _ in range(2)]


async def test_a_newcomer_speaks_while_a_long_stream_goes_on(tiny):
    directory, *_ = tiny
    order = []
    async with serving(directory) as client:

        async def long_one() -> None:
            body = completion("long", max_tokens=600, stream=True)
            async with client.stream("POST", "/v1/completions", json=body) as response:
                async for _ in frames(response):
                    order.append("long")
                    started.set()

        started = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(long_one)
            await started.wait()
            async with client.stream("POST", "/v1/completions", json=completion("new", stream=True)) as response:
                async for _ in frames(response):
                    order.append("new")  # noqa: PERF401 - the order in time is the point
    first, last = order.index("new"), len(order) - order[::-1].index("new")
    assert "long" in order[:first]
    assert "long" in order[first:last], "the long stream paused while the newcomer was answered"
    assert "long" in order[last:], "the newcomer had to wait for the long stream's end"


async def test_a_client_that_leaves_stops_the_decoding(tiny):
    directory, *_ = tiny
    async with serving(directory) as client:
        body = completion("long", max_tokens=4000, stream=True)
        # A bare socket: it can be dropped in the middle of a stream on both loops without leaving generators behind.
        stream = await anyio.connect_tcp(client.base_url.host, client.base_url.port)
        async with stream:
            await stream.send(raw_post("/v1/completions", body))
            received = b""
            while received.count(b"data: ") < 3:
                received += await stream.receive()
        model = await until(client, lambda model: model["engine"]["running"] == 0)
        assert model["engine"]["aborted"] == 1
        assert model["engine"]["generated_tokens"] < 4000
        assert model["engine"]["kv_used"] == 0
        assert model["active"] == 0


async def test_a_client_that_leaves_without_streaming_stops_it_too(tiny):
    directory, *_ = tiny
    async with serving(directory) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: client.post("/v1/completions", json=completion("long", max_tokens=4000)))
            await until(client, lambda model: model["engine"]["running"] == 1)
            tasks.cancel_scope.cancel()
        model = await until(client, lambda model: model["engine"]["running"] == 0)
        assert model["engine"]["aborted"] == 1


async def test_an_oversized_request_is_refused_and_the_next_one_answered(tiny):
    directory, *_ = tiny
    async with serving(directory) as client:
        refused = await client.post("/v1/completions", json=completion("x" * (CONTEXT + 1)))
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "context_length_exceeded"
        assert refused.json()["error"]["param"] == "prompt"
        over = await client.post("/v1/completions", json=completion("x", max_tokens=CONTEXT))
        assert over.status_code == 400
        assert over.json()["error"]["param"] == "max_tokens"
        assert (await client.post("/v1/completions", json=completion("x"))).status_code == 200


async def test_a_crash_fails_its_requests_and_the_engine_comes_back(tiny, monkeypatch):
    directory, *_ = tiny
    steps = 0
    original = TextWork.step

    def crash_once(self):
        nonlocal steps
        steps += 1
        if steps == 6:
            raise RuntimeError("the device fell over")
        return original(self)

    monkeypatch.setattr(TextWork, "step", crash_once)
    async with serving(directory) as client:
        body = completion("doomed", max_tokens=400, stream=True)
        async with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            events = [orjson.loads(line[6:]) async for line in response.aiter_lines() if line[:7] == "data: {"]
        assert events[-1]["error"]["code"] == "backend_died"
        assert not any(choice.get("finish_reason") for event in events[:-1] for choice in event["choices"])
        assert (await client.get("/healthz")).json()["status"] in ("degraded", "ok")
        model = await until(client, lambda model: model["state"] == "ready")
        assert model["restarts"] == 1
        assert (await client.post("/v1/completions", json=completion("again"))).status_code == 200


async def test_seeds_repeat_and_choices_of_one_seed_differ(tiny):
    directory, *_ = tiny
    body = completion("seeded", temperature=1.0, seed=7, n=3)
    async with serving(directory) as client:
        first, second = [(await client.post("/v1/completions", json=body)).json() for _ in range(2)]
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in second["choices"]]
    assert all(one != other for one, other in pairwise(texts))
