"""Pictures in the running batch: the same tokens as `generate`, whatever runs beside and however it is cut up."""

import gc
from base64 import b64encode
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="the extra `local` is not installed")
pytest.importorskip("PIL", reason="the extra `local` is not installed")

from illm.backends.local.engine import FAILED, Engine, SequenceRequest, UnsupportedModel  # noqa: E402
from illm.backends.local.engine.illustrated import Illustrated, Picture  # noqa: E402
from illm.backends.local.load import TextModel  # noqa: E402
from illm.backends.local.sources import Source, kind_in  # noqa: E402
from illm.backends.local.vision.load import load_processor, load_vision  # noqa: E402
from illm.backends.local.vision.tower import VisionTower  # noqa: E402
from illm.core.requests import Image, Message, Text  # noqa: E402
from illm.errors import GatewayError, Kind  # noqa: E402

from . import families  # noqa: E402
from .families import picture  # noqa: E402

pytestmark = pytest.mark.model

COUNT = 12
ONE, TWO, WIDE = picture(1), picture(2, 20, 33), picture(3, 64, 18)

CONVERSATIONS = {
    "one picture": [("user", (ONE, "what is it?"))],
    "behind the text": [("user", ("what is this? ", ONE))],
    "two in a message": [("user", (ONE, " and ", TWO, " differ how?"))],
    "over three turns": [("user", (TWO, "this?")), ("assistant", ("a cat",)), ("user", ("and ", WIDE, " this?"))],
    "words alone": [("user", ("say something",))],
}


def messages(turns) -> tuple[Message, ...]:
    return tuple(
        Message(
            role,
            tuple(Text(part) if isinstance(part, str) else Image(base64=b64encode(part).decode()) for part in parts),
        )
        for role, parts in turns
    )


def engine_over(model: TextModel, **options) -> Engine:
    return Engine(model.model, model.renderer.decode, **{"kv_tokens": 4096, **options})


def load(directory, **options) -> tuple[TextModel, Engine]:
    return load_vision(
        Source("tiny", directory, "vision"),
        lambda model: engine_over(model, **options),
        device="cpu",
        max_pixels=10**6,
        progress=lambda text, part: None,
    )


class Loaded(NamedTuple):
    model: TextModel
    engine: Engine
    answers: dict[str, list[int]]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory):
    """Return a function from a family's name to its model, its engine, and what `generate` says."""

    @cache
    def family(name: str) -> Loaded:
        directory = tmp_path_factory.mktemp(name)
        own = families.write(name, directory)
        model, engine = load(directory)
        processor = load_processor(directory, own.config, families.tokenizer(model.tokenizer.chat_template))
        processor.chat_template = model.tokenizer.chat_template
        answers = {about: families.expected(own, processor, turns, COUNT) for about, turns in CONVERSATIONS.items()}
        return Loaded(model, engine, answers)

    return family


def asked(model: TextModel, turns, key: int) -> SequenceRequest:
    prompt = model.renderer.chat(messages(turns))
    return SequenceRequest(id=key, prompt=prompt, max_new_tokens=COUNT, temperature=0.0, logprobs=0)


def run(engine: Engine, *requests: SequenceRequest) -> list[list[int]]:
    tokens = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.busy:
        for output in engine.step():
            tokens[output.id].append(output.score.token)
    return [tokens[request.id] for request in requests]


@pytest.mark.parametrize("about", CONVERSATIONS)
@pytest.mark.parametrize("name", families.NAMES)
def test_the_same_tokens_as_generate(loaded, name, about):
    model, engine, answers = loaded(name)
    assert len(set(answers[about])) > 3
    assert run(engine, asked(model, CONVERSATIONS[about], 0)) == [answers[about]]


@pytest.mark.parametrize("name", families.NAMES)
def test_another_picture_is_another_answer(loaded, name):
    model, engine, _ = loaded(name)
    answers = run(engine, *(asked(model, [("user", (picture(at), "?"))], at) for at in (11, 12, 13)))
    assert len({tuple(answer) for answer in answers}) == 3


@pytest.mark.parametrize("name", families.NAMES)
def test_pictures_and_words_in_one_batch(loaded, name):
    model, engine, answers = loaded(name)
    requests = [asked(model, turns, at) for at, turns in enumerate(CONVERSATIONS.values())]
    assert run(engine, *requests) == list(answers.values())


