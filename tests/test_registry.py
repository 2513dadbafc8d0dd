"""How a request finds its model: names, capabilities, the allow-list, and backends of other packages."""

import logging
import sys
from dataclasses import replace
from textwrap import dedent

import anyio
import anyio.lowlevel
import pytest
from actors.acting import DONE, EMBEDS, Shelf, answer, chat, embed, running, served

from illm.actors.backend import Unconfigured
from illm.actors.choice import choose
from illm.actors.directory import Directory, capabilities
from illm.build import build_directory
from illm.config import Config, load
from illm.core.capabilities import Capability
from illm.core.events import Delta
from illm.core.requests import Chat, Image, Message, Sampling, Text, Transcribe
from illm.errors import GatewayError, Kind

OFFLINE = {"framework": "vllm", "embedding_model": "nowhere/at-all"}
"""A configuration that finds no local model, wherever these tests run."""


def refusal(act):
    with pytest.raises(GatewayError) as refused:
        act()
    return refused.value


def find(directory, request):
    return directory.find(request).model


@pytest.fixture
def shelf():
    return Shelf(
        named=[served("chatty"), served("vectors", capabilities=EMBEDS)],
        others=[served("stranger", named=False)],
    )


@pytest.fixture
def directory(shelf):
    other = Shelf("other", named=[served("chatty", framework="other"), served("unique", framework="other")])
    remote = Unconfigured("tgi", "TGI base_url is not configured")
    return Directory([shelf, other, remote], default="fake")


# choose: pure


@pytest.mark.parametrize(
    ("model", "need", "strict", "chosen"),
    [
        ("chatty", Capability.CHAT, True, "chatty"),
        ("stranger", Capability.CHAT, True, "stranger"),
        (None, Capability.CHAT, True, "chatty"),
        (None, Capability.EMBEDDINGS, True, "vectors"),
        ("vectors", Capability.EMBEDDINGS, True, "vectors"),
        ("chatty", Capability.EMBEDDINGS, False, "vectors"),
        ("stranger", Capability.EMBEDDINGS, False, "vectors"),
    ],
)
def test_choose(shelf, model, need, strict, chosen):
    known = {served.model: served for served in shelf.named()}
    assert choose(shelf, known, model, need, strict=strict).model == chosen


@pytest.mark.parametrize(
    ("model", "need", "strict", "kind", "param"),
    [
        ("nobody", Capability.CHAT, True, Kind.MODEL_NOT_FOUND, "model"),
        ("nobody", Capability.EMBEDDINGS, False, Kind.MODEL_NOT_FOUND, "model"),
        ("chatty", Capability.EMBEDDINGS, True, Kind.CAPABILITY, "model"),
        ("vectors", Capability.CHAT, True, Kind.CAPABILITY, "model"),
        (None, Capability.AUDIO, True, Kind.CAPABILITY, None),
    ],
)
def test_choose_refuses(shelf, model, need, strict, kind, param):
    known = {served.model: served for served in shelf.named()}
    error = refusal(lambda: choose(shelf, known, model, need, strict=strict))
    assert (error.kind, error.param) == (kind, param)


def test_a_pair_s_name_means_whichever_of_the_two_can_do_it(shelf):
    pair = replace(served("pair"), stand_ins={Capability.EMBEDDINGS: "vectors"})
    known = {"pair": pair, "vectors": served("vectors", capabilities=EMBEDS)}
    assert choose(shelf, known, "pair", Capability.EMBEDDINGS).model == "vectors"
    assert choose(shelf, known, "pair", Capability.CHAT) is pair


def test_a_default_that_cannot_do_it_is_a_capability_error(shelf):
    shelf.default = lambda need: "chatty"
    error = refusal(lambda: choose(shelf, {}, None, Capability.IMAGES))
    assert error.kind is Kind.MODEL_NOT_FOUND  # nobody knows `chatty` here
    known = {served.model: served for served in shelf.named()}
    assert refusal(lambda: choose(shelf, known, None, Capability.IMAGES)).kind is Kind.CAPABILITY


# the directory


