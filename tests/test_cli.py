"""The command line from outside: processes, what they print, how they end."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path

import pytest

try:
    import resource
except ImportError:  # Windows
    resource = None

from illm import __version__
from illm.actors.directory import Directory
from illm.build import build_directory
from illm.cli import banner, main, open_door
from illm.config import OPTIONS, Config, environment_name

SCRIPT = Path(sysconfig.get_path("scripts")) / "illm"
NOWHERE = "http://127.0.0.1:9"  # the port of `discard`: nobody listens
ENTRIES = {
    "illm serve": [str(SCRIPT), "serve"],
    "illm": [str(SCRIPT)],
    "python -m illm.server": [sys.executable, "-m", "illm.server"],
}

needs_script = pytest.mark.skipif(not SCRIPT.exists(), reason="illm is not installed: no console script")


def environment(**more: str) -> dict[str, str]:
    """Ours, without what might be configured where the tests run, and without a network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ILLM_")}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error"} | more


def illm(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    env = env or environment()
    return subprocess.run(command(*words), capture_output=True, text=True, env=env, timeout=60, check=False)


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from illm.cli import main; sys.exit(main())", *words]


@contextmanager
def serving(words: list[str], env: dict[str, str] | None = None):
    """Start a server on a free port of this machine; yields its process, its banner, its port."""
    said = []
    with subprocess.Popen(
        [*words, "--host", "127.0.0.1", "--port", "0"], stderr=subprocess.PIPE, text=True, env=env or environment()
    ) as process:
        try:
            for line in process.stderr:
                said.append(line)
                found = re.search(r"^illm \S+ on http://127\.0\.0\.1:(\d+) ", line)
                if found:
                    break
            else:
                pytest.fail("".join(said))
            yield process, line, int(found[1])
        finally:
            process.kill()


def get(port: int, path: str, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


# help


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(words):
    done = illm(*words)
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("serve", "doctor", "models"))


def test_help_of_serve_shows_every_option_with_its_variable():
    done = illm("serve", "--help")
    assert done.returncode == 0
    for option in OPTIONS:
        assert f"--{option.replace('_', '-')}" in done.stdout
        assert option == "framework" or environment_name(option) in done.stdout


def test_version():
    assert illm("--version").stdout.strip() == __version__


# exit 2


@pytest.mark.parametrize(
    ("words", "env", "told"),
    [
        (["serve", "--port", "http"], {}, "illm: --port 'http': expected a whole number"),
        (["--port", "70000"], {}, "illm: --port '70000': must be between 0 and 65535"),
        (["pytorch"], {}, "illm: --framework 'pytorch': must be one of transformers, vllm, sglang, tgi, ollama"),
        (["serve"], {"ILLM_TEMPERATURE": "hot"}, "illm: ILLM_TEMPERATURE 'hot': expected a number"),
        (["doctor", "--device", "gpu"], {}, "illm: --device 'gpu': must be cpu, cuda, cuda:N or mps"),
        (["models", "--loop", "curio"], {}, "illm: --loop 'curio': must be one of asyncio, trio"),
        (["vllm", "--framework", "tgi"], {}, "illm: two frameworks: 'vllm' and --framework 'tgi'"),
        (["serve", "--model", "/no/such/model"], {}, "/no/such/model"),
        (["serve", "--prot", "1"], {}, "unrecognized arguments: --prot"),
        (["serve", "--por", "1"], {}, "unrecognized arguments: --por"),
        (["serve", "--port"], {}, "expected one argument"),
        (["vllm", "--http", "own"], {}, "illm: --http 'own': must be one of auto, h11, httptools"),
        (["serve", "--workers", "2"], {}, "illm: --workers 2: framework transformers means a local model"),
        (["tgi", "--tgi-local"], {"ILLM_WORKERS": "2"}, "illm: --workers 2: framework tgi means a local model"),
        (["vllm", "--tgi-local", "--workers", "2"], {}, "--tgi-local means a local model, and each process would load"),
        (["vllm", "--embedding-model", "demo", "--workers", "2"], {}, "illm: --workers 2: --embedding-model means"),
    ],
)
def test_a_wrong_value_is_a_clear_message_and_status_2(words, env, told):
    done = illm(*words, env=environment(**env))
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_key_is_not_repeated():
    done = illm("serve", "--api-key", "hunter2 hunter2")
    assert done.returncode == 2
    assert "--api-key" in done.stderr
    assert "hunter2" not in done.stderr


def test_python_m_illm_server_ends_like_illm_serve():
    words = [sys.executable, "-m", "illm.server", "--port", "http"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "illm: --port 'http': expected a whole number\n")


def test_main_returns_the_status(capsys, monkeypatch):
    monkeypatch.setenv("ILLM_PORT", "x")
    assert main(["doctor"]) == 2
    assert "ILLM_PORT" in capsys.readouterr().err


# doctor, models


def test_doctor_reports_and_says_whether_it_could_start():
    ill = illm("doctor", "vllm")
    assert ill.returncode == 1
    assert "serve  vllm sshleifer/tiny-gpt2: no base URL is configured" in ill.stdout
    well = illm("doctor", "vllm", "--vllm-base-url", NOWHERE)
    assert well.returncode == 0
    assert f"backend vllm: {NOWHERE} cannot be reached" in well.stdout
    for word in ("extra  local", "extra  demo", "extra  fast", "device ", "backend transformers"):
        assert word in well.stdout


def test_doctor_sees_a_server_that_is_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = illm("doctor", "sglang", env=environment(ILLM_SGLANG_BASE_URL=url))
    assert f"backend sglang: {url} accepts connections" in done.stdout


def test_doctor_survives_a_torch_that_does_not_work(tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libgomp.so.1: cannot open shared object file')")
    info = tmp_path / "torch-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.0\n")
    done = illm("doctor", "vllm", env=environment(PYTHONPATH=str(tmp_path)))
    assert "device unknown: torch does not work (OSError: libgomp.so.1" in done.stdout
    assert done.returncode == 1


def test_doctor_says_what_to_install_for_a_model_that_cannot_be_had():
    done = illm("doctor", "--model", "nobody/has-this-model")
    assert done.returncode == 1
    assert "pip install" in done.stdout


def test_models_lists_each_once():
    done = illm("models", "--model", "demo", "--allow-models", "x/*")
    assert done.returncode == 0
    names = [line.split()[1] for line in done.stdout.splitlines()]
    assert names[:2] == ["demo", "all-MiniLM-L6-v2"]
    assert len(names) == len(set(names))


def test_models_lists_what_lies_in_the_hub_cache(tmp_path):
    pytest.importorskip("huggingface_hub")
    (tmp_path / "models--org--name").mkdir()
    env = environment(HF_HUB_CACHE=str(tmp_path))
    assert "in the hub cache; not allowed to requests" in illm("models", env=env).stdout
    allowed = illm("models", env=env | {"ILLM_ALLOW_MODELS": "org/*"}).stdout
    [line] = [line for line in allowed.splitlines() if "org/name" in line]
    assert line.endswith("in the hub cache")


# serve


@needs_script
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_every_way_to_start_serves_and_stops(entry, loop):
    with serving([*ENTRIES[entry], "tgi", "--loop", loop]) as (process, line, port):
        assert line.rstrip().endswith("| no key")
        status, body = get(port, "/healthz")
        assert (status, body["status"]) == (200, "degraded")  # nobody said where TGI is
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0
        assert "Traceback" not in rest
        assert "warning" not in rest.lower()


def test_a_key_protects_everything_but_health():
    env = environment(ILLM_API_KEY="s3cret", ILLM_FRAMEWORK="vllm", ILLM_LOG_FORMAT="json")
    with serving(command("serve"), env) as (process, line, port):
        assert line.rstrip().endswith("| key required")
        assert "s3cret" not in line
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/v1/models")[0] == 401
        assert get(port, "/v1/models", authorization="Bearer wrong")[0] == 401
        assert get(port, "/v1/models", authorization="Bearer s3cret")[0] == 200
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 0
        assert "s3cret" not in rest
        assert [json.loads(row)["status"] for row in rest.splitlines() if '"illm.access"' in row] == [401, 401, 200]


def test_the_command_line_goes_over_the_environment():
    env = environment(ILLM_FRAMEWORK="tgi", ILLM_API_KEY="theirs", ILLM_PORT="1")
    with serving(command("vllm", "--api-key", "ours"), env) as (_, _, port):
        assert get(port, "/v1/models", authorization="Bearer theirs")[0] == 401
        assert get(port, "/v1/models", authorization="Bearer ours")[0] == 200


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux lets one ask")
def test_as_many_connections_are_possible_as_the_system_allows():
    lowered = [*command("serve", "tgi")]
    lowered[2] = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, 2048)); " + lowered[2]
    with serving(lowered) as (process, _, _):
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (2048, 2048)


