"""A small ASGI 3 server for HTTP/1.1 on anyio: `serve` inside a running loop, `run` as a process.

It knows nothing of the gateway and serves any ASGI application, on asyncio (with uvloop where that is installed) and
on trio.  What is particular to it:

- A connection is one task that runs requests and one that reads, so that a client that leaves is noticed while its
  request runs.  The scope extension `illm.disconnect` offers `register(callback)`: the callback is called once,
  synchronously, in the event loop, as soon as the client is gone (at once if it already is), and never after a response
  that went out completely.  An application needs no task that watches `receive`.
- The end of the client's stream counts as its leaving, also when it only shut down its sending half: the two look
  the same until something is written, and a model that works on for a client that left costs more than the
  rare client that half-closes is worth.  (Other ASGI servers decide likewise.)
- `send` to a client that has left raises `ClientDisconnected`, an `OSError`, as ASGI 2.4 allows; a streaming
  application that looks at nothing else still stops.
- If the application object has a callable `begin_drain`, it is called when a graceful stop begins.
"""

from illm.server.descriptors import raise_descriptor_limit
from illm.server.exchange import ClientDisconnected
from illm.server.lifespan import LifespanFailed
from illm.server.limits import Limits
from illm.server.process import run
from illm.server.serving import serve

__all__ = ["ClientDisconnected", "LifespanFailed", "Limits", "raise_descriptor_limit", "run", "serve"]
