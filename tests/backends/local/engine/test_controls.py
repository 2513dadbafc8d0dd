"""Sampling controls in the running engine: greedy against `generate`, seeds in any company, prompts that are scored."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import random

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from transformers import GenerationConfig

from illm.backends.local.engine import Engine, SequenceRequest

from .tiny import VOCABULARY, generate, make, prompt

pytestmark = pytest.mark.model


def spell(ids):
    return "".join(f"{token} " for token in ids)


@pytest.fixture(scope="module")
def model():
    return make("qwen3")


@pytest.fixture(scope="module")
def reference():
    return make("qwen3")


def collect(engine, into):
    for output in engine.step():
        told = into.setdefault(output.id, {"text": "", "scores": [], "prompt": (), "finish": None})
        told["text"] += output.text
        told["scores"] += [output.score] if output.score else []
        told["prompt"] += output.prompt
        told["finish"] = output.finish


def run(engine):
    told = {}
    while engine.busy:
        collect(engine, told)
    return told


def test_greedy_with_controls_is_generate_token_for_token(model, reference):
    bias = {7: 3.0, 50: 2.5, 120: -100.0}
    controls = {
        1: ({}, {}),
        2: ({"repetition_penalty": 1.6}, {"repetition_penalty": 1.6}),
        3: ({"logit_bias": bias}, {"sequence_bias": {(token,): value for token, value in bias.items()}}),
        4: (
            {"repetition_penalty": 0.8, "logit_bias": bias},
            {"repetition_penalty": 0.8, "sequence_bias": {(token,): value for token, value in bias.items()}},
        ),
    }
    engine = Engine(model, spell, kv_tokens=1024, busy_chunk=5)
    for number, (ours, _) in controls.items():
        engine.add(SequenceRequest(id=number, prompt=prompt(4 + number), max_new_tokens=30, temperature=0.0, **ours))
    told = run(engine)
    texts = {number: one["text"] for number, one in told.items()}
    expected = {
        number: spell(generate(reference, prompt(4 + number), 30, **theirs)) for number, (_, theirs) in controls.items()
    }
    assert texts == expected
    assert len(set(texts.values())) == 4


def test_an_answer_does_not_end_before_its_least_length(model, reference):
    ids = prompt(5)
    free = generate(reference, ids, 20)
    eos = free[3]
    row = torch.tensor([ids])
    config = GenerationConfig(max_new_tokens=20, min_new_tokens=9, do_sample=False, eos_token_id=eos, pad_token_id=0)
    with torch.inference_mode():
        out = reference.generate(row, attention_mask=torch.ones_like(row), generation_config=config)
    expected = [token for token in out[0, 5:].tolist() if token != eos]
    engine = Engine(model, spell, kv_tokens=1024)
    common = {"prompt": ids, "max_new_tokens": 20, "temperature": 0.0, "eos": frozenset({eos})}
    engine.add(SequenceRequest(id=1, min_tokens=9, **common))
    engine.add(SequenceRequest(id=2, **common))
    told = run(engine)
    assert told[1]["text"] == spell(expected)
    assert len(expected) >= 9
    assert told[2]["text"] == spell(free[: free.index(eos)])


def some_request(number, pick):
    return SequenceRequest(
        id=number,
        prompt=prompt(pick.randrange(1, 30), seed=number),
        max_new_tokens=pick.randrange(20, 60),
        seed=pick.randrange(-(2**63), 2**63),
        temperature=pick.choice((0.0, 0.7, 1.3)),
        top_k=pick.choice((0, 0, 20)),
        top_p=pick.choice((1.0, 0.9)),
        min_p=pick.choice((0.0, 0.02)),
        typical_p=pick.choice((1.0, 1.0, 0.9)),
        repetition_penalty=pick.choice((1.0, 1.2)),
        presence_penalty=pick.choice((0.0, 0.6)),
        frequency_penalty=pick.choice((0.0, 0.4)),
        logit_bias=pick.choice(({}, {3: 2.0})),
        eos=frozenset(pick.sample(range(VOCABULARY), pick.choice((0, 0, 1)))),
        min_tokens=pick.choice((0, 0, 8)),
        stop=pick.choice(((), ("77 1", "5 77"))),
        logprobs=pick.choice((None, 0, 3)),
    )


@pytest.mark.parametrize("schedule", [0, 2])
def test_whoever_comes_and_goes_a_seed_gives_the_same(model, schedule):
    """Random requests that join, leave, lose their memory and take it back, against each of them by itself."""
    pick = random.Random(schedule)
    requests = [some_request(number, pick) for number in range(14)]
    engine = Engine(model, spell, kv_tokens=160, busy_chunk=pick.choice((3, 16)), idle_chunk=40, check=False)
    told, waiting, left = {}, list(requests), set()
    while waiting or engine.busy:
        for _ in range(pick.randrange(3)):
            if waiting:
                engine.add(waiting.pop(0))
        if pick.random() < 0.05 and told:
            gone = pick.choice(sorted(told))
            if told[gone]["finish"] is None:
                engine.abort(gone)
                left.add(gone)
        collect(engine, told)
    alone = Engine(model, spell, kv_tokens=1024, check=False)
    for request in requests:
        alone.add(request)
        expected = run(alone)[request.id]
        if request.id in left:
            assert expected["text"].startswith(told[request.id]["text"])
            continue
        assert (told[request.id]["text"], told[request.id]["finish"]) == (expected["text"], expected["finish"])
        for one, other in zip(told[request.id]["scores"], expected["scores"], strict=True):
            assert one.token == other.token
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


@pytest.mark.parametrize("kv_tokens", [1024, 160])
def test_a_scored_prompt_is_scored_as_the_model_does(model, reference, kv_tokens):
    engine = Engine(model, spell, kv_tokens=kv_tokens, busy_chunk=7, idle_chunk=30)
    lengths = {1: 50, 2: 1, 3: 44, 4: 17}
    for number, length in lengths.items():
        engine.add(
            SequenceRequest(
                id=number,
                prompt=prompt(length),
                max_new_tokens=0 if number == 3 else 20,
                temperature=0.0,
                logprobs=3,
                prompt_scores=number != 4,
            )
        )
    told = run(engine)
    assert told[4]["prompt"] == ()
    assert (told[3]["text"], told[3]["finish"], told[3]["scores"]) == ("", "length", [])
    for number in (1, 2, 3):
        ids = prompt(lengths[number])
        with torch.inference_mode():
            logprobs = torch.log_softmax(reference(torch.tensor([ids])).logits[0].float(), -1)
        scores = told[number]["prompt"]
        assert [score.token for score in scores] == ids[1:]
        for row, score in zip(logprobs, scores, strict=False):
            assert score.logprob == pytest.approx(row[score.token].item(), abs=1e-3)
            assert [token for token, _ in score.top] == row.topk(3).indices.tolist()
    assert len(told[1]["text"].split()) == 20
    assert engine.stats.generated_tokens == 60


def test_a_prompt_may_fill_the_context_where_nothing_follows(model):
    engine = Engine(model, spell, kv_tokens=128)
    engine.add(SequenceRequest(id=1, prompt=prompt(engine.context), max_new_tokens=0, logprobs=0, prompt_scores=True))
    assert len(run(engine)[1]["prompt"]) == engine.context - 1


def test_in_bfloat16_no_neighbour_s_values_reach_a_row():
    """The same number of rows beside it, once mild and once extreme: not a token and not a probability may differ."""
    poison = VOCABULARY - 1

    def answers(value):
        model = make("llama", dtype=torch.bfloat16)
        with torch.no_grad():
            model.get_input_embeddings().weight[poison] = value
        engine = Engine(model, spell, kv_tokens=1024, check=False)
        watched = {"max_new_tokens": 25, "seed": 4, "logprobs": 2, "logit_bias": {poison: -100.0}}
        for number in (1, 2, 3):
            # Only extreme rows may say the extreme token, and always as many of it.
            engine.add(
                SequenceRequest(
                    id=number, prompt=[poison] * 9, max_new_tokens=25, temperature=0.0, logit_bias={poison: 1e9}
                )
            )
        engine.add(SequenceRequest(id=4, prompt=prompt(9), temperature=1.0, top_p=0.9, **watched))
        engine.add(SequenceRequest(id=5, prompt=prompt(9), temperature=0.0, repetition_penalty=1.3, **watched))
        told = run(engine)
        return told[4], told[5]

    mild = answers(0.01)
    assert len(set(mild[0]["text"].split())) > 8
    for extreme in (1e30, float("nan")):
        assert answers(extreme) == mild
