"""Send the requests of docs/validation.md to a real server, and write the page anew with what it answered.

    python docs/validate.py                                  # starts `illm serve --model demo` on a free port
    python docs/validate.py --base-url http://127.0.0.1:8000   # asks a server that runs already

Needs curl, and the extras `demo` and `audio` where it starts the server itself.  Each request is a line of shell that
is run as it is printed, but for the server's address.
"""

import argparse
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

ADDRESS = "http://127.0.0.1:8000"
"""The server that the printed lines ask."""

PAGE = Path(__file__).with_name("validation.md")
REMOTE = PAGE.with_name("validation-remote.md")
"""The page of docs/validate_remote.py, whose table of tests is repeated here."""
ROOT = PAGE.parent.parent
LOADING = 600
"""Seconds that the model may take to load; the first start converts it."""

_JSON = '-H "Content-Type: application/json"'
_STATUS = "\nHTTP status "


class Shown(NamedTuple):
    """One request of the page: a title, what to know about it, the line, and the status it should get."""

    title: str
    about: str
    command: str
    status: int = 200


def _post(path: str, body: str, *, options: str = "-s") -> str:
    return f"curl {options} -X POST {ADDRESS}{path} {_JSON} -d '{body}'"


def _folded(body: str) -> str:
    return f"curl -s -X POST {ADDRESS}/v1/chat/completions \\\n  {_JSON} \\\n  -d '{body}'"


_HELLO = '"messages":[{"role":"user","content":"Hello"}]'
_IMAGE = (
    '{"framework":"ollama","model":"llava:7b","messages":[{"role":"user","content":[{"type":"text","text":'
    '"Describe this image"},{"type":"image_url","image_url":"https://httpbin.org/image/png"}]}]}'
)

