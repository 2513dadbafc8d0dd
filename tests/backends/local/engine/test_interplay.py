"""Everything at once in too little memory: each sequence that stays gets what it would have got alone.

Grammars, scored prompts, choices of one prompt, pictures, priorities, the prefix cache, those who leave and those whose
picture cannot be used: whatever one of them does to the KV memory, its neighbours must not see it, and at the end
nobody holds any.
"""

# ruff: noqa: E402  (without torch the rest must not be imported)

import random
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")
pytest.importorskip("llguidance", reason="needs the extra `local`")

from illm.backends.local.engine import FAILED, Engine, SequenceRequest
from illm.backends.local.engine.illustrated import Illustrated, Picture
from illm.backends.local.engine.transformers_loop import TransformersEngine
from illm.backends.local.grammar import GrammarCompiler

from .tiny import make

pytestmark = pytest.mark.model

END, PLACEHOLDER, HIDDEN = 2, 3, 48
GRAMMARS = (
    "start: /[ab]{40,60}/",
    "start: /([0-9],)+x/",
    'start: %json {"type": "array", "items": {"type": "integer"}}',
)
BROKEN = b"broken"


class Tower:
    """Makes rows of a picture out of its key; of some it makes none."""

    def rows(self, picture):
        if picture.key == BROKEN:
            raise ValueError("no picture")
        generator = torch.Generator().manual_seed(int.from_bytes(picture.key, "big"))
        return torch.randn(picture.rows, HIDDEN, generator=generator)


@pytest.fixture
def tokenizer(byte_tokenizer):
    return byte_tokenizer()


def spell(ids):
    return "".join(f"{token} " for token in ids)


def illustrated(ids, key, rows):
    ids = [*ids[:3], *[PLACEHOLDER] * rows, *ids[3:]]
    return Illustrated(ids, placeholder=PLACEHOLDER, pictures=[Picture(key, {}, rows)], tower=Tower())


def some(number, pick, grammars, vocabulary, pictures):
    """Return a few requests: the choices of one prompt."""
    texts = [[(7 * at * at + 31 * which) % (vocabulary - 9) + 9 for at in range(70)] for which in range(2)]
    ids = [
        *pick.choice(texts)[: pick.randrange(45)],
        *(pick.randrange(9, vocabulary) for _ in range(pick.randint(1, 20))),
    ]
    shows = pictures and pick.random() < 0.3
    scored = not shows and pick.random() < 0.3
    formed = pick.random() < 0.3
    request = SequenceRequest(
        id=number,
        prompt=illustrated(ids, pick.choice([b"a", b"b", BROKEN]), pick.randint(1, 40)) if shows else ids,
        max_new_tokens=pick.choice((0, 1, 40, 70)) if scored else pick.choice((1, 40, 70)),
        temperature=pick.choice((0.0, 1.0)),
        top_p=pick.choice((1.0, 0.9)),
        repetition_penalty=pick.choice((1.0, 1.2)),
        min_tokens=pick.choice((0, 0, 6)),
        logprobs=pick.choice((0, 2)) if scored else pick.choice((None, 1)),
        prompt_scores=scored,
        priority=pick.choice((0, 0, -1, 1)),
        stop=pick.choice(((), (), (), ("70 7", " 99"))),
        eos=pick.choice((frozenset(), frozenset({END}))),
        constraint=pick.choice(grammars) if formed else None,
    )
    choices = pick.choice((1, 1, 3))
    return [replace(request, id=number + at, seed=number + at) for at in range(choices)]


def collect(engine, told):
    for output in engine.step():
        one = told.setdefault(output.id, {"text": "", "tokens": [], "scores": [], "prompt": [], "finish": None})
        assert one["finish"] is None, "nothing comes behind the end"
        one["text"] += output.text
        one["scores"] += [output.score.logprob] if output.score else []
        one["tokens"] += [output.score.token] if output.score else []
        one["prompt"] += [(score.token, score.logprob) for score in output.prompt]
        one["finish"] = output.finish


def engine_of(kind, vocabulary, **options):
    return kind(make("llama", vocab_size=vocabulary), spell, **options)