@pytest.mark.parametrize("name", families.NAMES)
def test_joining_what_runs_in_small_chunks_and_thrown_out_again(loaded, name):
    model, _, answers = loaded(name)
    # Too little memory for all: the youngest gives its own up and is computed again, pictures included.
    engine = engine_over(model, busy_chunk=3, idle_chunk=5, kv_tokens=224, check=False)
    requests = {at: asked(model, turns, at) for at, turns in enumerate(CONVERSATIONS.values())}
    tokens = {at: [] for at in requests}
    late = list(requests)
    while engine.busy or late:
        if late:
            engine.add(requests[late.pop(0)])
        for output in engine.step():
            tokens[output.id].append(output.score.token)
    assert list(tokens.values()) == list(answers.values())
    assert engine.stats.kv_used == 0


def test_memory_that_runs_out_is_had_again(loaded):
    model, _, answers = loaded("qwen2_vl")
    engine = engine_over(model, kv_tokens=128, check=False)
    about = "one picture"
    requests = [asked(model, CONVERSATIONS[about], at) for at in range(4)]
    assert run(engine, *requests) == [answers[about]] * 4


def test_one_picture_is_looked_at_once_however_many_ask(loaded, monkeypatch):
    model, engine, _ = loaded("llava")
    looked = []
    made = VisionTower._made
    monkeypatch.setattr(VisionTower, "_made", lambda self, one: looked.append(one.key) or made(self, one))
    fresh = picture(99)
    run(engine, *(asked(model, [("user", (fresh, "?"))], at) for at in range(3)))
    assert len(looked) == 1


def test_tiles_are_looked_at_one_by_one(loaded):
    model, *_ = loaded("idefics3")
    prompt = model.renderer.chat(messages([("user", (picture(5, 32, 32),))]))
    assert [one.rows for one in prompt.pictures] == [4] * 5
    assert [one.inputs["pixel_values"].shape for one in prompt.pictures] == [(1, 1, 3, 16, 16)] * 5
    assert len({one.key for one in prompt.pictures}) == 5


def test_a_step_looks_at_no_more_than_its_chunk_begins(loaded, monkeypatch):
    model, *_ = loaded("idefics3")
    engine = engine_over(model, busy_chunk=5, check=False)
    # Somebody who speaks all the while; alone, a step may look at as much as it can prefill.
    engine.add(replace(asked(model, CONVERSATIONS["words alone"], 0), max_new_tokens=60))
    engine.step()
    looked = []
    made = VisionTower._made
    monkeypatch.setattr(VisionTower, "_made", lambda self, one: looked.append(one.key) or made(self, one))
    engine.add(asked(model, [("user", (picture(6, 32, 32), picture(7, 32, 32)))], 1))
    counts = []
    for _ in range(40):
        before = len(looked)
        engine.step()
        counts.append(len(looked) - before)
    assert sum(counts) == 10
    assert max(counts) == 1
    assert engine.busy


def test_leaving_halfway_frees_pictures_and_memory(loaded):
    model, *_ = loaded("idefics3")
    engine = engine_over(model, idle_chunk=6, check=False)
    budget = model.renderer._reader._budget
    gc.collect()
    before = budget.held
    engine.add(asked(model, [("user", (picture(8), picture(9)))], 0))
    assert budget.held > before
    engine.step()
    engine.abort(0)
    assert engine.stats.kv_used == 0
    gc.collect()
    assert budget.held == before


def test_words_of_a_client_are_no_pictures(loaded):
    model, engine, _ = loaded("idefics3")
    turns = [("user", ("<image> is <row_1_col_1> no ", ONE, " picture<image>"))]
    prompt = model.renderer.chat(messages(turns))
    assert prompt.count(model.renderer._reader.placeholder) == sum(one.rows for one in prompt.pictures)
    assert "<image> is <row_1_col_1> no" in model.renderer.decode(prompt)
    run(engine, asked(model, turns, 0))


def test_other_pictures_are_another_salt(loaded):
    model, *_ = loaded("llava")
    prompts = [model.renderer.chat(messages([("user", (picture(at), "?"))])) for at in (1, 2)]
    assert list(prompts[0]) == list(prompts[1])
    assert prompts[0].salt != prompts[1].salt


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3"])
def test_bfloat16_is_read_and_checked(tmp_path, name):
    families.write(name, tmp_path, dtype=torch.bfloat16)
    model, engine = load(tmp_path)
    [answer] = run(engine, asked(model, CONVERSATIONS["one picture"], 0))
    assert len(answer) == COUNT


def test_an_int8_head_is_allowed_its_rounding(tmp_path):
    families.write("llava", tmp_path)
    model, engine = load(tmp_path, quantize="int8")
    assert engine.quantized == "int8"
    [answer] = run(engine, asked(model, CONVERSATIONS["one picture"], 0))
    assert len(answer) == COUNT


