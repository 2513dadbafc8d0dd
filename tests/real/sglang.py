"""SGLang on the CPU."""

import sys
from collections.abc import Sequence

from tests.real.launch import HOST, Launch, Wish, main
from tests.real.models import EMBEDDER, NAME, TEMPLATE, embedder_directory, text_directory

COMMON = (
    *("--host", HOST, "--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--dtype", "bfloat16", "--max-running-requests", "16", "--max-total-tokens", "16384"),
    *("--disable-cuda-graph", "--disable-overlap-schedule", "--sleep-on-idle"),
)

# An encoder looks both ways: what it made of a text's beginning must not be reused for another text.
EMBEDDING = ("--is-embedding", "--disable-radix-cache")


def _command(wish: Wish) -> Sequence[str]:
    start = (wish.beside("sglang"), "serve", "--port", str(wish.port), "--api-key", wish.key, *COMMON)
    if wish.embeddings:
        return [*start, "--model-path", str(embedder_directory()), "--served-model-name", EMBEDDER, *EMBEDDING]
    model = ("--model-path", str(text_directory()), "--served-model-name", NAME, "--context-length", "2048")
    return [*start, *model, "--chat-template", str(TEMPLATE), "--tool-call-parser", "qwen25"]


LAUNCH = Launch(name="sglang", framework="sglang", command=_command, environment={"OMP_NUM_THREADS": "2"})

if __name__ == "__main__":
    sys.exit(main(LAUNCH))
