"""Answers of a given form, the whole way: HTTP, the official client, a random model that would write anything."""

import json
import os

import anyio
import orjson
import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `local` is not installed")
pytest.importorskip("llguidance", reason="the extra `local` is not installed")

from backends.local import gateway  # noqa: E402
from backends.local.schemas import conforms  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.model]

CONTEXT = 2048
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture
def tiny(varied_llama):
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    directory, _, _ = varied_llama(template, seed=3, context=CONTEXT)
    return directory


def serving(directory, **options):
    return gateway.serving(model=str(directory), threads=1, **options)


def asked(seed=1, **more):
    return {"messages": [{"role": "user", "content": "Who?"}], "max_tokens": 96, "seed": seed, **more}


def schema(of=PERSON):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": of}}}


async def answer(client, **more):
    response = await client.post("/v1/chat/completions", json=asked(**more))
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


async def streamed(client, **more):
    text, finish = "", None
    body = asked(**more, stream=True)
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                for choice in orjson.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
                    finish = choice["finish_reason"] or finish
    return text, finish


async def test_every_form_is_kept_streamed_and_not(tiny):
    async with serving(tiny) as client:
        for seed in range(4):
            text, finish = await answer(client, seed=seed, **schema())
            assert conforms(json.loads(text), PERSON)
            assert (await streamed(client, seed=seed, **schema())) == (text, finish)
        text, _ = await answer(client, response_format={"type": "json_object"})
        assert isinstance(json.loads(text), dict)
        for field in ({"regex": "[ab]{3}-[0-9]{2}"}, {"structured_outputs": {"regex": "[ab]{3}-[0-9]{2}"}}):
            text, finish = await answer(client, **field)
            assert (len(text), text[3], finish) == (6, "-", "stop")
            assert set(text[:3]) <= set("ab")
        text, finish = await answer(client, structured_outputs={"choice": ["yes", "no\n", "é"]})
        assert text in ("yes", "no\n", "é")
        assert finish == "stop"
        text, _ = await answer(client, structured_outputs={"grammar": 'start: "<" /[a-c]{4}/ ">"'})
        assert (text[0], len(text), text[-1]) == ("<", 6, ">")
        text, _ = await answer(client, structured_outputs={"json": json.dumps(PERSON)})
        assert conforms(json.loads(text), PERSON)
        text, finish = await answer(client, response_format={"type": "text"}, ignore_eos=True)
        assert finish == "length"


async def test_raw_completions_too_and_the_end_of_the_form_ends_them_whatever_is_ignored(tiny):
    body = {"prompt": "x", "max_tokens": 40, "ignore_eos": True, "n": 3, "structured_outputs": {"regex": "[0-9]{5}"}}
    async with serving(tiny) as client:
        choices = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop"] * 3
    assert all(len(choice["text"]) == 5 and choice["text"].isdecimal() for choice in choices)


async def test_a_limit_that_is_too_short_for_more_closes_the_text(tiny):
    """The random model never closes a string of itself: without a reserve not one of these would parse."""
    words = {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}
    async with serving(tiny) as client:
        for limit in (12, 17, 40):
            text, finish = await answer(client, seed=limit, max_tokens=limit, **schema(words))
            assert isinstance(json.loads(text)["said"], str)
            assert finish in ("stop", "length")
        text, finish = await answer(client, seed=5, max_tokens=30, temperature=0, **schema(words))
        assert json.loads(text)


async def test_rows_of_one_batch_do_not_know_of_each_other(tiny):
    kinds = [
        schema(),
        {},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"regex": "[a-z ]{20,}"}},
        {"temperature": 0, **schema()},
    ]
    async with serving(tiny) as client:
        alone = [await answer(client, seed=at, **kind) for at, kind in enumerate(kinds)]
        together = [("", "")] * len(kinds)

        async def ask(at):
            together[at] = await answer(client, seed=at, **kinds[at])

        async with anyio.create_task_group() as tasks:
            for at in range(len(kinds)):
                tasks.start_soon(ask, at)
    assert together == alone


@pytest.mark.skipif(os.name != "posix", reason="needs a system that hands sockets to child processes")
async def test_in_a_process_of_its_own_the_same_is_kept_and_refused(tiny):
    kinds = [schema(), {"structured_outputs": {"regex": "[a-z ]{20,}"}, "temperature": 0}]
    async with serving(tiny) as client:
        expected = [await answer(client, **kind) for kind in kinds]
    async with serving(tiny, engine="process") as client:
        assert [await answer(client, **kind) for kind in kinds] == expected
        assert await streamed(client, **kinds[0]) == expected[0]
        refused = await client.post("/v1/chat/completions", json=asked(structured_outputs={"regex": "(a"}))
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "structured_outputs.regex")
        assert await answer(client, **kinds[1]) == expected[1]


@pytest.mark.parametrize(
    ("field", "param"),
    [
        (
            schema({"type": "object", "properties": {"a": {"type": "strin"}}}),
            "response_format.json_schema.schema.properties.a",
        ),
        (
            schema({"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "integer", "multipleOf": 0}}]}),
            "response_format.json_schema.schema.anyOf[1].items",
        ),
        (schema({"type": "array", "uniqueItems": True}), "response_format.json_schema.schema"),
        (
            schema({"allOf": [{"type": "string", "pattern": f"a.{{{at}}}b"} for at in range(40)]}),
            "response_format.json_schema.schema.allOf",
        ),
        (schema({"$ref": "#/$defs/none"}), "response_format.json_schema.schema"),
        (schema({"description": "x" * (1 << 18)}), "response_format.json_schema.schema"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice[1]"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"grammar": "start: other"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"whitespace_pattern": "x"}}, "structured_outputs.whitespace_pattern"),
        ({"regex": "a", **schema()}, "regex"),
    ],
)
async def test_what_cannot_be_had_is_the_client_s_error_and_says_where(served, field, param):
    response = await served.post("/v1/chat/completions", json=asked(**field))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert "\n" not in error["message"]


@pytest.fixture
async def served(tiny):
    async with serving(tiny) as client:
        yield client


async def test_the_official_client_parses_what_comes(tiny):
    openai = pytest.importorskip("openai")
    pydantic = pytest.importorskip("pydantic")

    class Colour(pydantic.BaseModel):
        red: bool
        depth: int | None

    async with (
        serving(tiny) as client,
        openai.AsyncOpenAI(
            base_url=f"{client.base_url}/v1", api_key="none", http_client=client, max_retries=0
        ) as official,
    ):
        parsed = await official.chat.completions.parse(
            model="tiny",
            messages=[{"role": "user", "content": "Which?"}],
            response_format=Colour,
            max_tokens=200,
            seed=4,
        )
        assert isinstance(parsed.choices[0].message.parsed, Colour)
