"""A recording over HTTP beside plain faster-whisper's own `transcribe`: same model, same file, same threads.

    python -m benchmarks.speech_rates FILE [--seconds 60] [--rounds 3] [--threads 1] [--output FILE]

Needs an environment with the extras `demo` and `audio`.  FILE is speech; it is repeated until it is long enough.
Rounds are interleaved: the library, the gateway, the library, the gateway; while one works the other rests.
"""

import argparse
import io
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import httpx

from benchmarks.embedding_rates import timed
from benchmarks.processes import HOST, await_answer, free_port, started

RATE = 16_000
PERIOD = 15
"""Seconds from one beginning of the file to the next, unless it is longer."""


def repeated(file: Path, seconds: float) -> bytes:
    """Return a recording of so many seconds: a file again and again, with pauses, as 16 kHz wav of one channel.

    The pauses matter: what repeats itself within a window looks like a model that is stuck, and is heard up to five
    times more, by chance, so that no two runs would do the same work.

    Args:
        file: in any format that the gateway hears.
        seconds: how long the recording shall be.
    """
    import av
    import numpy

    from illm.backends.local.speech.decoding import decoded

    once = numpy.concatenate(list(decoded(file.read_bytes(), longest=seconds)))
    turn = max(len(once), PERIOD * RATE)
    samples: Any = numpy.resize(numpy.pad(once, (0, turn - len(once))), round(seconds * RATE))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in range(0, len(samples), RATE):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + RATE], format="s16", layout="mono")
            frame.sample_rate = RATE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def measure(recording: bytes, rounds: int, threads: int) -> dict[str, Any]:
    """Return the seconds of each way, round by round, and the ratio of the gateway's to the library's.

    Args:
        recording: a wav file.
        rounds: how often each way has its turn.
        threads: of the model, in both.
    """
    from faster_whisper import WhisperModel

    from illm.backends.local.sources import resolve_named

    directory = resolve_named("demo", "audio").directory
    model = WhisperModel(str(directory), device="cpu", cpu_threads=threads)
    port = free_port()
    options = ["--model", "demo", "--audio-model", "demo", "--audio-threads", str(threads)]
    listen = ["--host", HOST, "--port", str(port), "--log-level", "error", "--max-body-bytes", str(1 << 30)]
    limits = ["--max-audio-bytes", str(1 << 29)]
    command = [sys.executable, "-m", "illm.server", "transformers", *options, *listen, *limits]
    texts: dict[str, str] = {}

    def library() -> None:
        segments, _ = model.transcribe(io.BytesIO(recording))
        texts["library"] = "".join(segment.text for segment in segments)

    with (
        started("illm", command) as server,
        httpx.Client(base_url=f"http://{HOST}:{port}", timeout=600, trust_env=False) as client,
    ):
        await_answer(server, f"http://{HOST}:{port}/healthz")

        def gateway() -> None:
            file = ("speech.wav", recording)
            answer = client.post("/v1/audio/transcriptions", files={"file": file}, data={"model": "whisper-tiny.en"})
            if answer.status_code != 200:
                raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")
            texts["gateway"] = answer.json()["text"]

        library()
        gateway()
        spent = [(timed(library), timed(gateway)) for _ in range(rounds)]
    ratios = [ours / theirs for theirs, ours in spent]
    return {
        "threads": threads,
        "same_text": texts["library"].strip() == texts["gateway"].strip(),
        "library_s": [theirs for theirs, _ in spent],
        "gateway_s": [ours for _, ours in spent],
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
    }


def main() -> None:
    """Measure, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = json.dumps(measure(repeated(given.file, given.seconds), given.rounds, given.threads), indent=1)
    if given.output is not None:
        given.output.write_text(found + "\n", encoding="utf-8")
    sys.stdout.write(found + "\n")


if __name__ == "__main__":
    main()
