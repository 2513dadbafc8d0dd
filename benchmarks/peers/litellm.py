"""LiteLLM's proxy: one worker, as its own command line starts it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.environments import REQUIREMENTS, Environment
from benchmarks.peers.program import Program, distribution_version
from benchmarks.processes import HOST
from benchmarks.systems import Upstream

ENVIRONMENT = Environment("litellm", (REQUIREMENTS / "litellm.txt",))
_KEY = "sk-benchmark"
_PROVIDERS = {"openai": ("openai", "/v1"), "ollama": ("ollama_chat", "")}
"""Dialect → what LiteLLM calls it, and the path below which it is spoken."""


def config(upstream: Upstream) -> dict[str, Any]:
    """Return the proxy's configuration; it is read as YAML, of which JSON is a part."""
    provider, path = _PROVIDERS[upstream.dialect]
    behind = {"model": f"{provider}/{upstream.model}", "api_base": f"{upstream.url}{path}", "api_key": "none"}
    return {
        "model_list": [{"model_name": upstream.model, "litellm_params": behind}],
        "litellm_settings": {"telemetry": False, "num_retries": 0, "request_timeout": 600},
        "general_settings": {"disable_spend_logs": True},
    }


def silence() -> dict[str, Any]:
    """Return a logging configuration in which nobody speaks; its server logs every request otherwise."""
    loggers = {name: {"level": "CRITICAL", "handlers": []} for name in ("uvicorn", "uvicorn.error", "uvicorn.access")}
    return {"version": 1, "disable_existing_loggers": False, "loggers": loggers}


def _command(upstream: Upstream, port: int, home: Path) -> Sequence[str | Path]:
    path, quiet = home / "litellm.yaml", home / "log.json"
    path.write_text(json.dumps(config(upstream)))
    quiet.write_text(json.dumps(silence()))
    listen = ("--host", HOST, "--port", str(port), "--num_workers", "1")
    return [ENVIRONMENT.program("litellm"), "--config", path, *listen, "--log_config", quiet]


SYSTEM = Program(
    name="litellm",
    environment=ENVIRONMENT,
    command=_command,
    about=distribution_version(ENVIRONMENT, "litellm"),
    health="/health/liveliness",
    variables={
        "LITELLM_MASTER_KEY": _KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would ask the network for prices
        "LITELLM_LOG": "CRITICAL",
        "LITELLM_TELEMETRY": "False",
    },
    headers={"Authorization": f"Bearer {_KEY}"},
    patience=300,
)