def test_an_address_in_use_is_status_1_and_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = illm("vllm", "--host", "127.0.0.1", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_illm_serve_installs_anything():
    code = """
import sys
from illm import create_app
from illm.config import Config
create_app(Config(auto_install=True, model="demo"))
assert "illm.backends.local.install" not in sys.modules
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=environment(), timeout=60)


# the line at start, pure


def offer(**options) -> Directory:
    return build_directory(Config(**{"embedding_model": "nowhere/at-all", "framework": "vllm"} | options))


@pytest.mark.parametrize(
    ("options", "addresses", "line"),
    [
        (
            {},
            [("127.0.0.1", 8000)],
            "on http://127.0.0.1:8000 | backends: transformers | models: nowhere/at-all | device: cpu | no key",
        ),
        (
            {"api_key": "x", "device": "cuda"},
            [("0.0.0.0", 80), ("::", 80)],
            (
                "on http://0.0.0.0:80, http://[::]:80 | backends: transformers | models: nowhere/at-all | device: cuda"
                " | key required"
            ),
        ),
    ],
)
def test_the_banner_says_what_is_served(options, addresses, line):
    config = Config(framework="vllm", **options)
    assert banner(config, addresses, offer(**options)) == f"illm {__version__} {line}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"framework": "ollama"}, "backends: transformers, ollama | models: nowhere/at-all, those of ollama |"),
        (
            {"vllm_base_url": ("http://h:1", "http://h:2"), "model": "org/big"},
            "backends: transformers, vllm | models: nowhere/at-all, org/big |",
        ),
        (
            {"tgi_base_url": ("http://h:1",), "tei_base_url": ("http://h:2",)},
            "backends: transformers, tgi | models: nowhere/at-all, those of tgi, those of tei |",
        ),
    ],
)
def test_the_banner_names_servers_that_somebody_named(options, said):
    line = banner(Config(**{"framework": "vllm"} | options), [("127.0.0.1", 1)], offer(**options))
    assert said in line
    assert "http://h" not in line


def test_the_banner_does_not_claim_what_is_not_there():
    nothing = Directory(
        [backend for name, backend in offer().backends.items() if name != "transformers"], default="vllm"
    )
    assert "| backends: none | models: none |" in banner(Config(), [("127.0.0.1", 1)], nothing)


@pytest.mark.parametrize(
    ("hosts", "key", "warned"),
    [
        (["127.0.0.1"], None, False),
        (["::1"], None, False),
        (["127.0.0.1", "::1", "127.8.8.8"], None, False),
        (["localhost"], None, False),
        (["/run/illm.sock"], None, False),
        (["0.0.0.0"], None, True),
        (["::"], None, True),
        (["127.0.0.1", "192.168.1.5"], None, True),
        (["fe80::1%eth0"], None, True),
        (["example.org"], None, True),
        (["0.0.0.0"], "key", False),
    ],
)
def test_listening_beyond_this_machine_without_a_key_is_warned_of(hosts, key, warned):
    assert (open_door(Config(api_key=key), hosts) is not None) is warned


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_several_workers_are_one_service():
    words = [*command("vllm"), "--vllm-base-url", NOWHERE, "--workers", "2", "--http", "h11"]
    with serving(words) as (process, said, port):
        assert "backends: vllm" in said
        ids = set()
        for _ in range(20):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/no/such/path")
            ids.add(connection.getresponse().headers["x-request-id"])
            connection.close()
        assert len(ids) == 20
        assert {request_id[:20] for request_id in ids} != {next(iter(ids))[:20]}  # made in more than one process
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = json.dumps({"framework": "transformers", "model": "x", "input": "x"})
        connection.request("POST", "/v1/embeddings", body, {"content-type": "application/json"})
        told = json.loads(connection.getresponse().read())
        connection.close()
        assert "several worker processes" in told["error"]["message"]
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0
        assert "http://127.0.0.1" not in rest  # the banner is said once
