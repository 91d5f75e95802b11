"""SIGTERM and SIGINT as a request to save and end, instead of a death between two writes."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """Whether somebody asked the run to end."""

    signal_number: int | None = None
    """The signal that asked; None if none did."""


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note the first SIGTERM or SIGINT; a second one acts as it would have without us."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        stop.signal_number = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
