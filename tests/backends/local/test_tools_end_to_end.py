"""Tools and reasoning the whole way: the official client, our server, the engine, and a model that knows its lines."""

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("transformers", reason="the extra `local` is not installed")
openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

from backends.local.asking import ARGUMENTS, ASKED, GET, ONE, calls_of, serving  # noqa: E402
from backends.local.families import HERMES, LLAMA3, MARKS, MISTRAL_NEW, PYTHONIC, THINKING  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.model]


TWO = f'{ONE}\n<tool_call>\n{{"name": "get", "arguments": {{}}}}\n</tool_call>'


async def test_calls_streamed_and_whole(reciting):
    request = {**ASKED, "tools": [GET]}
    async with serving(reciting(HERMES, TWO, request)) as asks:
        answer = await asks.whole(**request, n=2)
        for choice in answer.choices:
            assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
            assert calls_of(choice.message) == [["get", ARGUMENTS], ["get", "{}"]]
        ids = [call.id for choice in answer.choices for call in choice.message.tool_calls]
        assert len(set(ids)) == 4
        parts = await asks.streamed(**request)
        assert (parts.text, parts.reason, parts.calls) == ("I look.", "tool_calls", [["get", ARGUMENTS], ["get", "{}"]])
        assert parts.pieces > 3  # in pieces, as they came

        one = await asks.whole(**request, parallel_tool_calls=False)
        assert calls_of(one.choices[0].message) == [["get", ARGUMENTS]]
        assert one.choices[0].finish_reason == "tool_calls"
        assert one.usage.completion_tokens < answer.usage.completion_tokens / 2  # it did not go on

        short = await asks.whole(**{**request, "max_tokens": 60})
        assert short.choices[0].finish_reason == "length"
        [[name, arguments]] = calls_of(short.choices[0].message)
        assert name == "get"
        assert ARGUMENTS.startswith(arguments)

        sure = await asks.whole(**request, logprobs=True)
        assert calls_of(sure.choices[0].message) == [["get", ARGUMENTS], ["get", "{}"]]
        assert len(sure.choices[0].logprobs.content) == sure.usage.completion_tokens

        stopped = await asks.whole(**request, stop=["days"])
        assert calls_of(stopped.choices[0].message) == [["get", ARGUMENTS.partition("days")[0]]]

        models = (await asks.http.get("/healthz")).json()["providers"]
        assert "tools" in next(one for one in models if one["framework"] == "transformers")["capabilities"]


@pytest.mark.parametrize(
    ("template", "more", "answer"),
    [
        (MISTRAL_NEW, MARKS["mistral"], f"Hm.[TOOL_CALLS]get[ARGS]{ARGUMENTS}"),
        (LLAMA3, MARKS["llama3"], f'Hm.<|python_tag|>{{"name": "get", "parameters": {ARGUMENTS}}}'),
        (PYTHONIC, (), 'Hm.\n[get(place="Köln", days=2)]'),
    ],
    ids=["mistral", "llama3", "pythonic"],
)
async def test_marks_that_are_special_tokens(reciting, template, more, answer):
    request = {**ASKED, "tools": [GET]}
    # Whichever of its two names the local engine is called by.
    async with serving(reciting(template, answer, request, more), framework="tgi", tgi_local=True) as asks:
        message = (await asks.whole(**request)).choices[0].message
        assert (message.content, calls_of(message)) == ("Hm.", [["get", ARGUMENTS]])
        parts = await asks.streamed(**request)
        assert (parts.text, parts.calls, parts.reason) == ("Hm.", [["get", ARGUMENTS]], "tool_calls")


async def test_reasoning_that_the_template_opened(reciting):
    request = {**ASKED, "tools": [GET]}
    answer = f'Hm.\n<tool_call>?\n</think>\n\nYes.\n<tool_call>{{"name": "get", "arguments": {ARGUMENTS}}}</tool_call>'
    async with serving(reciting(THINKING, answer, request)) as asks:
        whole = await asks.whole(**request)
        message = whole.choices[0].message
        thoughts = whole.usage.completion_tokens_details.reasoning_tokens
        assert 0 < thoughts < whole.usage.completion_tokens
        assert (message.reasoning_content, message.content) == ("Hm.\n<tool_call>?", "Yes.")
        assert calls_of(message) == [["get", ARGUMENTS]]
        parts = await asks.streamed(**request)
        assert (parts.thought, parts.text, parts.calls) == ("Hm.\n<tool_call>?", "Yes.", [["get", ARGUMENTS]])
        with pytest.raises(openai.BadRequestError) as refused:
            await asks.whole(**request, extra_body={"chat_template_kwargs": {"nonsense": 1}})
        assert refused.value.param == "chat_template_kwargs.nonsense"


async def test_what_the_model_cannot_is_refused_by_name(tmp_path, tiny_llama):
    tiny_llama(tmp_path / "tiny", template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
    async with serving(tmp_path / "tiny") as asks:
        for more, param in (
            ({"tools": [GET]}, "tools"),
            ({"reasoning_effort": "low"}, "reasoning_effort"),
            ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages[0].role"),
        ):
            with pytest.raises(openai.APIStatusError) as refused:
                await asks.whole(**{**ASKED, "max_tokens": 4, **more})
            assert refused.value.param == param
        answer = await asks.whole(**{**ASKED, "max_tokens": 4}, tools=[GET], tool_choice="none")
        assert answer.choices[0].message.tool_calls is None
        models = (await asks.http.get("/healthz")).json()["providers"]
        assert "tools" not in next(one for one in models if one["framework"] == "transformers")["capabilities"]