SECTIONS: dict[str, tuple[Shown, ...]] = {
    "State and models": (
        Shown("Health", "The counters are those of a server that has just started.", f"curl -s {ADDRESS}/healthz"),
        Shown(
            "Models", "The language model, and those for embeddings and speech beside it.", f"curl -s {ADDRESS}/models"
        ),
        Shown(
            "Models of one framework",
            "No Ollama runs here: its own name stands for whatever model it would have.",
            f'curl -s "{ADDRESS}/models?framework=ollama"',
        ),
    ),
    "Chat": (
        Shown(
            "A question",
            "Temperature 0 is greedy: the same text each time.",
            _post(
                "/v1/chat/completions",
                '{"model":"demo","messages":[{"role":"user","content":"What is the capital of France?"}],'
                '"max_tokens":32,"temperature":0.0}',
            ),
        ),
        Shown(
            "Whole",
            "",
            _post(
                "/v1/chat/completions",
                f'{{"framework":"transformers","model":"demo",{_HELLO},'
                '"max_tokens":16,"temperature":0.0,"stream":false}',
            ),
        ),
        Shown(
            "Streamed",
            "Sampled, so the text differs from run to run. Each `data:` line left when its token was made.",
            _post(
                "/v1/chat/completions",
                '{"framework":"transformers","model":"demo","messages":[{"role":"user","content":"Say hi thrice"}],'
                '"max_tokens":24,"temperature":0.7,"stream":true}',
                options="-N -s",
            ),
        ),
        Shown(
            "Eight tokens",
            "",
            _post(
                "/v1/chat/completions",
                f'{{"framework":"transformers","model":"demo",{_HELLO},'
                '"max_tokens":8,"temperature":0.0,"stream":false}',
            ),
        ),
    ),
    "Completions": (
        Shown(
            "A raw prompt, continued",
            "No chat template: the model goes on where the prompt ends.",
            _post(
                "/v1/completions",
                '{"framework":"transformers","model":"demo","prompt":"Hello legacy","max_tokens":8,"temperature":0.0}',
            ),
        ),
    ),
    "Embeddings": (
        Shown(
            "Beside a chat model",
            "`embedding_model` decides. The vectors are shortened on this page.",
            _post(
                "/v1/embeddings",
                '{"framework":"transformers","model":"demo","embedding_model":"demo","input":["hello","world"]}',
            ),
        ),
        Shown(
            "By the embedding model alone",
            "The vectors are shortened on this page.",
            _post(
                "/v1/embeddings",
                '{"framework":"transformers","embedding_model":"all-MiniLM-L6-v2","input":["hello","world"]}',
            ),
        ),
    ),
    "Rerank": (
        Shown(
            "By the embedding model",
            "The cosine of query and document, best first.",
            _post("/v1/rerank", '{"model":"demo","query":"water","documents":["A stone","A river"]}'),
        ),
    ),
    "Tokens": (
        Shown("There", "", _post("/tokenize", '{"model":"demo","prompt":"Hello","return_token_strs":true}')),
        Shown("And back", "", _post("/detokenize", '{"model":"demo","tokens":[9259]}')),
    ),
    "Speech": (
        Shown(
            "A file of the checkout",
            "",
            f"curl -s {ADDRESS}/v1/audio/transcriptions -F model=demo -F file=@tests/backends/local/speech/river.ogg",
        ),
    ),
    "Backends that nobody configured": (
        Shown(
            "vLLM",
            "",
            _folded('{"framework":"vllm","model":"your-vllm-model","messages":[{"role":"user","content":"hello"}]}'),
            503,
        ),
        Shown(
            "SGLang",
            "",
            _folded(
                '{"framework":"sglang","model":"your-sglang-model","messages":[{"role":"user","content":"hello"}]}'
            ),
            503,
        ),
        Shown(
            "TGI",
            "",
            _folded(
                '{"framework":"tgi","model":"your-tgi-model","messages":[{"role":"user","content":"hello from tgi"}]}'
            ),
            503,
        ),
        Shown(
            "Ollama, text",
            "",
            _folded('{"framework":"ollama","model":"llama3:8b","messages":[{"role":"user","content":"hello"}]}'),
            503,
        ),
        Shown("Ollama, text and image", "", _post("/v1/chat/completions", _IMAGE), 503),
    ),
    "Refusals": (
        Shown(
            "Transcription, as a form",
            "The form is read in full; what is in it is no sound.",
            f"printf 'RIFF' | curl -s -X POST {ADDRESS}/v1/audio/transcriptions "
            '-F "file=@-;filename=speech.wav" -F model=demo',
            400,
        ),
        Shown(
            "Transcription, as JSON",
            "",
            _post("/v1/audio/transcriptions", '{"model":"demo","audio_base64":"UklGRg=="}'),
            400,
        ),
        Shown(
            "A model that is not here",
            "",
            _post("/v1/chat/completions", f'{{"model":"no/such-model",{_HELLO}}}'),
            404,
        ),
        Shown(
            "A field that would change the answer",
            "",
            _post("/v1/chat/completions", f'{{"model":"demo",{_HELLO},"length_penalty":0.5}}'),
            400,
        ),
        Shown(
            "A value of the wrong type",
            "",
            _post("/v1/chat/completions", '{"model":"demo","messages":[{"role":"user","content":7}]}'),
            400,
        ),
        Shown("Not JSON", "", _post("/v1/chat/completions", '{"model":"demo",'), 400),
    ),
}

CLIENTS = (
    'python illm/client/chat_completions.py --framework transformers --model demo --prompt "Hello" --max_tokens 16',
    'python illm/client/chat_completions.py --model demo --prompt "Say hi thrice" --stream --max_tokens 24',
    "python illm/client/embeddings.py --framework transformers --embedding_model demo --inputs hello world",
)


def main() -> int:
    """Ask everything, write the page; return 1 if a status was not the expected one."""
    parser = argparse.ArgumentParser(description="Write docs/validation.md anew, from a real server's answers.")
    parser.add_argument("--base-url", help="a server that runs already, started with `--model demo`")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    with serving() if options.base_url is None else waiting(options.base_url) as base:
        lines, wrong = page(base)
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for complaint in wrong:
        print(complaint, file=sys.stderr)
    print(f"{options.output}: {len(wrong)} unexpected")
    return 1 if wrong else 0


