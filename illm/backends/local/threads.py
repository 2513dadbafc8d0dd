"""The two threads of a local model, and how what they make reaches the loop.

All torch work, loading included, happens in the engine thread: OpenMP keeps a pool for each calling thread, and a
second one costs a fifth of the speed.  Tokenising has a thread of its own, so that a long prompt stops no stream.

Both are daemons: a thread cannot be killed, and a wedged device must not keep the process from ending.  Whatever one
raises is posted, never lost.  Nothing crosses to the loop alone: results gather in an outbox and wake the loop once.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any

from illm.actors.call import Call
from illm.actors.loop import Post
from illm.backends.local.work import Batch, Work
from illm.core.events import Failed
from illm.errors import GatewayError, Kind

logger = logging.getLogger("illm.local")

Command = Callable[[Work], None]


class Outbox:
    """Results on their way from threads to the loop; one wake-up serves all that gathered.

    Args:
        post: see `illm.actors.loop.poster`.
        deliver: called in the loop with each batch; must not raise.
    """

    def __init__(self, post: Post, deliver: Callable[[Batch], None]) -> None:
        self._post = post
        self._deliver = deliver
        self._batches: deque[Batch] = deque()
        self._armed = False

    def put(self, batch: Batch) -> None:
        """From any thread."""
        self._batches.append(batch)
        if not self._armed:
            self._armed = True
            self._post(self._flush)

    def _flush(self) -> None:
        self._armed = False  # before looking: what comes later wakes the loop again
        while self._batches:
            self._deliver(self._batches.popleft())


class EngineThread:
    """One model in one thread, and its prompt thread.

    Args:
        name: for the thread list and the log.
        load: makes the work; runs in the engine thread.
        outbox: where results go.
        loaded: called in the engine thread when `load` has returned.
        ended: called in the engine thread, last, with what ended it (None if it was asked to).
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Work],
        outbox: Outbox,
        loaded: Callable[[Work], None],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self._load, self._outbox, self._loaded, self._ended = load, outbox, loaded, ended
        self._commands: SimpleQueue[Command | None] = SimpleQueue()
        self._prompts: SimpleQueue[tuple[int, Call] | None] = SimpleQueue()
        self._work: Work | None = None
        self._stopping = False
        self.step_began: float | None = None
        self._engine = threading.Thread(target=self._run, name=f"illm-engine-{name}", daemon=True)
        self._prompter = threading.Thread(target=self._prepare, name=f"illm-prompt-{name}", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._engine.start()

    def submit(self, key: int, call: Call) -> None:
        """Have a call tokenised and taken up; its events will carry `key`."""
        self._prompts.put((key, call))

    def abort(self, key: int) -> None:
        """Drop a call; takes effect before the next step."""
        self._commands.put(lambda work: work.abort(key))

    def stop(self) -> None:
        """Ask both threads to end after what they are doing."""
        self._stopping = True
        self._commands.put(None)
        self._prompts.put(None)

    @property
    def alive(self) -> bool:
        """Whether the engine thread still runs, be it wedged."""
        return self._engine.is_alive()

    @property
    def stuck_for(self) -> float:
        """Seconds since the step that is running now began; 0 between steps."""
        began = self.step_began
        return 0.0 if began is None else monotonic() - began

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._work = work = self._load()
            self._loaded(work)
            self._prompter.start()
            self._loop(work)
        except BaseException as failure:
            error = failure
        finally:
            self._work = None  # the model's memory goes with the thread
            self._prompts.put(None)
            self._ended(error)

    def _loop(self, work: Work) -> None:
        while not self._stopping:
            while not (work.busy and self._commands.empty()):
                command = self._commands.get()
                if command is None:
                    return
                command(work)
            self.step_began = monotonic()
            batch = work.step()
            self.step_began = None
            if batch:
                self._outbox.put(batch)

    def _prepare(self) -> None:
        while (item := self._prompts.get()) is not None:
            key, call = item
            work = self._work
            if work is None:
                return
            if call.left:
                continue
            try:
                prepared = work.prepare(call.request)
            except GatewayError as error:
                self._outbox.put([(key, (Failed(error),))])
            except Exception as error:
                failure = GatewayError(Kind.INTERNAL, "The prompt could not be prepared")
                failure.__cause__ = error
                self._outbox.put([(key, (Failed(failure),))])
            else:
                self._commands.put(self._adding(key, call, prepared))

    def _adding(self, key: int, call: Call, prepared: Any) -> Command:
        def add(work: Work) -> None:
            if call.left:  # its abort may have come before it
                return
            try:
                work.add(key, prepared)
            except GatewayError as error:
                self._outbox.put([(key, (Failed(error),))])

        return add
