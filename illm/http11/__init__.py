"""HTTP/1.1 without I/O: feed bytes, get events; give a response, get bytes.

`RequestParser` puts one strict framing check in front of an exchangeable engine (h11 today), so that what counts as
a well-framed message does not depend on which engine runs.  `ResponseEncoder` is ours: engines differ in what they can
write, and a response needs little.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1).
"""

from illm.http11.events import Body, End, Event, Head, Refusal, Refused
from illm.http11.limits import MessageLimits
from illm.http11.parser import RequestParser
from illm.http11.response import ResponseEncoder, ResponseError, date_header
from illm.http11.target import Target, split_target

__all__ = [
    "Body",
    "End",
    "Event",
    "Head",
    "MessageLimits",
    "Refusal",
    "Refused",
    "RequestParser",
    "ResponseEncoder",
    "ResponseError",
    "Target",
    "date_header",
    "split_target",
]
