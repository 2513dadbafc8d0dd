"""The walk through a recording: 30 seconds at a time, from where the model last said that a segment ended.

This is the algorithm of the Whisper paper (section 3.8, "Robust speech recognition via large-scale weak supervision"):
the tokens for time in what the model writes cut the window into segments, and tell where the next one should begin.
A step of the walk is one window, so that whoever drives it may turn to something else, or stop, after each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from illm.backends.local.speech.spectrogram import FRAMES_PER_SECOND, WINDOW_FRAMES, Spectrogram
from illm.backends.local.speech.transcriber import Heard, Listener, Piece
from illm.core.events import Segment

TOKEN_SECONDS = 0.02
_FRAMES_PER_TOKEN = 2

# OpenAI's values: silence is what the model takes for it and writes without conviction.
_SILENT = 0.6
_UNCERTAIN = -1.0

_WILD = 0.5
"""Text written at a higher temperature is no model for what follows."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one window gave; `position` is the frame up to which the recording has been heard now."""

    segments: tuple[Segment, ...]
    tokens: int
    position: int


def walk(listener: Listener, sound: Spectrogram, *, words: bool) -> Iterator[Step]:
    """Yield what each window gives, decoding it when asked for it.

    Args:
        listener: the engine, begun on this recording.
        sound: the recording.
        words: whether to find the time of each word.
    """
    seek, spoken = 0, 0.0
    before = list(listener.prompt)
    while seek < sound.frames:
        frames = min(WINDOW_FRAMES, sound.frames - seek)
        heard = listener.hear(sound.window(seek), before)
        if heard.no_speech_prob > _SILENT and heard.avg_logprob <= _UNCERTAIN:
            seek += frames
            yield Step((), len(heard.tokens), seek)
            continue
        pieces, advance, whole = cut(heard.tokens, listener.time_zero, frames, seek / FRAMES_PER_SECOND)
        if words:
            listener.time_words(pieces, seek, frames, spoken)
            ends = [piece.words[-1].end for piece in pieces if piece.words]
            if ends:
                spoken = ends[-1]
                if not whole and spoken > seek / FRAMES_PER_SECOND:
                    advance = round(spoken * FRAMES_PER_SECOND) - seek
        segments = tuple(_segments(listener, pieces, heard, seek))
        for segment in segments:
            before += segment.tokens
        if heard.temperature > _WILD:
            before.clear()
        # A model that says that the window ended where it began would be asked the same for ever.
        seek += advance if advance > 0 else frames
        yield Step(segments, len(heard.tokens), min(seek, sound.frames))


def cut(tokens: Sequence[int], time_zero: int, frames: int, offset: float) -> tuple[list[Piece], int, bool]:
    """Cut a window at its tokens for time.

    Args:
        tokens: as the model wrote them.
        time_zero: the token for the window's beginning.
        frames: how many frames of the window are sound.
        offset: the window's beginning in the recording, seconds.

    Returns:
        The pieces; how many frames to go on; and whether the model said that nothing is spoken after the last piece.
    """
    timed = [token >= time_zero for token in tokens]
    whole = timed[-2:] == [False, True]
    # Two of them side by side are the end of one segment and the beginning of the next.
    ends = [at for at in range(1, len(tokens)) if timed[at - 1] and timed[at]]
    if not ends:
        last = next((token for token in reversed(tokens) if token >= time_zero), time_zero)
        length = (last - time_zero) * TOKEN_SECONDS if last != time_zero else frames / FRAMES_PER_SECOND
        return [Piece(offset, offset + length, list(tokens), 0)], frames, whole
    if whole:
        ends.append(len(tokens))
    pieces = []
    for start, stop in zip([0, *ends], ends, strict=False):
        begin, end = (max(tokens[at] - time_zero, 0) * TOKEN_SECONDS for at in (start, stop - 1))
        pieces.append(Piece(offset + begin, offset + end, list(tokens[start:stop]), start))
    advance = frames if whole else (tokens[ends[-1] - 1] - time_zero) * _FRAMES_PER_TOKEN
    return pieces, advance, whole


def _segments(listener: Listener, pieces: Sequence[Piece], heard: Heard, seek: int) -> Iterator[Segment]:
    for piece in pieces:
        text = listener.text(piece.tokens)
        if piece.start == piece.end or not text.strip():
            continue
        yield Segment(
            start=piece.start,
            end=piece.end,
            text=text,
            seek=seek,
            tokens=tuple(piece.tokens),
            temperature=heard.temperature,
            avg_logprob=heard.avg_logprob,
            compression_ratio=heard.compression_ratio,
            no_speech_prob=heard.no_speech_prob,
            words=piece.words,
        )
