"""The example clients against a small server: what they send, print, and say when something fails."""

import json
import runpy
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import illm.client.chat_completions as chat
import illm.client.embeddings as embeddings
import illm.client.multimodal_chat as multimodal

CLIENTS = Path(chat.__file__).parent
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris ✓"}, "finish_reason": "stop"}]}
VECTORS = {"data": [{"index": 1, "embedding": [0.0, 2.0]}, {"index": 0, "embedding": [1.0, 0.0]}]}
REFUSAL = {"error": {"message": "no such model", "type": "model_not_found", "param": "model", "code": None}}
TEXTS = ["Pa\u2028", "ris \x85", "", "✓ 😀"]


def sse(*payloads, done=True):
    frames = [b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n" for payload in payloads]
    return b": keep-alive\n\n" + b"".join(frames) + b"data: [DONE]\n\n" * done


def chunks(*texts):
    deltas = [{"role": "assistant", "content": ""}, *({"content": text} for text in texts), {}]
    return [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]


class Handler(BaseHTTPRequestHandler):
    """Says the next answer of the script, and keeps what was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers.get("authorization"), body))
        status, content_type, pieces = self.server.script.popleft()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *args):
        pass


@contextmanager
def serving(*script):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.script = deque(script)
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def as_json(value, status=200):
    return status, "application/json", [json.dumps(value).encode()]


def as_stream(wire, size=None):
    size = size or len(wire)
    return 200, "text/event-stream", [wire[at : at + size] for at in range(0, len(wire), size)]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "ILLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_whole_answer(capsys, monkeypatch):
    monkeypatch.setenv("ILLM_API_KEY", "secret")
    with serving(as_json(ANSWER)) as server:
        chat.main(
            [
                "--base_url",
                server.url,
                "--framework",
                "transformers",
                "--model",
                "m",
                "--prompt",
                "Hi",
                "--max_tokens",
                "16",
                "--temperature",
                "0",
            ]
        )
    assert capsys.readouterr().out == "Paris ✓\n"
    body = {"framework": "transformers", "model": "m", "max_tokens": 16, "temperature": 0.0, "stream": False}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    assert server.asked == [("/v1/chat/completions", "Bearer secret", body)]


def test_what_is_not_said_is_not_sent(capsys):
    with serving(as_json(ANSWER)) as server:
        chat.main(["--base_url", f"{server.url}/"])
    [(path, authorization, body)] = server.asked
    assert (path, authorization) == ("/v1/chat/completions", None)
    assert body.keys() == {"messages", "stream"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, None])
def test_a_stream_cut_at_odd_bytes(capsys, size):
    with serving(as_stream(sse(*chunks(*TEXTS), {"choices": [], "usage": {}}), size)) as server:
        chat.main(["--base_url", server.url, "--stream"])
    assert capsys.readouterr().out == "".join(TEXTS) + "\n"
    assert server.asked[0][2]["stream"] is True


def test_a_stream_is_printed_as_it_arrives(monkeypatch):
    printed = []
    monkeypatch.setattr("builtins.print", lambda *args, **options: printed.append((args, options)))
    with serving(as_stream(sse(*chunks("a", "b")))) as server:
        chat.main(["--base_url", server.url, "--stream"])
    pieces = [args[0] for args, options in printed if options == {"end": "", "flush": True}]
    assert [text for text in pieces if text] == ["a", "b"]


def test_a_stream_that_fails_midway(capsys):
    wire = sse(*chunks("Pa"), {"error": {"message": "the model fell over"}})
    with serving(as_stream(wire)) as server, pytest.raises(SystemExit) as left:
        chat.main(["--base_url", server.url, "--stream"])
    assert "the model fell over" in left.value.code
    assert capsys.readouterr().out == "Pa"


def test_a_stream_that_breaks_off(capsys):
    with serving(as_stream(sse(*chunks("Pa"), done=False))) as server, pytest.raises(SystemExit) as left:
        chat.main(["--base_url", server.url, "--stream"])
    assert "broke off" in left.value.code


CALLS = [
    (chat.main, []),
    (chat.main, ["--stream"]),
    (embeddings.main, []),
    (multimodal.main, ["--image_url", "https://h/x.png"]),
]


@pytest.mark.parametrize(("main", "options"), CALLS)
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (as_json(REFUSAL, 404), "404: no such model"),
        ((502, "text/html", [b"<p>bad gateway</p>"]), "502: <p>bad gateway</p>"),
        (as_json(["odd"], 500), '500: ["odd"]'),
    ],
)
def test_a_refusal_is_told(main, options, answer, said):
    with serving(answer) as server, pytest.raises(SystemExit) as left:
        main(["--base_url", server.url, *options])
    assert said in left.value.code


@pytest.mark.parametrize(("main", "options"), CALLS)
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1", "http://[", "ftp://x"])
def test_nobody_there_is_told(main, options, url):
    with pytest.raises(SystemExit) as left:
        main(["--base_url", url, *options])
    assert "error: " in left.value.code


def test_embeddings(capsys):
    with serving(as_json(VECTORS)) as server:
        embeddings.main(
            ["--base_url", server.url, "--framework", "f", "--embedding_model", "e", "--inputs", "hello", "wörld"]
        )
    first, second = capsys.readouterr().out.splitlines()
    assert first == "'hello': 2 numbers [1.0000, 0.0000, ...], cosine to the first 1.0000"
    assert second == "'wörld': 2 numbers [0.0000, 2.0000, ...], cosine to the first 0.0000"
    assert server.asked == [
        ("/v1/embeddings", None, {"framework": "f", "embedding_model": "e", "input": ["hello", "wörld"]})
    ]


def test_an_image_by_url_and_by_file(capsys, tmp_path):
    file = tmp_path / "dot.png"
    file.write_bytes(b"\x89PNG")
    with serving(as_json(ANSWER), as_json(ANSWER)) as server:
        for image in ("https://h/x.png", str(file)):
            multimodal.main(
                [
                    "--base_url",
                    server.url,
                    "--framework",
                    "ollama",
                    "--model",
                    "llava:7b",
                    "--text",
                    "What?",
                    "--image_url",
                    image,
                ]
            )
    assert capsys.readouterr().out == "Paris ✓\n" * 2
    contents = [body["messages"][0]["content"] for _, _, body in server.asked]
    assert contents[0][0] == {"type": "text", "text": "What?"}
    assert [content[1]["image_url"]["url"] for content in contents] == [
        "https://h/x.png",
        "data:image/png;base64,iVBORw==",
    ]


def test_a_missing_image_is_told(tmp_path):
    with pytest.raises(SystemExit) as left:
        multimodal.main(["--image_url", str(tmp_path / "none.png")])
    assert "error: " in left.value.code


def test_a_client_runs_as_a_file_and_fails_with_status_one():
    file = CLIENTS / "chat_completions.py"
    with serving(as_stream(sse(*chunks("hi"))), as_json(REFUSAL, 404)) as server:
        command = [sys.executable, str(file), "--base_url", server.url]
        good = subprocess.run([*command, "--stream"], capture_output=True, text=True, check=False)
        bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stdout) == (0, "hi\n")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "no such model" in bad.stderr


@pytest.mark.parametrize("name", ["chat_completions", "embeddings", "multimodal_chat"])
def test_a_client_stands_alone(name, monkeypatch, capsys):
    """Run as a file and as a module, with nothing else of this project to be found by the file."""
    source = (CLIENTS / f"{name}.py").read_text()
    assert "illm." not in source.replace("ILLM_API_KEY", "")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"illm.client.{name}", raising=False)
    for run in (
        lambda: runpy.run_path(str(CLIENTS / f"{name}.py"), run_name="__main__"),
        lambda: runpy.run_module(f"illm.client.{name}", run_name="__main__"),
    ):
        with pytest.raises(SystemExit) as left:
            run()
        assert left.value.code == 0
        assert "--base_url" in capsys.readouterr().out
