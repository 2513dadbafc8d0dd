"""The answer of `/generate_stream`: one event a token, the last one with the whole text."""

from collections.abc import Sequence
from typing import Any

import orjson

from illm.core.events import Delta, Done, Event, Finish, Logprob
from illm.dialects.tgi.errors import error_frame
from illm.dialects.tgi.requests import Generation
from illm.dialects.tgi.tokens import Choice, raw, token_object, top_tokens
from illm.errors import GatewayError, Kind

JSON = dict[str, Any]


class GenerationStream:
    """The events of one answer; see `illm.dialects.openai.Encoder` for the methods.

    Args:
        generation: what was asked.
    """

    content_type = b"text/event-stream"

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._choice = Choice()
        self._sent = ""
        self._index = 0
        self._last: Logprob | None = None  # the token that may be the last one
        self._closed = False

    def feed(self, events: Sequence[Event]) -> bytes:
        """Return the events of a batch.

        The last token of a batch waits for the batch's end only: what ends an answer comes with its last token, or
        stands alone, as a token without text.
        """
        pieces: list[bytes] = []
        for event in events:
            match event:
                case Delta():
                    for token in self._choice.feed(event):
                        pieces += self._release()
                        self._last = token
                case Finish():
                    self._choice.finish = event
                case Done(usage=usage):
                    if self._choice.finish is not None:
                        pieces.append(self._end(usage.prompt_tokens, usage.completion_tokens))
                case _:
                    raise TypeError(f"a stream of text cannot hold {type(event).__name__}")
        if self._choice.finish is None:
            pieces += self._release()
        return b"".join(pieces)

    def close(self) -> bytes:
        """Return nothing, or the error where there was no end."""
        if self._closed:
            return b""
        return self.fail(GatewayError(Kind.BACKEND_DIED, "The backend ended before its answer was complete"))

    def fail(self, error: GatewayError) -> bytes:
        """Return the error as the last event."""
        if self._closed:
            return b""
        self._closed = True
        return error_frame(error)

    def _release(self) -> list[bytes]:
        token, self._last = self._last, None
        return [] if token is None else [self._frame(token, {"generated_text": None, "details": None})]

    def _end(self, prompt_tokens: int, generated_tokens: int) -> bytes:
        self._closed = True
        generated = self._choice.generated
        token, self._last = self._last, None
        if token is None:
            token = Logprob("", 0.0, special=True)
        if not token.special:
            # Backends look for a stop string in the text, TGI at the end of a token: the text counts.
            token = Logprob(generated[len(self._sent) :], token.logprob, None, token.top, token.id)
        details = {
            "finish_reason": self._choice.reason,
            "generated_tokens": generated_tokens,
            "seed": self._generation.seed,
            "input_length": prompt_tokens,
        }
        full = (self._generation.prompt if self._generation.full_text else "") + generated
        return self._frame(
            token, {"generated_text": raw(full), "details": details if self._generation.details else None}
        )

    def _frame(self, token: Logprob, rest: JSON) -> bytes:
        self._index += 1
        if not token.special:
            self._sent += token.token
        event: JSON = {"index": self._index, "token": token_object(token)}
        if self._generation.top_tokens:
            event["top_tokens"] = top_tokens(token, self._generation.top_tokens)
        # No blank after the colon: TGI's own clients are not the only ones that expect none.
        return b"data:%s\n\n" % orjson.dumps(event | rest)