@pytest.mark.parametrize("kind", [Engine, TransformersEngine])
@pytest.mark.parametrize("schedule", range(2))
def test_whatever_runs_beside_it_and_nobody_holds_memory_at_the_end(tokenizer, kind, schedule):
    pick = random.Random(schedule)
    vocabulary, packed = len(tokenizer), kind is Engine
    compiler = GrammarCompiler(tokenizer, vocabulary, frozenset({END}))
    grammars = [compiler.lark(text, "p") for text in GRAMMARS]
    more = {"prefix_cache": bool(schedule), "check": False, "busy_chunk": pick.choice((3, 40))} if packed else {}
    engine = engine_of(kind, vocabulary, kv_tokens=192, max_sequences=6, **more)
    waiting = [one for at in range(20) for one in some(10 * at, pick, grammars, vocabulary, packed)]
    requests = {request.id: request for request in waiting}
    told, left = {}, set()
    while waiting or engine.busy:
        for _ in range(pick.randrange(6)):
            if waiting:
                engine.add(waiting.pop(0))
        if pick.random() < 0.03:
            gone = pick.choice(sorted(engine._sequences) or [-1])
            left |= {gone} & engine._sequences.keys()
            engine.abort(gone)
        collect(engine, told)
    stats = engine.stats
    assert stats.preemptions
    assert (stats.running, stats.waiting, stats.kv_used) == (0, 0, 0)
    pool = engine._scheduler._pool
    assert pool.free == pool.total
    assert not any(pool._holders)
    alone = engine_of(kind, vocabulary, kv_tokens=512, **({"prefix_cache": False, "check": False} if packed else {}))
    for request in requests.values():
        alone.add(request)
        expected = {}
        while alone.busy:
            collect(alone, expected)
        wanted, found = expected[request.id], told.get(request.id)
        if request.id in left:
            assert found is None or wanted["text"].startswith(found["text"])
            continue
        assert (found["text"], found["tokens"], found["finish"]) == (wanted["text"], wanted["tokens"], wanted["finish"])
        assert (found["finish"] == FAILED) == (getattr(request.prompt, "salt", b"") == BROKEN)
        assert found["scores"] == pytest.approx(wanted["scores"], abs=1e-3)
        assert [token for token, _ in found["prompt"]] == (list(request.prompt[1:]) if request.prompt_scores else [])
        assert [known for _, known in found["prompt"]] == pytest.approx(
            [known for _, known in wanted["prompt"]], abs=1e-3
        )


class Panic(BaseException):
    """As native code raises it."""


class Breaking:
    """A grammar whose way fails at its fifth token, in one of the two things that it is asked."""

    def __init__(self, where):
        self.where = where

    def start(self, eos):
        breaking, asked = self, []

        class Way:
            finished = cut = False

            def mask(self):
                asked.append(1)
                if breaking.where == "mask" and len(asked) == 5:
                    raise Panic
                return b"\xff" * 100

            def take(self, token, left):
                if breaking.where == "take" and len(asked) == 5:
                    raise Panic
                return token

        return Way()


@pytest.mark.parametrize("where", ["mask", "take", "decode"])
def test_what_breaks_in_one_sequence_ends_that_one_only(where):
    calls = []

    def decode(ids):
        calls.append(ids)
        if len(calls) > 9:
            raise Panic
        return spell(ids)

    engine = engine_of(Engine, 200, kv_tokens=512, check=False)
    common = {"prompt": [9, 8, 7], "max_new_tokens": 20, "temperature": 0.0, "logprobs": 1}
    own = {"decode": decode} if where == "decode" else {"constraint": Breaking(where)}
    for number in range(3):
        engine.add(SequenceRequest(id=number, **common, **(own if number == 1 else {})))
    told = {}
    while engine.busy:
        collect(engine, told)
    assert told[1]["finish"] == FAILED
    assert 0 < len(told[1]["tokens"]) < 20
    assert told[0] == told[2]
    assert told[0]["tokens"][: len(told[1]["tokens"])] == told[1]["tokens"]
    assert (told[0]["finish"], len(told[0]["tokens"])) == ("length", 20)
    assert engine.stats.kv_used == 0
