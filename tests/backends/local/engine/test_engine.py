"""Joining, leaving, ending, and what is refused."""

# ruff: noqa: E402  (without torch the rest must not be imported)

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("transformers", reason="needs the extra `local`")

from illm.backends.local.engine import Engine, RequestTooLarge, SequenceRequest

from .tiny import POSITIONS, VOCABULARY, generate, make, prompt

pytestmark = pytest.mark.model


def spell(ids):
    return "".join(f"{token} " for token in ids)


def request(number=1, length=5, new=10, **options):
    values = {"id": number, "prompt": prompt(length), "max_new_tokens": new, "temperature": 0} | options
    return SequenceRequest(**values)


def run(engine):
    texts, finishes = {}, {}
    while engine.busy:
        for output in engine.step():
            texts[output.id] = texts.get(output.id, "") + output.text
            if output.finish is not None:
                finishes[output.id] = output.finish
    return texts, finishes


@pytest.fixture(scope="module")
def model():
    return make("qwen3")


@pytest.fixture
def engine(model):
    return Engine(model, spell, kv_tokens=1024)


@pytest.fixture(scope="module")
def said():
    """What the model says to `request()`, by itself."""
    return generate(make("qwen3"), prompt(5), 40)


def test_nothing_to_do(engine):
    assert not engine.busy
    assert engine.step() == []
    assert engine.stats.steps == 0


def test_the_end_of_text(engine, said):
    engine.add(request(1, eos=frozenset({said[4]})))
    engine.add(request(2))
    texts, finishes = run(engine)
    assert texts == {1: spell(said[: said.index(said[4])]), 2: spell(said[:10])}
    assert finishes == {1: "stop", 2: "length"}
    assert engine.stats.generated_tokens == said.index(said[4]) + 1 + 10


def test_a_stop_string_across_tokens(engine, said):
    stop = spell(said[:7])[-9:]
    assert stop.count(" ") > 1
    engine.add(request(1, new=40, stop=("never", stop)))
    texts, finishes = run(engine)
    assert (texts[1], finishes[1]) == (spell(said[:7])[:-9], "stop")
    assert engine.stats.generated_tokens == 7
    assert engine.stats.kv_used == 0


def test_characters_are_never_split(model):
    """Tokens are bytes here, and random ones: what comes out is what decoding them all at once gives."""

    def decode(ids):
        return bytes(ids).decode(errors="replace")

    engine = Engine(model, decode, kv_tokens=1024)
    plain = Engine(model, spell, kv_tokens=1024)
    for number in range(6):
        for one in (engine, plain):
            one.add(request(number, length=number + 1, new=60, temperature=1.0, seed=number))
    texts, _ = run(engine)
    words, _ = run(plain)
    for number, text in texts.items():
        ids = [int(word) for word in words[number].split()]
        context = prompt(number + 1)[-6:]
        assert (
            decode(context + ids)
            == decode(context).rstrip("\ufffd") + decode(context + ids)[len(decode(context).rstrip("\ufffd")) :]
        )
        assert decode(context + ids).endswith(text)
        assert len(text) >= len(decode(ids)) - 3


@pytest.mark.parametrize("steps", [0, 1, 2, 12])
def test_an_abort_in_any_state_frees_everything(model, said, steps):
    engine = Engine(model, spell, kv_tokens=1024, idle_chunk=20, busy_chunk=20)
    engine.add(request(1, length=60, new=50))
    for _ in range(steps):
        engine.step()
    waiting, prefilling, decoding = steps == 0, steps in (1, 2), steps == 12
    assert engine.stats.waiting == waiting
    assert engine.stats.running == (not waiting)
    assert (engine.stats.generated_tokens > 0) == decoding
    assert (engine.stats.kv_used > 0) == (prefilling or decoding)
    engine.abort(1)
    assert engine.stats.kv_used == engine.stats.running == engine.stats.waiting == 0
    assert (engine.stats.aborted, engine.stats.finished) == (1, 0)
    assert engine.step() == []
    engine.add(request(2))
    assert run(engine)[0] == {2: spell(said[:10])}


def test_an_abort_between_others_changes_nothing_for_them(engine, said):
    for number in (1, 2, 3):
        engine.add(request(number, new=20))
    for _ in range(5):
        engine.step()
    engine.abort(2)
    engine.abort(2)
    engine.abort(99)
    assert engine.stats.aborted == 1
    texts, _ = run(engine)
    assert texts.keys() == {1, 3}
    assert all(spell(said[:20]).endswith(text) for text in texts.values())


def test_a_preempted_sequence_can_be_aborted(model):
    engine = Engine(model, spell, kv_tokens=160)
    for number in (1, 2):
        engine.add(request(number, prompt=prompt(60, seed=number), new=60))
    while not engine.stats.preemptions:
        engine.step()
    assert (engine.stats.running, engine.stats.waiting) == (1, 1)
    engine.abort(2)
    texts, _ = run(engine)
    assert texts.keys() == {1}
    assert engine.stats.kv_used == 0


@pytest.mark.parametrize("kv_tokens", [128, 4096])
def test_what_can_never_fit_is_refused_at_once_and_hurts_nobody(model, said, kv_tokens):
    engine = Engine(model, spell, kv_tokens=kv_tokens)
    assert engine.context == min(kv_tokens, POSITIONS)
    engine.add(request(1))
    for length, new in ((engine.context, 1), (1, engine.context), (engine.context + 1, 1)):
        with pytest.raises(RequestTooLarge, match=str(engine.context)):
            engine.add(request(2, length=length, new=new))
    assert run(engine)[0] == {1: spell(said[:10])}


