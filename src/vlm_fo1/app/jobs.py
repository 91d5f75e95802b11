"""Work that can be watched and stopped: it runs aside, and says how far it is."""

import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, TypeVar

T = TypeVar("T")
N = TypeVar("N")


class StoppedError(BaseException):
    """Raised in the worker at its next word after somebody pressed Stop.

    As ``KeyboardInterrupt`` it is no failure of what is being worked on.
    """


class Jobs:
    """Who has asked to stop what; one job of a kind for each visitor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flags: dict[str, threading.Event] = {}

    def begin(self, who: str) -> threading.Event:
        """A new job; its flag is set by `stop`. One that still runs for them is stopped."""
        flag = threading.Event()
        with self._lock:
            before = self._flags.get(who)
            self._flags[who] = flag
        if before is not None:
            before.set()
        return flag

    def end(self, who: str, flag: threading.Event) -> None:
        """The job is over."""
        with self._lock:
            if self._flags.get(who) is flag:
                del self._flags[who]

    def stop(self, who: str) -> bool:
        """Ask the visitor's job to stop; whether there was one."""
        with self._lock:
            flag = self._flags.get(who)
        if flag is not None:
            flag.set()
        return flag is not None


class Watched(Generic[N, T]):
    """A call that runs in a thread of its own and reports news while it does.

    Args:
        call: Gets a function to report with; that one raises `StoppedError` once ``flag`` is set.
        flag: Set by whoever wants it to stop.
    """

    def __init__(
        self, call: Callable[[Callable[[N], None]], T], flag: threading.Event | None = None
    ) -> None:
        self._call = call
        self._flag = flag or threading.Event()
        self._news: queue.Queue[tuple[N] | None] = queue.Queue()  # None: it is over
        self._result: list[T] = []
        self._error: list[BaseException] = []

    def news(self, every_s: float = 0.2) -> Generator[list[N], None, None]:
        """Start; everything reported since the last time, at most every so many seconds.

        If the reader goes away, the call is asked to stop.
        """
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        try:
            over = False
            while not over:
                fresh, over = self._gather(every_s)
                if fresh:
                    yield fresh
        finally:
            if worker.is_alive():
                self._flag.set()
        worker.join()

    def result(self) -> T:
        """What came of it, after `news` has ended; what it raised is raised here."""
        if self._error:
            raise self._error[0]
        return self._result[0]

    def _gather(self, every_s: float) -> tuple[list[N], bool]:
        fresh: list[N] = []
        item = self._news.get()
        end = time.monotonic() + every_s  # work that never pauses must not keep its reader waiting
        while item is not None:
            fresh.append(item[0])
            try:
                item = self._news.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return fresh, False
            if time.monotonic() >= end and item is not None:
                return [*fresh, item[0]], False
        return fresh, True

    def _work(self) -> None:
        try:
            self._result.append(self._call(self._report))
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error.append(error)
        finally:
            self._news.put(None)

    def _report(self, item: N) -> None:
        if self._flag.is_set():
            raise StoppedError
        self._news.put((item,))
