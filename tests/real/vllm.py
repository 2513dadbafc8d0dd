"""vLLM on the CPU."""

import sys
from collections.abc import Sequence

from tests.real.launch import HOST, Launch, Wish, main
from tests.real.models import EMBEDDER, NAME, TEMPLATE, embedder_directory, text_directory

ENVIRONMENT = {
    "VLLM_HOST_IP": HOST,
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "2",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
COMMON = ("--max-num-seqs", "16", "--dtype", "bfloat16", "--gpu-memory-utilization", "0.3", "--enforce-eager")
# The parser of Hermes reads `<tool_call>` and JSON, as the template asks for it.
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


def _command(wish: Wish) -> Sequence[str]:
    start = (wish.beside("vllm"), "serve")
    address = ("--host", HOST, "--port", str(wish.port), "--api-key", wish.key)
    if wish.embeddings:
        model = (str(embedder_directory()), "--served-model-name", EMBEDDER)
        return [*start, *model, *address, *COMMON, "--runner", "pooling", "--max-model-len", "256"]
    model = (str(text_directory()), "--served-model-name", NAME)
    return [*start, *model, *address, *COMMON, "--max-model-len", "2048", "--chat-template", str(TEMPLATE), *TOOLS]


LAUNCH = Launch(name="vllm", framework="vllm", command=_command, environment=ENVIRONMENT)

if __name__ == "__main__":
    sys.exit(main(LAUNCH))
