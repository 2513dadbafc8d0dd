"""From a directory to a transcriber: its files say which engine."""

import av  # noqa: F401 - asked for here, where it can be said what is missing, and not with the first recording

from illm.backends.local.conversion import Progress
from illm.backends.local.load import failing_to_load, load_whisper, prepare_listener
from illm.backends.local.sources import Source, is_converted
from illm.backends.local.speech.transcriber import Transcriber


def load_listener(source: Source, *, device: str, threads: int, progress: Progress) -> Transcriber:
    """Load a Whisper model, downloading it first if it has to be.

    Args:
        source: what to load: a directory of Transformers, or one that was converted for CTranslate2.
        device: torch's name for where.
        threads: how many of them compute.
        progress: told what is going on.

    Raises:
        GatewayError: `MODEL_NOT_FOUND` or `MODEL_LOAD_FAILED`.
        ImportError: a package that this kind of files needs is missing.
    """
    source, directory = prepare_listener(source, progress)
    progress(f"loading {source.served}", None)
    if is_converted(directory):
        from illm.backends.local.speech.faster import FasterWhisper

        with failing_to_load(source.served):
            return FasterWhisper(source.served, directory, device=device, threads=threads)
    from illm.backends.local.speech.whisper import Whisper

    model, tokenizer, extractor = load_whisper(source, directory, device=device, threads=threads)
    return Whisper(source.served, model, tokenizer, extractor, device=device)
