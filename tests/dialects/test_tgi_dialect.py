"""TGI's dialect for clients: what is refused is refused in TGI's words, and an answer is the same however it came."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from illm.core.events import Delta, Done, Finish, Logprob, Usage
from illm.core.requests import Sampling
from illm.dialects import tgi
from illm.errors import GatewayError, Kind


def parse(stream=False, inputs="Say:", **parameters):
    return tgi.parse_generation({"inputs": inputs, "parameters": parameters}, stream=stream)


def sampling(**parameters) -> Sampling:
    return parse(**parameters).completion.sampling


def refusal(body, stream=False) -> str:
    with pytest.raises(GatewayError) as caught:
        tgi.parse_generation(body, stream=stream)
    assert caught.value.kind is Kind.INVALID_REQUEST
    body = orjson.loads(tgi.error_body(caught.value))
    assert body["error_type"] == "validation"
    assert tgi.error_status(caught.value) == 422
    return body["error"]


GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "seed": None}


def test_parameters_make_it_greedy_and_none_make_it_sample():
    """TGI's quirk: `do_sample` is false by default, but only if there are parameters at all."""
    chosen = sampling()
    assert {name: getattr(chosen, name) for name in GREEDY} == GREEDY
    for body in ({"inputs": "a"}, {"inputs": "a", "parameters": None}):
        generation = tgi.parse_generation(body)
        assert generation.completion.sampling.temperature == 1.0
        assert generation.seed == generation.completion.sampling.seed


@pytest.mark.parametrize(
    ("given_", "temperature"),
    [
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.5}, 0.5),
        ({"temperature": 1.0}, 0.0),
        ({"top_k": 3}, 1.0),
        ({"top_p": 0.5}, 1.0),
        ({"do_sample": False, "temperature": 0.5}, 0.5),
    ],
)
def test_what_only_sampling_has_a_use_for_turns_it_on(given_, temperature):
    assert sampling(**given_).temperature == temperature
    assert (sampling(**given_).seed is not None) == (temperature > 0)


def test_everything_else_is_carried():
    generation = parse(
        max_new_tokens=5,
        repetition_penalty=1.2,
        stop=["a"],
        seed=2**64 - 1,
        do_sample=True,
        details=True,
        return_full_text=True,
        top_n_tokens=2,
        truncate=7,
        typical_p=0.5,
    )
    chosen = generation.completion.sampling
    assert (chosen.max_tokens, chosen.repetition_penalty, chosen.stop, chosen.logprobs) == (5, 1.2, ("a",), 2)
    assert (generation.seed, chosen.seed) == (2**64 - 1, -1)
    assert (generation.details, generation.full_text, generation.top_tokens) == (True, True, 2)
    assert generation.completion.body == {"truncate": 7, "typical_p": 0.5}


def test_nulls_are_absent_and_strangers_ignored():
    names = ("best_of", "details", "do_sample", "stop", "seed", "temperature", "grammar", "adapter_id", "watermark")
    assert parse(**dict.fromkeys(names), use_cache=True) == parse()


def test_tokens_are_asked_for_only_where_they_are_shown():
    assert sampling().logprobs is None
    assert sampling(details=True).logprobs == 0
    assert parse(stream=True).completion.sampling.logprobs == 0


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"best_of": 0}, "`best_of` must be > 0 and <= 2. Given: 0"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 3}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"typical_p": 1}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"truncate": 0}, "`truncate` must be strictly positive. Given: 0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported by this server"),
        ({"adapter_id": "x"}, "`adapter_id` is not supported by this server: it has no adapters"),
        ({"seed": -1}, "`seed` must be >= 0 and <= 18446744073709551615"),
    ],
)
def test_what_tgi_refuses_is_refused_in_its_words(parameters, complaint):
    body = {"inputs": "a", "parameters": parameters}
    assert refusal(body) == f"Input validation error: {complaint}"


def test_streams_have_rules_of_their_own():
    sampled = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
    assert "`best_of` != 1 is not supported when streaming tokens" in refusal(sampled, stream=True)
    prefill = {"inputs": "a", "parameters": {"decoder_input_details": True}}
    assert "`decoder_input_details` == true is not supported when streaming" in refusal(prefill, stream=True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "inputs"),
        ({"inputs": ["a"]}, "inputs"),
        ({"inputs": "a", "parameters": []}, "parameters"),
        ({"inputs": "a", "parameters": {"stop": "a"}}, "stop"),
        ({"inputs": "a", "parameters": {"temperature": "hot"}}, "temperature"),
        ({"inputs": "a", "parameters": {"max_new_tokens": 1.5}}, "max_new_tokens"),
        ({"inputs": "a", "parameters": {"details": 1}}, "details"),
        ({"inputs": "a", "parameters": {"grammar": "a+"}}, "grammar"),
        ({"inputs": "a", "parameters": {"seed": 1e30}}, "seed"),
    ],
)
def test_wrong_types_are_named(body, words):
    message = refusal(body)
    assert message.startswith("Failed to deserialize the JSON body into the target type: ")
    assert words in message


