"""Whichever loop drives a model: greedy output is `generate`'s, token for token."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import gc
import random

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
transformers = pytest.importorskip("transformers", reason="needs the extra `local`")

from illm.backends.local.engine import (
    RequestTooLarge,
    SequenceRequest,
    UnsupportedModel,
    engine_for,
    selfcheck,
    transformers_loop,
)
from illm.backends.local.engine.own_cache import Keeping, OwnCacheRunner
from illm.backends.local.engine.transformers_loop import TransformersEngine

from .tiny import _COMMON, ARCHITECTURES, VOCABULARY, generate, make, prompt

pytestmark = pytest.mark.model

NEW = 24
LENGTHS = (1, 5, 31, 40)

_MOE = _COMMON | {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_MAMBA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 8,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}

# name: configuration class, its arguments, the loop that drives it
OTHERS = {
    "mixtral": ("MixtralConfig", _MOE | {"num_local_experts": 4}, "packed"),
    "qwen3_moe": ("Qwen3MoeConfig", _MOE | {"num_experts": 4}, "packed"),
    "gemma2": ("Gemma2Config", _COMMON | {"sliding_window": 8, "query_pre_attn_scalar": 16}, "transformers"),
    "gpt_oss": ("GptOssConfig", _COMMON | {"num_local_experts": 4, "sliding_window": 8}, "transformers"),
    "mamba": ("MambaConfig", _MAMBA, "transformers"),
    "jamba": (
        "JambaConfig",
        _COMMON
        | {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
        "transformers",
    ),
    "lfm2": (
        "Lfm2Config",
        _COMMON | {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
        "transformers",
    ),
    "codegen": (
        "CodeGenConfig",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 4,
            "n_positions": 512,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        "transformers",
    ),
}


def build(name, seed=0):
    kind, arguments, _ = OTHERS[name]
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**arguments)).float().eval()


def spell(ids):
    return "".join(f"{token} " for token in ids)


def request(number, ids, new=NEW, **options):
    return SequenceRequest(id=number, prompt=ids, max_new_tokens=new, **{"temperature": 0, **options})


def run(engine, dice=None, waiting=()):
    """Drive an engine to its end; sequences join in between where there are dice."""
    waiting, said = list(waiting), {}
    while engine.busy or waiting:
        while waiting and (not engine.busy or dice is None or dice.random() < 0.2):
            engine.add(waiting.pop(0))
        for output in engine.step():
            said.setdefault(output.id, []).extend(int(word) for word in output.text.split())
    return said


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", OTHERS)
def test_greedy_is_what_generate_gives_whichever_loop_drives(name, caplog):
    model = build(name)
    prompts = [prompt(length) for length in LENGTHS]
    expected = [generate(model, ids, NEW) for ids in prompts]
    assert all(len(set(answer)) >= 6 for answer in expected), "a model that repeats itself tests nothing"
    engine = engine_for(model, spell, kv_tokens=1024)
    assert engine.loop == OTHERS[name][2]
    assert (engine.loop_reason is None) == (engine.loop == "packed")
    if engine.loop == "transformers":
        assert engine.loop_reason in caplog.text
    said = run(engine, random.Random(1), [request(number, ids) for number, ids in enumerate(prompts)])
    assert [said[number] for number in range(len(prompts))] == expected
    assert (engine.stats.kv_used, engine.stats.running) == (0, 0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_other_loop_agrees_where_the_packed_one_would_do(name):
    model = make(name)
    prompts = [prompt(length) for length in LENGTHS]
    expected = [generate(model, ids, NEW) for ids in prompts]
    engine = TransformersEngine(model, spell, kv_tokens=1024)
    said = run(engine, random.Random(2), [request(number, ids) for number, ids in enumerate(prompts)])
    assert [said[number] for number in range(len(prompts))] == expected


@pytest.fixture(scope="module")
def model():
    return build("gemma2")


@pytest.fixture(scope="module")
def expected(model):
    return [generate(model, prompt(length), NEW) for length in LENGTHS]


@pytest.fixture
def waiting():
    return [request(number, prompt(length)) for number, length in enumerate(LENGTHS)]


def answers_one_at_a_time(engine, waiting, expected):
    for one in waiting:
        engine.add(one)
    engine.step()
    assert engine.stats.running == 1
    said = run(engine)
    assert [said[number][-NEW + 1 :] for number in range(len(expected))] == [answer[1:] for answer in expected]


@pytest.mark.parametrize("keeping", [Keeping.ONE, Keeping.NOTHING])
def test_a_model_that_keeps_its_past_badly_is_served_all_the_same(model, expected, waiting, keeping, monkeypatch):
    original = OwnCacheRunner.run

    def refuse(self, pieces):
        ways = list(Keeping)
        if ways.index(self._keeping) < ways.index(keeping):
            raise RuntimeError("a cache that breaks")
        return original(self, pieces)

    monkeypatch.setattr(OwnCacheRunner, "run", refuse)
    answers_one_at_a_time(TransformersEngine(model, spell, kv_tokens=1024), waiting, expected)


def test_a_model_whose_past_is_in_its_modules_has_one_sequence_at_a_time(model, expected, waiting, monkeypatch):
    """Two sequences that share one past: taking turns gives the wrong logits, and that is found out."""
    last = {}
    decode = OwnCacheRunner._decode

    def share(self, tokens, past):
        past.options = last["options"]
        return decode(self, tokens, past)

    forward = OwnCacheRunner._forward

    def remember(self, tokens, past, **how):
        logits = forward(self, tokens, past, **how)
        last["options"] = past.options
        return logits

    monkeypatch.setattr(OwnCacheRunner, "_decode", share)
    monkeypatch.setattr(OwnCacheRunner, "_forward", remember)
    answers_one_at_a_time(TransformersEngine(model, spell, kv_tokens=1024), waiting, expected)


def test_what_gives_other_logits_each_time_is_refused(model, monkeypatch):
    reference = selfcheck.reference(model)
    wrong = selfcheck.Reference(reference.prompts, [logits.flip(1) for logits in reference.logits])
    monkeypatch.setattr(selfcheck, "reference", lambda model: wrong)
    with pytest.raises(UnsupportedModel, match="other logits"):
        TransformersEngine(model, spell, kv_tokens=1024)


def test_memory_that_runs_out_delays_and_changes_nothing(model):
    expected = [generate(model, prompt(length), NEW) for length in (30, 31)]
    engine = TransformersEngine(model, spell, kv_tokens=96)
    for number, length in enumerate((30, 31)):
        engine.add(request(number, prompt(length)))
    said = run(engine)
    assert [said[0], said[1]] == expected
    assert engine.stats.preemptions > 0
    with pytest.raises(RequestTooLarge):
        engine.add(request(9, prompt(50), new=50))


def test_what_leaves_or_ends_leaves_no_cache_behind(model, waiting):
    engine = TransformersEngine(model, spell, kv_tokens=1024)
    for one in waiting:
        engine.add(one)
    for _ in range(3):
        engine.step()
    assert len(engine._runner._pasts) == len(waiting)
    engine.abort(1)
    gc.collect()
    assert len(engine._runner._pasts) == len(waiting) - 1
    said = run(engine)
    gc.collect()
    assert 1 not in said
    assert len(engine._runner._pasts) == 0


def test_sampling_and_stops_are_those_of_the_other_loop():
    requests = [
        request(0, prompt(5), temperature=1.0, seed=3, top_p=0.9),
        request(1, prompt(6), temperature=0.7, seed=4, top_k=5, repetition_penalty=1.2),
    ]
    packed = engine_for(make("llama"), spell, kv_tokens=1024)
    other = TransformersEngine(make("llama"), spell, kv_tokens=1024)
    assert (packed.loop, other.loop) == ("packed", "transformers")
    said = run(packed, waiting=requests)
    assert run(other, waiting=requests) == said
    stop = f" {said[0][6]} "
    other.add(request(2, prompt(5), temperature=1.0, seed=3, top_p=0.9, stop=(stop,)))
    finishes = []
    while other.busy:
        finishes += [(output.finish, output.stop) for output in other.step()]
    assert finishes[-1] == ("stop", stop)


def test_memory_a_token_takes_is_measured():
    attention = OwnCacheRunner(make("llama"), Keeping.EACH)
    assert attention.bytes_a_token() == 3 * 2 * 2 * 16 * 4 + 8  # and the mask
    assert OwnCacheRunner(build("mamba"), Keeping.EACH).bytes_a_token() <= 16


def test_a_prompt_whose_scores_would_not_fit_is_refused_before_it_runs(model, monkeypatch):
    monkeypatch.setattr(transformers_loop, "_SCORED", 4 * VOCABULARY * 6)
    engine = TransformersEngine(model, spell, kv_tokens=512)
    fits, too_long = prompt(6), prompt(7)
    engine.add(SequenceRequest(id=1, prompt=fits, max_new_tokens=0, logprobs=1, prompt_scores=True))
    with pytest.raises(RequestTooLarge, match="more than the 6 there") as refused:
        engine.add(SequenceRequest(id=2, prompt=too_long, max_new_tokens=0, logprobs=1, prompt_scores=True))
    assert refused.value.param == "echo"
    engine.add(SequenceRequest(id=2, prompt=too_long, max_new_tokens=1, logprobs=1))
    outputs = run(engine)
    assert engine.stats.finished == 2, outputs