@contextmanager
def serving() -> Iterator[str]:
    """Run a server of our own on a free port while the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "illm.server", "transformers", "--model", "demo", "--host", "127.0.0.1"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ILLM_")}
    kept = {name: os.environ[name] for name in ("ILLM_CACHE_DIR",) if name in os.environ}
    server = subprocess.Popen([*command, "--port", str(port)], env=inherited | kept)
    try:
        with waiting(f"http://127.0.0.1:{port}", server) as base:
            yield base
    finally:
        server.terminate()
        status = server.wait(60)
    if status:
        raise SystemExit(f"the server ended with status {status} after SIGTERM")


@contextmanager
def waiting(base: str, server: subprocess.Popen[bytes] | None = None) -> Iterator[str]:
    """Wait until the server has loaded its models."""
    end = time.monotonic() + LOADING
    while not _healthy(base):
        if server is not None and server.poll() is not None:
            raise SystemExit(f"the server ended with status {server.returncode}")
        if time.monotonic() > end:
            raise SystemExit(f"{base} is not ready after {LOADING} seconds")
        time.sleep(1)
    yield base


def _healthy(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/healthz", timeout=5) as answer:
            return bool(json.load(answer)["status"] == "ok")
    except (OSError, ValueError, urllib.error.HTTPError):
        return False


def page(base: str) -> tuple[list[str], list[str]]:
    """Return the page's lines, and a complaint for every status that was not expected."""
    lines, wrong = _opening(), []
    for section, requests in SECTIONS.items():
        lines += ["", f"## {section}"]
        for shown in requests:
            print(f"{section}: {shown.title}")
            status, answer = ask(shown.command, base)
            if status != shown.status:
                wrong.append(f"{shown.title}: {status} instead of {shown.status}: {answer}")
            about = [shown.about, ""] if shown.about else []
            lines += ["", f"### {shown.title}", "", *about]
            lines += ["```sh", shown.command, "```", "", f"HTTP status {status}:", ""]
            lines += ["```text", shortened(answer).strip("\n"), "```"]
    lines += ["", "## Example clients", "", "From a checkout, in an environment with httpx."]
    for command in CLIENTS:
        print(command)
        status, answer = run_client(command, base)
        if status:
            wrong.append(f"{command}: exit status {status}: {answer}")
        lines += ["", "```sh", command, "```", "", "```text", answer.strip("\n"), "```"]
    return lines + remote(REMOTE.read_text(encoding="utf-8")), wrong


def remote(page: str) -> list[str]:
    """Return the section about real servers behind ILLM: the table of tests, as the page about them has it."""
    tests = page.split("\n## The tests\n")[1].split("\n## ")[0]
    table = [line for line in tests.splitlines() if line.startswith("|")]
    about = "Requests, answers, and what was found are on [a page of their own](validation-remote.md)."
    return ["", "## Real servers behind it", "", about, "", *table]


def ask(command: str, base: str) -> tuple[int, str]:
    """Run a line as it is printed, but for the address; return the status and the body."""
    with tempfile.TemporaryDirectory() as home:
        # The status comes by curl's own configuration, so that the line stays what a reader would type.
        write_out = _STATUS.replace("\n", r"\n") + "%{http_code}"
        Path(home, ".curlrc").write_text(f'write-out = "{write_out}"\nnoproxy = "*"\n')
        done = subprocess.run(
            ["sh", "-c", command.replace(ADDRESS, base)],
            cwd=ROOT,
            env=os.environ | {"CURL_HOME": home},
            capture_output=True,
            check=True,
            timeout=300,
        )
    body, _, status = done.stdout.decode().rpartition(_STATUS)
    return int(status), body


def run_client(command: str, base: str) -> tuple[int, str]:
    """Run an example client from the checkout; return its exit status and what it printed."""
    _, *arguments = shlex.split(command)
    done = subprocess.run(
        [sys.executable, *arguments, "--base_url", base],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout.decode()


def shortened(answer: str) -> str:
    """Cut each vector after three numbers, and say how many it had."""

    def cut(vector: re.Match[str]) -> str:
        numbers = vector[1].split(",")
        return f'"embedding":[{",".join(numbers[:3])}, ... {len(numbers)} numbers]'

    return re.sub(r'"embedding":\[([^\]]+)\]', cut, answer)


def machine() -> str:
    """Say what the numbers were computed on: greedy text is the same only where the arithmetic is."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return f"{platform.machine()}, no torch"
    from torch.backends import cpu

    return f"{platform.machine()}, {cpu.get_cpu_capability()}, torch {torch}"


def _opening() -> list[str]:
    return [
        "# Validation",
        "",
        "<!-- Written by docs/validate.py: change that, not this. -->",
        "",
        "Every request on this page was sent to a real server, and every answer is what came back. To see for",
        "yourself, start the service with the README's first command and paste the lines, in a checkout. To write the",
        "page anew, run `python docs/validate.py`. Ids, times, counters and sampled text differ from run to run.",
        "",
        f"illm {version('illm')}, Python {platform.python_version()}.",
        f"Model `demo` on the CPU ({machine()}).",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
