"""The threads of a local model, and how what they make reaches the loop.

All torch work, loading included, happens in the engine thread: OpenMP keeps a pool for each calling thread, and a
second one costs a fifth of the speed.  Tokenising has a thread of its own, so that a long prompt stops no stream; and
prompts with images have another, as decoding those takes seconds where words take milliseconds.

All are daemons: a thread cannot be killed, and a wedged device must not keep the process from ending.  Whatever one
raises is posted, never lost.  Nothing crosses to the loop alone: results gather in an outbox and wake the loop once.
"""

import threading
import traceback
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any, Protocol

from illm.backends.local.give_way import give_way
from illm.backends.local.resting import take
from illm.backends.local.work import Answered, Batch, Gradual, Work
from illm.core.capabilities import Capability
from illm.core.events import Failed
from illm.core.requests import Chat, Completion, Request
from illm.errors import GatewayError, Kind
from illm.loop.tasks import Post

Command = Callable[[Work], None]

FORM_LIMIT = 30.0
"""Seconds for which a grammar may be made before others who want one are told to come again."""

_FORMS_BUSY = "The form of another answer is still being worked out; try again later"


class Asking(Protocol):
    """What an engine needs to know of a call."""

    @property
    def request(self) -> Request:
        """What is asked."""

    @property
    def left(self) -> bool:
        """Whether nobody waits for the answer any more."""


class Sink(Protocol):
    """Where an engine's results go."""

    def put(self, batch: Batch) -> bool:
        """Take results, from any thread.  Returns False once nobody is there to hear."""


class Outbox:
    """Results on their way from threads to the loop; one wake-up serves all that gathered.

    Args:
        post: see `illm.loop.tasks.poster`.
        deliver: called in the loop with each batch; must not raise.
    """

    def __init__(self, post: Post, deliver: Callable[[Batch], None]) -> None:
        self._post = post
        self._deliver = deliver
        self._batches: deque[Batch] = deque()
        self._armed = False

    def put(self, batch: Batch) -> bool:
        """From any thread.  Returns False once the loop has ended: nobody is there to hear."""
        self._batches.append(batch)
        if self._armed:
            return True
        self._armed = True
        return self._post(self._flush)

    def _flush(self) -> None:
        self._armed = False  # before looking: what comes later wakes the loop again
        while self._batches:
            self._deliver(self._batches.popleft())


class _Lane:
    """Prompts that are prepared one after another, in one thread.

    Args:
        prepare: prepares one, by its key; returns whether there is any use in going on.
        left: called in the thread when it ends.
        name: of the thread.
    """

    def __init__(self, prepare: Callable[[int], bool], left: Callable[[], None], name: str) -> None:
        self._prepare, self._left = prepare, left
        self.keys: SimpleQueue[int | None] = SimpleQueue()
        self.began: float | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def busy_for(self) -> float:
        """Seconds for which one prompt has been prepared by now; 0 between them."""
        began = self.began
        return 0.0 if began is None else monotonic() - began

    def _run(self) -> None:
        going = True
        try:
            while going and (key := take(self.keys)) is not None:
                self.began = monotonic()
                going = self._prepare(key)
                self.began = None
        finally:
            self._left()


