"""Writing to a transport's socket now, not when the event loop comes round to it."""

import asyncio
import os


def write_now(transport: asyncio.Transport, descriptor: int, data: bytes) -> None:
    """Hand `data` to the kernel at once; what it does not take goes through the transport.

    A time that was read just before then is the time of sending, without the loop's own queue in it.
    """
    if transport.get_write_buffer_size():
        transport.write(data)
        return
    try:
        taken = os.write(descriptor, data)
    except BlockingIOError:
        taken = 0
    except OSError:
        transport.abort()
        return
    if taken < len(data):
        transport.write(memoryview(data)[taken:])
