import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.environments import Environment, cache_root
from benchmarks.peers import ENVIRONMENTS, SYSTEMS, direct, engines, envoy, illm, litellm, nginx, sglang_router
from benchmarks.peers.program import Program
from benchmarks.systems import Upstream

UPSTREAM = Upstream("http://127.0.0.1:9000", "openai", "bench")
OLLAMA = Upstream("http://127.0.0.1:9000", "ollama", "bench")
SCENARIOS = [path.stem for path in Path(engines.__file__).parents[1].joinpath("scenarios").glob("[a-z]*.py")]


def line(system, upstream, home):
    return [str(word) for word in system.command(upstream, 8123, home)]


def test_every_system_is_found_by_its_name():
    assert {"direct", "illm", "illm-h11", "illm-trio", "illm-2-workers"} <= SYSTEMS.keys()
    assert {"nginx", "envoy", "litellm", "sglang-router", "smg"} <= SYSTEMS.keys()
    assert all(name == system.name for name, system in SYSTEMS.items())


def test_an_engine_is_no_gateway_and_a_gateway_no_engine():
    for system in engines.ENGINES:
        assert not any(map(system.supports, ("unary", "streams", "memory")))
    for name in ("nginx", "envoy", "litellm", "sglang-router", "smg", "direct"):
        assert SYSTEMS[name].supports("unary")
        assert not SYSTEMS[name].supports(engines.TEXTS)


@pytest.mark.parametrize(("name", "able"), [("litellm", True), ("direct", True), ("nginx", False), ("smg", False)])
def test_only_what_translates_is_asked_to(name, able):
    assert "translation" in SCENARIOS
    assert SYSTEMS[name].supports("translation") is able


def test_without_a_gateway_the_client_talks_to_the_upstream():
    with direct.SYSTEM.running(UPSTREAM) as running:
        assert (running.url, running.model, running.pids) == (UPSTREAM.url, "bench", ())


def test_nginx_passes_on_at_once_over_connections_that_stay(tmp_path):
    text = nginx.config(UPSTREAM, 8123, tmp_path)
    for said in (
        "server 127.0.0.1:9000;",
        "listen 127.0.0.1:8123",
        "worker_processes 1;",
        "proxy_buffering off;",
        "proxy_http_version 1.1;",
        'proxy_set_header Connection "";',
        "keepalive 2048;",
        "access_log off;",
    ):
        assert said in text
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None, reason="needs nginx")
def test_nginx_takes_its_configuration(tmp_path):
    path = tmp_path / "nginx.conf"
    path.write_text(nginx.config(UPSTREAM, 8123, tmp_path))
    done = subprocess.run([nginx.program(), "-t", "-c", path], capture_output=True, text=True, check=False)
    assert "syntax is ok" in done.stderr


def test_envoy_has_a_listener_and_a_cluster():
    found = json.loads(json.dumps(envoy.config(UPSTREAM, 8123)))["static_resources"]
    assert found["listeners"][0]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 8123}
    endpoint = found["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 9000}


@pytest.mark.parametrize(
    ("upstream", "model", "base"),
    [(UPSTREAM, "openai/bench", "http://127.0.0.1:9000/v1"), (OLLAMA, "ollama_chat/bench", "http://127.0.0.1:9000")],
)
def test_litellm_knows_the_dialect(upstream, model, base):
    (entry,) = litellm.config(upstream)["model_list"]
    assert entry["model_name"] == "bench"
    assert (entry["litellm_params"]["model"], entry["litellm_params"]["api_base"]) == (model, base)


@pytest.mark.parametrize(("upstream", "framework"), [(UPSTREAM, "vllm"), (OLLAMA, "ollama")])
def test_illm_knows_the_dialect_and_only_options_that_are_there(upstream, framework, tmp_path, monkeypatch):
    monkeypatch.setattr(illm, "options", lambda: "--loop LOOP")
    words = line(illm.TRIO, upstream, tmp_path)
    assert words[words.index("illm.server") + 1] == framework
    assert words[words.index(f"--{framework}-base-url") + 1] == upstream.url
    assert words[words.index("--loop") + 1] == "trio"
    assert "--http" not in words
    monkeypatch.setattr(illm, "options", lambda: "--http HTTP --workers N")
    words = line(illm.TWO_WORKERS, upstream, tmp_path)
    assert words[words.index("--workers") + 1] == "2"
    assert words[words.index("--http") + 1] == "auto"


def test_two_workers_are_not_asked_of_a_checkout_that_has_no_such_option(monkeypatch):
    monkeypatch.setattr(illm, "options", lambda: "--loop LOOP")
    assert not illm.TWO_WORKERS.supports("unary")
    monkeypatch.setattr(illm, "options", lambda: "--workers N")
    assert illm.TWO_WORKERS.supports("unary")


def test_the_routers_listen_on_loopback_only(tmp_path):
    words = line(sglang_router.SYSTEM, UPSTREAM, tmp_path)
    assert words[words.index("--host") + 1] == words[words.index("--prometheus-host") + 1] == "127.0.0.1"
    assert words[words.index("--worker-urls") + 1] == UPSTREAM.url


@pytest.mark.parametrize("name", ["nginx", "envoy", "litellm", "sglang-router", "smg", "illm", "illm-h11"])
def test_every_gateway_listens_on_loopback_only(name, tmp_path, monkeypatch):
    monkeypatch.setattr(illm, "options", lambda: "")
    system = SYSTEMS[name]
    assert isinstance(system, Program)
    words = line(system, UPSTREAM, tmp_path)
    files = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "127.0.0.1" in " ".join(words) + files
    assert "0.0.0.0" not in " ".join(words) + files


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_every_requirement_is_pinned(environment):
    lines = [text for path in environment.files for text in path.read_text().splitlines()]
    wanted = [*environment.bare, *(text for text in lines if text and not text.startswith("#"))]
    assert wanted
    assert [text for text in wanted if not re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,-]+\])?==[^ ;]+( ;.*)?", text)] == []


def test_an_environment_is_made_anew_when_its_requirements_change(tmp_path, monkeypatch):
    monkeypatch.setenv("ILLM_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "it.txt"
    file.write_text("# nothing\n")
    made = []
    monkeypatch.setattr("benchmarks.environments.venv.create", lambda home, with_pip: made.append(home.mkdir()))
    ran = []
    monkeypatch.setattr(Environment, "_run", lambda self, *arguments: ran.append(arguments))
    environment = Environment("it", (file,), bare=("last==1",))
    assert not environment.installed()
    environment.install()
    environment.install()
    assert environment.home == cache_root() / "it"
    assert (len(made), len(ran)) == (1, 2)
    assert ran[1][-2:] == ("--no-deps", "last==1")
    file.write_text("new==1\n")
    assert not environment.installed()
    environment.install()
    assert (len(made), len(ran)) == (2, 4)


def test_an_environment_that_could_not_be_made_is_not_taken_for_made(tmp_path, monkeypatch):
    monkeypatch.setenv("ILLM_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "it.txt"
    file.write_text("x==1\n")
    monkeypatch.setattr("benchmarks.environments.venv.create", lambda home, with_pip: home.mkdir())

    def fail(self, *arguments):
        raise RuntimeError("no")

    monkeypatch.setattr(Environment, "_run", fail)
    environment = Environment("it", (file,))
    with pytest.raises(RuntimeError, match="no"):
        environment.install()
    assert not environment.installed()
