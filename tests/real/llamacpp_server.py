"""Runs in the environment of llama.cpp: the package is a library, and this makes a server of it."""

import signal
import sys
from pathlib import Path

import xllamacpp


def main() -> None:
    """Serve GGUF NAME TEMPLATE PORT KEY EMBEDDINGS until told to stop."""
    path, name, template, port, key, embeddings = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.api_keys = [key]
    params.n_parallel = 8
    params.n_ctx = 8 * 2048
    params.cpuparams.n_threads = 2
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.use_jinja = True
    params.chat_template = Path(template).read_text()
    if embeddings == "1":
        # There is no sentence embedder in this format here: the mean over the language model's states has to do.
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.n_ubatch = params.n_batch
    server = xllamacpp.Server(params)
    sys.stderr.write(f"{server.listening_address}\n")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    # Blocked before threads are made, so that none of them takes the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
