"""From options to backends, and from a request's names to the right one."""

import anyio
import anyio.lowlevel
import pytest

from backends.remote.echo import EchoDialect, ask, text, upstream
from backends.remote.fake_server import fake_server, response
from illm.actors.directory import Directory
from illm.actors.ref import State
from illm.backends.remote.backend import Remote
from illm.backends.remote.plan import plan_remote
from illm.config import Config, load
from illm.core.capabilities import Capability
from illm.core.requests import Embed
from illm.errors import ConfigError, GatewayError, Kind

pytestmark = pytest.mark.anyio

OK = response(b"fine")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ILLM_VLLM_BASE_URL", "http://a, ftp://b"),
        ("ILLM_VLLM_BASE_URL", ","),
        ("ILLM_TEI_BASE_URL", "http://user:pass@a"),
        ("ILLM_VLLM_API_KEY", "two words"),
        ("ILLM_VLLM_API_KEY", "s3cret\r\nx: y"),
        ("ILLM_UPSTREAM_CA_FILE", "/nowhere.pem"),
        ("ILLM_UPSTREAM_CONNECTIONS", "0"),
        ("ILLM_IDLE_TIMEOUT", "0"),
        ("ILLM_TGI_LOCAL", "maybe"),
    ],
)
def test_wrong_values_name_their_place_and_tell_no_secret(name, value):
    with pytest.raises(ConfigError) as refused:
        load({name: value})
    assert name in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_several_addresses_are_replicas():
    config = load({"ILLM_VLLM_BASE_URL": "http://a/v1, http://b:81/ ", "ILLM_VLLM_API_KEY": "s3cret"})
    assert config.vllm_base_url == ("http://a/v1", "http://b:81/")
    assert "s3cret" not in repr(config)


def test_what_nobody_configured_says_so():
    for framework, words in (("vllm", "Remote base_url is not configured"), ("tgi", "TGI base_url is not configured")):
        with pytest.raises(GatewayError, match=words) as refused:
            plan_remote(framework)(Config()).on_demand("m", Capability.CHAT)
        assert refused.value.kind is Kind.NOT_CONFIGURED


class Running:
    """A directory over these backends, running."""

    def __init__(self, *backends: Remote, default: str) -> None:
        self.directory = Directory(backends, default=default)

    async def __aenter__(self) -> Directory:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self.directory.open(self._tasks)
        while any(ref.state in (State.IDLE, State.STARTING) for ref in self.directory):
            await anyio.lowlevel.checkpoint()
        return self.directory

    async def __aexit__(self, *error) -> None:
        self.directory.close()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(*error)


def remote(name: str, *urls: str, **more) -> Remote:
    dialect = EchoDialect(framework=name, **more.pop("dialect", {}))
    return Remote(name, [upstream(*urls, name=name, dialect=dialect, **more)])


async def test_a_model_that_one_backend_lists_chooses_that_backend():
    with anyio.fail_after(10):
        async with (
            fake_server([OK], probe=[response(b"m1 m2")]) as a,
            fake_server([OK], probe=[response(b"m3")]) as b,
            Running(remote("a", a.url), remote("b", b.url), default="a") as directory,
        ):
            chosen = [directory.find(ask(model=name)).served.framework for name in ("m1", "m2", "m3", "m4", None, "b")]
            assert chosen == ["a", "a", "b", "a", "a", "b"]
            assert directory.status == "ok"
            refs = {ref.served.framework: ref for ref in directory}
            await text(refs["b"], model="m3")
            await text(refs["b"], model="other")  # the server knows its models better than our list
            await text(refs["b"], model="b")  # the backend's own name, and no name at all, mean its first model
            await text(refs["b"])
            assert [seen.headers["x-model"] for seen in b.requests] == ["m3", "other", "m3", "m3"]
            assert [refs["b"].answers_as(ask(model=name)) for name in ("m3", "other", "b", None)] == [
                "m3",
                "other",
                "m3",
                "m3",
            ]
            assert len(list(directory)) == 2


async def test_a_server_that_went_down_keeps_its_models():
    with anyio.fail_after(10):
        async with (
            fake_server([OK], probe=[response(b"m1")]) as a,
            fake_server([OK], probe=[response(b"m2")]) as b,
            Running(remote("a", a.url), remote("b", b.url), default="a") as directory,
        ):
            await b.stop()
            ref = directory.find(ask(model="m2"))
            with ref.call(ask(model="m2")) as call:
                await call.reply.take()
            assert ref.state == "down"
            assert directory.status == "degraded"
            assert directory.find(ask(model="m2")) is ref
            with pytest.raises(GatewayError, match="cannot be reached"):
                ref.call(ask())


async def test_names_are_checked_where_the_dialect_says_that_its_servers_do():
    with anyio.fail_after(10):
        async with (
            fake_server([OK], probe=[response(b"m1")]) as a,
            Running(remote("a", a.url, dialect={"validates_models": True}), default="a") as directory,
        ):
            assert directory.find(ask(model="m1"))
            with pytest.raises(GatewayError) as refused:
                directory.find(ask(model="m2"))
            assert refused.value.kind is Kind.MODEL_NOT_FOUND


async def test_the_operators_model_goes_first():
    with anyio.fail_after(10):
        async with (
            fake_server([OK], probe=[response(b"m1 m2")]) as a,
            Running(remote("a", a.url, model="m2"), default="a") as directory,
        ):
            (ref,) = directory
            assert list(ref.models) == ["m2", "m1"]
            await text(ref)
            assert a.requests[0].headers["x-model"] == "m2"


async def test_a_server_that_nobody_said_is_there_is_no_fault_and_is_shown_by_a_placeholder():
    absent = upstream("http://127.0.0.1:1", name="ollama", dialect=EchoDialect(framework="ollama"))
    with anyio.fail_after(10):
        async with Running(Remote("ollama", [absent], optional=True), default="ollama") as directory:
            (ref,) = directory
            assert (ref.state, directory.status, ref.models) == ("down", "ok", ("ollama",))
            with pytest.raises(GatewayError) as refused:
                directory.find(ask()).call(ask())
            assert refused.value.kind is Kind.UNREACHABLE


async def test_a_sibling_answers_what_the_main_server_does_not_offer():
    embed = Embed(inputs=("a",))
    tei = EchoDialect(framework="tgi", capabilities=frozenset({Capability.EMBEDDINGS}))
    with anyio.fail_after(10):
        async with fake_server([OK]) as a, fake_server([OK]) as b:
            both = Remote("tgi", [upstream(a.url, name="tgi"), upstream(b.url, name="tei", dialect=tei)])
            async with Running(both, default="tgi") as directory:
                assert directory.find(ask()).model == "tgi"
                assert directory.find(embed).model == "tei"
            async with Running(Remote("tgi", [upstream(a.url, name="tgi")]), default="tgi") as directory:
                with pytest.raises(GatewayError) as refused:
                    directory.find(embed)
                assert refused.value.kind is Kind.CAPABILITY
            only = Remote("tgi", [upstream(b.url, name="tei", dialect=tei)], missing="TGI base_url is not configured")
            async with Running(only, default="tgi") as directory:
                assert directory.find(embed).model == "tei"
                with pytest.raises(GatewayError) as refused:
                    directory.find(ask(model="m"))
                assert refused.value.kind is Kind.NOT_CONFIGURED