@pytest.mark.parametrize(
    ("request_", "framework", "model"),
    [
        (chat(), "fake", "chatty"),
        (chat(model="chatty"), "fake", "chatty"),  # the default framework comes first
        (chat(model="chatty", framework="other"), "other", "chatty"),
        (chat(model="unique"), "other", "unique"),  # a model that only one framework has
        (chat(model="stranger"), "fake", "stranger"),
        (embed(), "fake", "vectors"),
        (embed(model="chatty"), "fake", "vectors"),
    ],
)
def test_a_request_finds_its_model(directory, request_, framework, model):
    ref = directory.find(request_)
    assert (ref.served.framework, ref.model) == (framework, model)
    assert directory.find(request_) is ref


IMAGE = Chat(messages=(Message("user", (Text("what is this"), Image(url="http://h/x.png"))),), sampling=Sampling())


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (chat(framework="nothing"), Kind.INVALID_REQUEST),
        (chat(model="nobody"), Kind.MODEL_NOT_FOUND),
        (chat(model="unique", framework="fake"), Kind.MODEL_NOT_FOUND),
        (embed(model="chatty", explicit=True), Kind.CAPABILITY),
        (IMAGE, Kind.CAPABILITY),
        (Transcribe(audio=b""), Kind.CAPABILITY),
        (chat(framework="tgi"), Kind.NOT_CONFIGURED),
        (chat(framework="tgi", model="any"), Kind.NOT_CONFIGURED),
    ],
)
def test_a_request_that_finds_none_is_told_why(directory, request_, kind):
    before = list(directory)
    assert refusal(lambda: directory.find(request_)).kind is kind
    assert list(directory) == before  # and leaves nothing behind


def test_an_unknown_framework_is_told_which_there_are(directory):
    error = refusal(lambda: directory.find(chat(framework="nothing")))
    assert error.param == "framework"
    assert "fake, other, tgi" in error.message
    assert refusal(lambda: directory.list("nothing")).kind is Kind.INVALID_REQUEST


def test_models_can_be_listed_by_framework(directory):
    assert [ref.model for ref in directory.list("other")] == ["chatty", "unique"]
    assert [ref.model for ref in directory.list()] == ["chatty", "vectors", "chatty", "unique"]


def test_capabilities_of_several_actors_are_one_sorted_list(directory):
    assert capabilities(directory.list("fake")) == ["chat", "embeddings", "streaming"]
    assert capabilities([]) == []


@pytest.mark.anyio
async def test_least_recently_used_goes():
    others = [served(name, named=False) for name in "abc"]
    async with running(Directory([Shelf(others=others)], default="fake", max_loaded=2)) as directory:
        for name in ("a", "b", "a", "c"):
            await answer(directory.find(chat(model=name)).call(chat()))
        assert [ref.model for ref in directory] == ["a", "c"]


# the allow-list of local models


def local(**options):
    return build_directory(Config(**{**OFFLINE, **options}))


@pytest.mark.parametrize("name", ["org/other", "secret", "../up", "/etc/passwd", "demo", "", "a" * 500])
def test_a_request_cannot_name_a_local_model_that_nobody_allowed(name):
    error = refusal(lambda: local().find(chat(model=name, framework="transformers")))
    assert (error.kind, error.param) == (Kind.MODEL_NOT_FOUND, "model")
    assert "/etc" not in error.message


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "org/..", "~/models", "a/b/c", "C:\\x"])
def test_a_path_is_never_a_model_whatever_is_allowed(name):
    error = refusal(lambda: local(allow_models=("*",)).find(chat(model=name, framework="transformers")))
    assert error.kind is Kind.MODEL_NOT_FOUND


