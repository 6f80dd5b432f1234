"""What keeps a stream sound when a signal's handler raises in the middle of it.

Python runs signal handlers in the main thread, after any call of whatever it is doing. A
KeyboardInterrupt or SystemExit raised there may leave books half changed, and
`threading.Condition` and `threading.Event`, which are Python code, with a lock held for ever. So a
thread that is not the stream's own does three things only: it takes a C lock in a ``with`` (never
left half done since Python 3.10), it makes one C call (done or not done), and it waits on a `Bell`.
Everything else is done by the stream's own threads, which no signal's exception reaches; opening one,
which starts them, by a thread for that alone (`undisturbed`).
"""

from __future__ import annotations

import _thread
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Bell", "Changed", "Clerk", "undisturbed"]

T = TypeVar("T")

_UNDO_S = 2.0  # whoever pressed Ctrl-C waits no longer for what is being opened


class Bell:
    """Wakes one waiting thread: a binary semaphore made of one C lock, which may be torn nowhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        try:
            self._lock.release()
        except RuntimeError:  # it has been rung and nobody has heard it yet
            return

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is rung; False when it was not in time."""
        return self._lock.acquire(timeout=max(0.0, timeout_s))


class Changed(threading.Condition):
    """The stream's condition: its own threads use it as it is, callers take ``lock`` and a bell.

    Attributes:
        lock: The stream's one lock, re-entrant.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._bells: set[Bell] = set()
        super().__init__(self.lock)

    def notify_all(self) -> None:
        """Wake the stream's threads and the callers. Called under the lock."""
        super().notify_all()
        while self._bells:
            self._bells.pop().ring()

    def bell(self) -> Bell:
        """A bell that the next change rings. Called under the lock; wait outside of it."""
        bell = Bell()
        self._bells.add(bell)
        return bell

    def wait_for_bell(self, bell: Bell, timeout_s: float) -> None:
        """Wait for a change without the lock."""
        if not bell.wait(timeout_s):
            with self.lock:
                self._bells.discard(bell)

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds the lock."""
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001


class _Task:
    """What the clerk was asked for, and what came of it."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action
        self.bell = Bell()
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None


class Clerk:
    """Does what callers ask for in a thread of its own, one thing after the other, each to its end.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        # Not queue.SimpleQueue: its waiting with a time-out may never end on a busy machine.
        self._asked: deque[_Task] = deque()
        self._bell = Bell()
        self._is_ending = self._is_over = False
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)

    def ask(self, action: Callable[[], Any]) -> _Task:
        """Have it done without waiting."""
        task = _Task(action)
        self._asked.append(task)
        self._bell.ring()
        return task

    def do(self, action: Callable[[], T]) -> T:
        """Have it done, and wait; a wait that is interrupted leaves the clerk at its work.

        Raises:
            BaseException: What the action raised.
        """
        task = self.ask(action)
        while not task.is_done:
            if self._is_over and not task.is_done:
                return action()  # it came after the end: nobody else is at work any more
            task.bell.wait(0.5)
        if task.error is not None:
            raise task.error
        return task.result  # type: ignore[no-any-return]

    def end(self) -> None:
        """Stop after what was asked for; called by the last action."""
        self._is_ending = True

    def _work(self) -> None:
        while self._asked or not self._is_ending:
            if not self._asked:
                self._bell.wait(1.0)
                continue
            task = self._asked.popleft()
            try:
                task.result = task.action()
            except BaseException as error:  # it belongs to who asked
                task.error = error
            task.is_done = True
            task.bell.ring()
            del task
        self._is_over = True


class _Made:
    """What a thread has made, and whether anybody waits for it."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_ready = False
        self.is_abandoned = False
        self.bell = Bell()
        self.thread: threading.Thread


def undisturbed(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Make something that holds threads or processes where no signal can tear it.

    Signals raise in the main thread only; any other one makes it itself. A caller who is interrupted
    waits a moment until it is undone; what takes longer is undone later.

    Args:
        make: Cleans up after itself when it raises.
        undo: Called with what was made, once or twice, when the caller was interrupted and does not
            get it.

    Raises:
        BaseException: What ``make`` raised.
    """
    if threading.current_thread() is not threading.main_thread():
        return make()
    made = _Made()
    try:
        _thread.start_new_thread(_begin, (made, make, undo))  # one C call; Thread.start is many
        while not made.bell.wait(0.5):
            continue
        made.thread.join()
    except BaseException:
        made.is_abandoned = True  # said before it is looked whether it is ready, in `_make` after:
        if made.is_ready and made.error is None:  # one of both undoes it
            undo(made.result)
        made.bell.wait(_UNDO_S)
        raise
    if made.error is not None:
        raise made.error
    return made.result  # type: ignore[no-any-return]


def _begin(made: _Made, make: Callable[[], T], undo: Callable[[T], object]) -> None:
    """In a thread that Python's list of threads never sees; it starts one that is seen."""
    made.thread = threading.Thread(
        target=_make, args=(made, make, undo), name="edgead opening", daemon=True
    )
    made.thread.start()


def _make(made: _Made, make: Callable[[], T], undo: Callable[[T], object]) -> None:
    try:
        made.result = make()
    except BaseException as error:  # it belongs to who asked
        made.error = error
    made.is_ready = True
    if made.is_abandoned and made.error is None:
        undo(made.result)
    made.bell.ring()
