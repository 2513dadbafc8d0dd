"""Runs in the environment of llama.cpp: the package is a library, and this makes a server of it."""

import signal
import sys
from pathlib import Path

import xllamacpp


def main() -> None:
    """Serve GGUF NAME TEMPLATE PORT STREAMS CONTEXT THREADS until told to stop; CONTEXT is for each stream."""
    path, name, template, port, streams, context, threads = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_parallel = int(streams)
    params.n_ctx = int(streams) * int(context)
    params.cpuparams.n_threads = int(threads)
    params.use_jinja = True
    params.chat_template = Path(template).read_text()
    server = xllamacpp.Server(params)
    sys.stderr.write(f"{server.listening_address}\n")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    # Blocked before threads are made, so that none of them takes the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
