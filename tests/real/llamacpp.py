"""llama.cpp's server, by way of `xllamacpp`: up within seconds, and the cheapest OpenAI-style server there is."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.real.launch import Launch, Wish, main
from tests.real.models import NAME, TEMPLATE, text_file


def _command(wish: Wish) -> Sequence[str]:
    program = str(Path(__file__).with_name("llamacpp_server.py"))
    files = (str(text_file()), NAME, str(TEMPLATE))
    # -P: this directory has modules that are called what the servers' own packages are called.
    return [wish.python, "-P", program, *files, str(wish.port), wish.key, str(int(wish.embeddings))]


LAUNCH = Launch(name="llamacpp", framework="vllm", command=_command)

if __name__ == "__main__":
    sys.exit(main(LAUNCH))
