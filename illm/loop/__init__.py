"""Where the two event loops differ: waking a task, moving bytes, starting a task that belongs to the loop.

Everything above this folder is written once.  What costs microseconds a request has a driver for asyncio's own
primitives here; trio, and any stream that is not a plain socket, has one on top of anyio.
"""