def test_an_allowed_hub_id_gets_an_actor_of_its_own(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it may be asked; finding is not asking
    directory = local(allow_models=("org/*",))
    ref = directory.find(chat(model="org/name", framework="transformers"))
    assert (ref.model, ref.served.named, ref.state) == ("org/name", False, "idle")
    assert refusal(lambda: directory.find(chat(model="other/name", framework="transformers"))).kind is (
        Kind.MODEL_NOT_FOUND
    )


def test_a_framework_chosen_at_start_and_not_configured_is_no_good_health():
    directory = build_directory(load({"ILLM_FRAMEWORK": "vllm", "ILLM_EMBEDDING_MODEL": "nowhere/at-all"}))
    assert directory.status == "degraded"


def test_a_backend_without_a_model_asks_for_one():
    directory = build_directory(Config(**OFFLINE))
    error = refusal(lambda: directory.find(chat(framework="transformers")))
    assert (error.kind, error.param) == (Kind.MODEL_NOT_FOUND, "model")


@pytest.mark.parametrize("framework", ["vllm", "sglang", "tgi"])
def test_remote_frameworks_say_that_they_are_not_configured(framework):
    error = refusal(lambda: local().find(chat(framework=framework)))
    said = "TGI base_url is not configured" if framework == "tgi" else "Remote base_url is not configured"
    assert (error.kind, error.message) == (Kind.NOT_CONFIGURED, said)


def test_ollama_is_looked_for_where_it_listens_by_default():
    ref = local().find(chat(framework="ollama"))
    assert (ref.model, ref.placeholder, ref.served.optional) == ("ollama", True, True)
    for said in ({"ollama_base_url": ("http://h:11434",)}, {"framework": "ollama"}):
        assert not local(**said).find(chat(framework="ollama")).served.optional


# backends of other packages


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with an entry point, as pip would leave it."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(module: str, source: str, entry: str) -> None:
        (tmp_path / f"{module}.py").write_text(dedent(source))
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[illm.backends]\n{entry}\n")
        (info / "RECORD").write_text("")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return installed


PARROT = """
    from illm.actors.actor import TaskActor
    from illm.actors.ref import Served
    from illm.core.capabilities import Capability
    from illm.core.events import Delta, Done, Usage
    from illm.errors import GatewayError, Kind

    class Parrot(TaskActor):
        async def handle(self, request, respond):
            await respond(Delta(0, request.messages[0].text.upper(), 1), Done(Usage(1, 1)))

    class Aviary:
        framework = {framework!r}

        def __init__(self, config):
            self.served = Served(
                framework=self.framework,
                model="parrot",
                capabilities=frozenset({{Capability.CHAT}}),
                make_actor=Parrot,
                mailbox=config.max_queue,
            )

        def named(self):
            return [self.served]

        def on_demand(self, model, need):
            raise GatewayError(Kind.MODEL_NOT_FOUND, "one parrot is enough", param="model")

        def default(self, need):
            return "parrot"
"""


@pytest.mark.anyio
async def test_a_package_adds_a_backend_by_being_installed(install):
    install("parrots", PARROT.format(framework="aviary"), "aviary = parrots:Aviary")
    async with running(local(max_queue=3)) as directory:
        ref = directory.find(chat(framework="aviary"))
        assert (ref.model, ref.inbox.limit) == ("parrot", 3)
        with anyio.fail_after(5):
            while ref.state != "ready":
                await anyio.lowlevel.checkpoint()
        assert await answer(ref.call(chat("polly"))) == [Delta(0, "POLLY", 1), DONE]
        assert directory.find(chat(model="parrot")) is ref  # by its name alone, too
        error = refusal(lambda: directory.find(chat(framework="aviary", model="crow")))
        assert error.message == "one parrot is enough"


def test_it_may_take_the_place_of_one_of_ours_and_the_log_says_so(install, caplog):
    install("parrots", PARROT.format(framework="tgi"), "tgi = parrots:Aviary")
    with caplog.at_level(logging.WARNING, "illm.build"):
        directory = local()
    assert find(directory, chat(framework="tgi")) == "parrot"
    assert "takes the place of our backend tgi" in caplog.text


@pytest.mark.parametrize(
    ("source", "entry"),
    [
        ("raise OSError('no licence')", "broken = broken_backend:make"),
        ("import a_module_that_nobody_has", "broken = broken_backend:make"),
        ("", "broken = broken_backend:make"),
        ("def make(config): return 1 / 0", "broken = broken_backend:make"),
        ("def make(config): return None", "broken = broken_backend:make"),
    ],
)
def test_one_that_cannot_be_loaded_costs_only_itself(install, caplog, source, entry):
    install("broken_backend", source, entry)
    directory = local()
    error = refusal(lambda: directory.find(chat(framework="broken")))
    assert (error.kind, error.message) == (Kind.NOT_CONFIGURED, "The backend 'broken' could not be loaded")
    assert "Traceback" in caplog.text
    assert set(directory.backends) == {"transformers", "vllm", "sglang", "tgi", "ollama", "broken"}
