"""An answer of embeddings: its vectors pass through unread, for they can be tens of megabytes of digits."""

from collections.abc import Sequence
from typing import Any

import msgspec

from illm.backends.remote.bodies import Collected
from illm.backends.remote.repair import gateway_name, read_usage
from illm.backends.remote.upstream_errors import complaint_in, nonsense, upstream_error
from illm.core.events import Done, Event, Raw, Usage
from illm.core.requests import Embed


class _Answer(msgspec.Struct):
    object: str = "list"
    data: msgspec.Raw = msgspec.Raw(b"[]")
    model: Any = None
    usage: Any = None
    error: Any = None
    message: Any = None


class EmbeddingAnswer(Collected):
    """The body of such an answer.

    Args:
        framework: who answers.
        request: what was asked.
    """

    def __init__(self, framework: str, request: Embed) -> None:
        super().__init__(framework)
        self._request = request

    def read(self, body: bytes) -> Sequence[Event]:
        """Put the gateway's name for the model on it, and count."""
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise nonsense(self.framework, "answered something that is no list of embeddings") from None
        if answer.error or answer.object == "error":
            shape = {"error": answer.error, "message": answer.message}
            raise upstream_error(self.framework, self._request, 200, complaint_in(shape))
        data = bytes(answer.data)
        if not data.startswith(b"[{"):
            raise nonsense(self.framework, "answered without an embedding")
        usage = read_usage(answer.usage) or Usage()
        tail = {
            "model": gateway_name(self._request, answer.model),
            "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens},
        }
        return (
            Raw(b'{"object":"list","data":%s,%s' % (data, msgspec.json.encode(tail)[1:])),
            Done(Usage(usage.prompt_tokens, 0, usage.cached_tokens)),
        )