def test_a_model_without_a_template_gets_a_dialogue(tmp_path):
    families.write("llava", tmp_path, chat_template=False)
    model, engine = load(tmp_path)
    prompt = model.renderer.chat(messages([("user", (ONE, "what?"))]))
    assert model.renderer.decode(prompt) == "User: what?\nAssistant:"
    assert len(prompt.pictures) == 1
    assert model.stops == ("\nUser:", "\nAssistant:", "\nSystem:")
    run(engine, asked(model, CONVERSATIONS["over three turns"], 0))


def test_what_the_engine_would_get_wrong_is_refused(tmp_path, monkeypatch):
    families.write("qwen2_vl", tmp_path)
    monkeypatch.setattr(Illustrated, "positions", lambda self, start, stop: None)  # as if its grid were not known
    with pytest.raises(UnsupportedModel, match="disagree about a picture"):
        load(tmp_path)


def test_a_family_that_is_known_not_to_fit_says_why(tmp_path, monkeypatch):
    from illm.backends.local.vision import check

    monkeypatch.setitem(check._REFUSED, "llava", "it squints")
    families.write("llava", tmp_path)
    with pytest.raises(GatewayError, match="'tiny' cannot be run here: it squints") as caught:
        load(tmp_path)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED


def test_a_model_that_cannot_be_shown_a_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "template", lambda placeholder: "{{ bos_token }}nothing to see")
    families.write("llava", tmp_path)
    with pytest.raises(GatewayError, match=r"could not be shown a picture: .*no place for these images") as caught:
        load(tmp_path)
    assert caught.value.kind is Kind.MODEL_LOAD_FAILED


def test_files_say_that_a_model_looks_at_pictures(tmp_path):
    families.write("llava", tmp_path)
    assert kind_in(tmp_path) == "vision"


def test_a_picture_that_cannot_be_used_ends_its_own_sequence(loaded, monkeypatch):
    model, _, answers = loaded("llava")
    engine = engine_over(model, check=False)
    bad = asked(model, [("user", (picture(77), "?"))], 1)
    made = VisionTower._made

    def stumble(self, one):
        if one in bad.prompt.pictures:
            raise ValueError("as if it had another size")
        return made(self, one)

    monkeypatch.setattr(VisionTower, "_made", stumble)
    good = asked(model, CONVERSATIONS["one picture"], 0)
    engine.add(bad)
    engine.add(good)
    outputs = []
    while engine.busy:
        outputs += engine.step()
    assert [output.finish for output in outputs if output.id == 1] == [FAILED]
    assert [output.score.token for output in outputs if output.id == 0] == answers["one picture"]
    assert engine.stats.kv_used == 0


def test_rows_are_remembered_within_a_limit():
    class Model:
        device, dtype = torch.device("cpu"), torch.float32
        looked = 0

        class model:  # noqa: N801 - as Transformers calls it
            @staticmethod
            def get_image_features(pixel_values, return_dict):
                Model.looked += 1
                return type("Output", (), {"pooler_output": [pixel_values]})

    tower = VisionTower(Model, limit=2 * 4 * 4)
    one, two, three = (Picture(bytes([at]), {"pixel_values": torch.full((1, 4), float(at))}, 1) for at in range(3))
    for asked_for in (one, two, one, three, one, two):
        assert tower.rows(asked_for).tolist() == asked_for.inputs["pixel_values"].tolist()
    assert Model.looked == 4
    with pytest.raises(ValueError, match="1 rows for 2"):
        tower.rows(Picture(b"x", {"pixel_values": torch.zeros(1, 4)}, 2))


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_what_is_known_of_a_prompt_is_known_for_its_pictures_only(loaded, name):
    model, *_ = loaded(name)
    words = "a long text before anything is shown, longer than a block of the memory is, and some more. "
    asking = [[("user", (words, picture(at), "?"))] for at in (21, 22, 21)]
    alone = [run(engine_over(model, check=False, prefix_cache=False), asked(model, turns, 0)) for turns in asking]
    assert alone[0] != alone[1]
    engine = engine_over(model, check=False)
    known = []
    for turns, [answer] in zip(asking, alone, strict=True):
        before = engine.stats.prefix_tokens
        assert run(engine, asked(model, turns, 0)) == [answer]
        known.append(engine.stats.prefix_tokens - before)
    assert known[:2] == [0, 0]
    assert known[2] > len(words)
