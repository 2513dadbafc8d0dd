"""Models that have learnt nothing, made to call: by a grammar, the whole way from the official client and back."""

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `local` is not installed")
pytest.importorskip("llguidance", reason="the extra `local` is not installed")
openai = pytest.importorskip("openai", reason="the official client is in the extra `test`")

from backends.local.asking import ASKED, GET, ONE, PUT, calls_of, follows, serving  # noqa: E402
from backends.local.families import HERMES, MARKS, MISTRAL_NEW, PYTHONIC, THINKING  # noqa: E402

pytestmark = [pytest.mark.anyio, pytest.mark.model]


@pytest.fixture
def random_model(varied_llama):
    """Return a function that makes a model which has learnt nothing, with a template."""

    def make(template: str, more: tuple[str, ...] = ()):
        directory, _, _ = varied_llama(template, seed=5, context=2048, more=more, hidden_size=32, intermediate_size=48)
        return directory

    return make


@pytest.mark.parametrize(
    ("template", "more"),
    [(THINKING, ()), (MISTRAL_NEW, MARKS["mistral"]), (PYTHONIC, ())],
    ids=["hermes", "mistral", "pythonic"],
)
async def test_a_model_that_knows_nothing_can_be_made_to_call(random_model, template, more):
    request = {"messages": ASKED["messages"], "tools": [GET, PUT], "temperature": 1, "max_tokens": 120}
    if template is THINKING:
        request["extra_body"] = {"chat_template_kwargs": {"enable_thinking": False}}
    named = {"type": "function", "function": {"name": "put"}}
    async with serving(random_model(template, more)) as asks:
        for seed in range(2):
            one = {**request, "seed": seed, "parallel_tool_calls": False}
            [choice] = (await asks.whole(**one, tool_choice="required")).choices
            # A call that was closed for want of tokens is a whole call, but one that the model was still writing.
            assert choice.finish_reason in ("tool_calls", "length")
            assert choice.message.content is None
            [[name, arguments]] = calls_of(choice.message)
            assert follows(name, arguments)
            parts = await asks.streamed(**one, tool_choice="required")
            assert (parts.calls, parts.reason) == ([[name, arguments]], choice.finish_reason)

            [choice] = (await asks.whole(**request, seed=seed, tool_choice=named)).choices
            assert choice.finish_reason in ("stop", "length")
            [[name, arguments]] = calls_of(choice.message)
            assert name == "put"
            assert follows(name, arguments)

        several = await asks.whole(**request, seed=1, n=2, tool_choice="required")
        for choice in several.choices:
            assert all(follows(name, arguments) for name, arguments in calls_of(choice.message))
            assert choice.message.tool_calls


async def test_a_schema_that_cannot_be_followed_is_refused_with_its_place(random_model):
    bad = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "nonsense"}}}}}
    async with serving(random_model(HERMES)) as asks:
        with pytest.raises(openai.BadRequestError) as refused:
            await asks.whole(**ASKED, tools=[GET, bad], tool_choice="required")
        assert refused.value.param.startswith("tools[1].function.parameters")
        with pytest.raises(openai.BadRequestError) as refused:
            await asks.whole(**ASKED, tool_choice="required")
        assert refused.value.param == "tool_choice"


async def test_strict_tools_leave_the_model_free_to_speak(reciting):
    strict = {"type": "function", "function": {**GET["function"], "strict": True}}
    request = {**ASKED, "tools": [strict], "parallel_tool_calls": False}
    wrong = ONE.replace('"days": 2', '"days": "x"')
    async with serving(reciting(HERMES, wrong, request)) as asks:
        message = (await asks.whole(**request)).choices[0].message
        assert message.content == "I look."
        [[name, arguments]] = calls_of(message)
        assert follows(name, arguments)