@pytest.mark.parametrize("kv_tokens", [128, 4096])
def test_what_just_fits_is_served_to_the_last_token(model, kv_tokens):
    engine = Engine(model, spell, kv_tokens=kv_tokens)
    engine.add(request(1, length=engine.context - 7, new=7))
    texts, finishes = run(engine)
    assert len(texts[1].split()) == 7
    assert finishes == {1: "length"}


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_token_outside_the_vocabulary_is_refused(engine, token):
    with pytest.raises(ValueError, match="token ids"):
        engine.add(request(1, prompt=[1, token]))
    assert not engine.busy


def test_an_id_in_use_is_refused(engine):
    engine.add(request(1))
    with pytest.raises(ValueError, match="already"):
        engine.add(request(1))
    engine.abort(1)
    engine.add(request(1))


def test_a_seed_gives_the_same_answer_in_any_company(model):
    options = {"new": 30, "temperature": 1.2, "top_p": 0.95, "seed": 11}
    alone = Engine(model, spell, kv_tokens=1024)
    alone.add(request(1, **options))
    expected = run(alone)[0][1]
    crowd = Engine(model, spell, kv_tokens=512, busy_chunk=3)
    for number in range(2, 7):
        crowd.add(request(number, length=5 * number, new=30, temperature=0.5 * number, seed=number))
    for _ in range(4):
        crowd.step()
    crowd.add(request(1, **options))
    crowd.add(request(8, **(options | {"seed": 12})))
    crowd.add(request(9, **(options | {"seed": None})))
    crowd.add(request(10, **(options | {"seed": None})))
    texts, _ = run(crowd)
    assert texts[1] == expected
    assert len({texts[number] for number in (1, 8, 9, 10)}) == 4
    assert len(set(expected.split())) > 10


def test_preemption_does_not_change_a_draw(model):
    def answers(kv_tokens):
        engine = Engine(model, spell, kv_tokens=kv_tokens)
        for number in range(4):
            engine.add(request(number, length=20, new=60, temperature=1.0, seed=number))
        return run(engine)[0], engine.stats.preemptions

    plenty, none = answers(1024)
    scarce, some = answers(128)
    assert scarce == plenty
    assert none == 0 < some


def test_an_extreme_neighbour_does_not_change_a_row(said):
    """One token's embedding is not a number; whoever says it spoils its own keys and values, and no one else's."""
    model = make("qwen3")
    poison = VOCABULARY - 1
    assert poison not in said
    assert poison not in prompt(5)
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = float("nan")
    # Without a prefix cache, so that the poisoned memory is handed on as soon as it can be.
    engine = Engine(model, spell, kv_tokens=1024, prefix_cache=False)
    # First in, so that they have the lowest slots: what a careless padding would point to.
    for number in (1, 2):
        engine.add(request(number, prompt=[poison] * 70, new=45))
    engine.add(request(3, new=40))
    engine.add(request(4, new=30))
    texts, _ = run(engine)
    assert (texts[3], texts[4]) == (spell(said), spell(said[:30]))
    # The poisoned memory is handed on to others.
    for number in range(5, 12):
        engine.add(request(number, new=40))
    texts, _ = run(engine)
    assert set(texts.values()) == {spell(said)}


def test_the_counters(engine):
    for number in (1, 2):
        engine.add(request(number, prompt=prompt(33, seed=2 + number), new=5))
    assert engine.stats.waiting == 2
    engine.step()
    assert (engine.stats.running, engine.stats.kv_used, engine.stats.kv_total) == (2, 128, 1024)
    run(engine)
    stats = engine.stats
    assert (stats.steps, stats.prompt_tokens, stats.generated_tokens, stats.finished) == (5, 66, 10, 2)
    assert (stats.running, stats.waiting, stats.aborted, stats.preemptions, stats.kv_used) == (0, 0, 0, 0, 0)
    assert (stats.prefix_hits, stats.prefix_tokens, stats.kv_cached, stats.evicted_blocks) == (0, 0, 128, 0)
    engine.add(request(3, prompt=prompt(33, seed=3), new=1))
    [output] = engine.step()
    stats = engine.stats
    assert (output.cached, stats.prefix_hits, stats.prefix_tokens, stats.prompt_tokens) == (32, 1, 32, 67)


def test_memory_nobody_chose_is_a_part_of_what_is_free(model, monkeypatch):
    from illm.backends.local.engine import kv

    each = 3 * 2 * (16 + 16) * 4  # layers, heads, key and value, float32
    monkeypatch.setattr(kv, "_free_memory", lambda device: 4 * each * 160)
    assert Engine(model, spell).stats.kv_total == 160
    monkeypatch.setattr(kv, "_free_memory", lambda device: 1 << 50)
    assert Engine(model, spell, max_sequences=3).stats.kv_total == 3 * POSITIONS
    monkeypatch.setattr(kv, "_MODEST", each * 64)
    assert Engine(model, spell).stats.kv_total == POSITIONS, "one whole context, if that much is there"


def test_free_memory_is_known_here():
    from illm.backends.local.engine import kv

    free = kv._free_memory(torch.device("cpu"))
    assert 1 << 20 < free < 1 << 50