class EngineThread:
    """One model in one thread, and its prompt threads.

    Args:
        name: for the thread list and the log.
        load: makes the work; runs in the engine thread.
        outbox: where results go.
        loaded: called in the engine thread when `load` has returned.
        ended: called in the engine thread when no more results come, with what ended it (None if it was asked to).
        gone: called in the last of the threads, after `ended`: nothing of the model is in use any more.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Work],
        outbox: Sink,
        *,
        loaded: Callable[[Work], object],
        ended: Callable[[BaseException | None], object],
        gone: Callable[[], object],
    ) -> None:
        self._load, self._outbox, self._loaded, self._ended, self._gone = load, outbox, loaded, ended, gone
        self._commands: SimpleQueue[Command | None] = SimpleQueue()
        self._unprepared: dict[int, Asking] = {}
        self._work: Work | None = None
        self._stopping = False
        self._step_began: float | None = None
        self._lock = threading.Lock()
        self._running = 0
        self._engine = threading.Thread(target=self._run, name=f"illm-engine-{name}", daemon=True)
        self._words = _Lane(self._prepare_next, self._leave_thread, f"illm-prompt-{name}")
        self._images = _Lane(self._prepare_next, self._leave_thread, f"illm-image-{name}")
        # A grammar is a client's program for native code, whose limits may miss something, and which cannot be stopped.
        self._forms = _Lane(self._prepare_next, self._leave_thread, f"illm-form-{name}")
        self._lanes = (self._words, self._images, self._forms)

    def start(self) -> None:
        """Begin to load."""
        self._begin(self._engine)

    def submit(self, key: int, call: Asking) -> None:
        """Have a call tokenised and taken up; its events will carry `key`."""
        lane = self._lane(call.request)
        if lane is self._forms and lane.busy_for > FORM_LIMIT:
            busy = GatewayError(Kind.OVERLOADED, _FORMS_BUSY)
            self._fail(key, busy, str(busy))
            return
        self._unprepared[key] = call
        lane.keys.put(key)

    def abort(self, key: int) -> None:
        """Drop a call; takes effect before the next step."""
        # At once, not when its turn comes: behind a long prompt, those who come and go would pile up their requests.
        self._unprepared.pop(key, None)
        self._commands.put(lambda work: work.abort(key))

    def stop(self) -> None:
        """Ask all threads to end after what they are doing."""
        self._stopping = True
        self._commands.put(None)
        for lane in self._lanes:
            lane.keys.put(None)

    @property
    def alive(self) -> bool:
        """Whether any thread still holds the model, be it wedged."""
        return self._running > 0

    @property
    def stuck_for(self) -> float:
        """Seconds that the running step or a prompt has taken so far, the longest of them; 0 between them."""
        step = 0.0 if (began := self._step_began) is None else monotonic() - began
        # Not a form: it hinders only those who want one.
        return max(step, self._words.busy_for, self._images.busy_for)

    def _lane(self, request: Request) -> _Lane:
        # First: whoever shows images as well must not have his grammar hold up theirs.
        if isinstance(request, Chat | Completion) and (request.constraints or getattr(request, "tools", ())):
            return self._forms
        return self._images if request.needs is Capability.IMAGES else self._words

    def _begin(self, thread: threading.Thread) -> None:
        with self._lock:
            self._running += 1
        try:
            thread.start()
        except BaseException:
            self._leave_thread()
            raise

    def _leave_thread(self) -> None:
        with self._lock:
            self._running -= 1
            last = self._running == 0
        if last:
            self._gone()

    def _run(self) -> None:
        give_way()
        error = self._live()
        self._work = None
        if error is not None:
            _clear_frames(error)
        for lane in self._lanes:
            lane.keys.put(None)
        self._ended(error)
        self._leave_thread()

    def _live(self) -> BaseException | None:
        try:
            self._work = work = self._load()
            self._loaded(work)
            if not self._stopping:
                for lane in self._lanes:
                    self._begin(lane.thread)
                self._loop(work)
        except BaseException as failure:
            return failure
        return None

    def _loop(self, work: Work) -> None:
        while not self._stopping:
            while not (work.busy and self._commands.empty()):
                command = take(self._commands)
                if command is None:
                    return
                command(work)
            self._step_began = monotonic()
            try:
                batch = work.step()
            finally:
                self._step_began = None
            if batch and not self._outbox.put(batch):
                return

    def _prepare_next(self, key: int) -> bool:
        call, work = self._unprepared.pop(key, None), self._work
        if work is None:
            return False
        if call is not None and not call.left:
            self._prepare(key, call, work)
        return True

    def _prepare(self, key: int, call: Asking, work: Work) -> None:
        try:
            prepared = work.prepare(call.request)
            if isinstance(prepared, Gradual):
                prepared = prepared.through(lambda: self._useful(call))
                if prepared is None:
                    return
        except BaseException as error:  # a panic in a tokenizer's native code is no `Exception`
            self._fail(key, error, "The prompt could not be prepared")
        else:
            if isinstance(prepared, Answered):
                self._outbox.put([(key, prepared.events)])
            else:
                self._commands.put(self._adding(key, call, prepared))

    def _useful(self, call: Asking) -> bool:
        self._lane(call.request).began = monotonic()  # what goes on piece by piece does not hang
        return not (call.left or self._stopping)

    def _adding(self, key: int, call: Asking, prepared: Any) -> Command:
        def add(work: Work) -> None:
            if call.left:  # its abort may have come before it
                return
            try:
                work.add(key, prepared)
            except Exception as error:
                self._fail(key, error, "The request could not be taken up")

        return add

    def _fail(self, key: int, error: BaseException, message: str) -> None:
        failure = error if isinstance(error, GatewayError) else GatewayError(Kind.INTERNAL, message)
        if failure is not error:
            failure.__cause__ = error
        self._outbox.put([(key, (Failed(failure),))])


def _clear_frames(error: BaseException) -> None:
    """Let go of what the frames of a finished thread refer to: someone logs the error, and the model must not stay."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        pending += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