def test_nothing_to_continue_is_refused():
    assert refusal({"inputs": ""}) == "Input validation error: `inputs` cannot be empty"


@pytest.mark.parametrize("kind", Kind)
def test_every_error_has_a_shape(kind):
    error = GatewayError(kind, "why")
    body = orjson.loads(tgi.error_body(error))
    assert set(body) == {"error", "error_type"}
    assert "why" in body["error"]
    assert 400 <= tgi.error_status(error) < 600
    assert tgi.error_frame(error) == b"data:%s\n\n" % tgi.error_body(error)


def token(number, text, special=False):
    return Delta(0, "" if special else text, 1, (Logprob(text, -0.5, id=number, special=special),))


TOKENS = (token(1, " Bl"), token(2, ""), token(3, "ué\u2028"), token(4, "</s>", special=True))
EVENTS = (*TOKENS, Finish(0, "stop"), Done(Usage(5, 4)))


def merged(events):
    """Join neighbouring deltas, as a reply does for a slow reader."""
    out = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, Delta) and isinstance(last, Delta):
            out[-1] = Delta(0, last.text + event.text, last.tokens + event.tokens, last.logprobs + event.logprobs)
        else:
            out.append(event)
    return out


def streamed(batches, **parameters):
    encoder = tgi.GenerationStream(parse(stream=True, details=True, **parameters))
    body = b"".join(encoder.feed(merged(batch)) for batch in batches) + encoder.close()
    assert len(body.decode().splitlines()) == 2 * body.count(b"\n\n")  # no text has cut a line
    frames = body.split(b"\n\n")
    assert frames.pop() == b""
    return [orjson.loads(frame.removeprefix(b"data:")) for frame in frames]


@given(st.sets(st.integers(1, len(EVENTS) - 1)))
def test_a_stream_says_the_same_however_it_came(cuts):
    """A token a line, in order; what ends it may have come apart from the last of them."""
    edges = [0, *sorted(cuts), len(EVENTS)]
    batches = [EVENTS[start:end] for start, end in pairwise(edges)]
    seen = streamed(batches)
    assert [event["token"]["id"] for event in seen if event["token"]["id"]] == [1, 2, 3, 4]
    assert [event["index"] for event in seen] == list(range(1, len(seen) + 1))
    assert "".join(event["token"]["text"] for event in seen if not event["token"]["special"]) == " Blué\u2028"
    assert [event["generated_text"] for event in seen] == [None] * (len(seen) - 1) + [" Blué\u2028"]
    assert seen[-1]["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 4,
        "seed": None,
        "input_length": 5,
    }


def test_a_whole_answer_says_it_too():
    body, counts = tgi.generated_body(parse(details=True, return_full_text=True), EVENTS)
    answer = orjson.loads(body)
    assert answer["generated_text"] == "Say: Blué\u2028"
    assert answer["details"]["finish_reason"] == "eos_token"
    assert [one["id"] for one in answer["details"]["tokens"]] == [1, 2, 3, 4]
    assert counts == (5, 4)
    assert counts.headers == [(b"x-prompt-tokens", b"5"), (b"x-generated-tokens", b"4")]


def test_the_full_text_has_the_prompt_in_front_at_the_end_only():
    seen = streamed([EVENTS], return_full_text=True)
    assert seen[0]["token"]["text"] == " Bl"
    assert seen[-1]["generated_text"] == "Say: Blué\u2028"


def test_an_answer_without_an_end_is_an_error():
    assert streamed([TOKENS])[-1]["error_type"] == "incomplete_generation"
    with pytest.raises(GatewayError) as caught:
        tgi.generated_body(parse(), [*TOKENS, Done(Usage(1, 1))])
    assert caught.value.kind is Kind.BACKEND_DIED


def test_after_an_error_nothing_follows():
    encoder = tgi.GenerationStream(parse(stream=True))
    assert encoder.fail(GatewayError(Kind.UPSTREAM, "boom")).startswith(b'data:{"error":')
    assert encoder.close() == encoder.fail(GatewayError(Kind.UPSTREAM, "boom")) == b""
