"""Time and memory on a device, measured so that nothing is still running when the clock is read."""

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_LONG_S = 0.5
"""A call that takes so long is warm after the first."""


class OutOfTimeError(Exception):
    """A section has used up its time."""


@dataclass(frozen=True)
class Part:
    """What a module takes of a call."""

    seconds: float
    peak_mb: float
    """Above what was there when it began."""


class Clock:
    """Measures on one device until a deadline.

    Args:
        device: Where the work runs.
        seconds: How long; afterwards nothing new is begun.
        repeats: How often a call is timed, at most.
        warm_ups: Calls before those that are timed, at most.
    """

    def __init__(
        self, device: torch.device, seconds: float, *, repeats: int = 10, warm_ups: int = 2
    ) -> None:
        self.device, self.repeats, self.warm_ups = device, repeats, warm_ups
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self._end - time.monotonic()

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def once(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds of one call, the device idle before and after, and what it gave.

        Raises:
            OutOfTimeError: The deadline has passed.
        """
        if self.left_s <= 0:
            raise OutOfTimeError("the time of this section is used up")
        self.wait()
        start = time.perf_counter()
        result = call()
        self.wait()
        return time.perf_counter() - start, result

    def median_s(self, call: Callable[[], Any], repeats: int | None = None) -> float:
        """Median seconds of a call after warm-up.

        A call that would not fit the time left as often is repeated less, once at least.

        Args:
            call: Does the same work each time.
            repeats: How often it is timed, where that is less than usual.
        """
        repeats = min(repeats or self.repeats, self.repeats)
        for _ in range(self.warm_ups):
            warm_s, _ = self.once(call)
            if warm_s > _LONG_S:
                break
        found = [self.once(call)[0]]
        while len(found) < repeats and self.left_s > found[-1]:
            found.append(self.once(call)[0])
        return statistics.median(found)

    def peak_mb(self, call: Callable[[], Any]) -> float:
        """Memory that a call needs above what was there before, at its peak.

        On a CPU nobody counts that: there it is what the whole process has held at its peak.
        """
        self.free()
        if self.device.type != "cuda":
            self.once(call)
            return host_peak_mb()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.once(call)
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20

    def parts(
        self, modules: Mapping[str, nn.Module], call: Callable[[], Any], repeats: int | None = None
    ) -> dict[str, Part]:
        """What modules take of a call that runs them, each without the others inside of it.

        Args:
            modules: By any name.
            call: Runs all of them; the device is idle where one begins or ends.
            repeats: As for `median_s`.
        """
        found: list[dict[str, Part]] = []

        def watched() -> None:
            watch = _Watch(self)
            with ExitStack() as stack:
                for name, module in modules.items():
                    watch.follow(name, module, stack)
                call()
            found.append({name: Part(watch.own_s[name], watch.peak_mb[name]) for name in modules})

        self.median_s(watched, repeats)
        counted = found[-min(repeats or self.repeats, self.repeats) :]
        return {
            name: Part(
                statistics.median(one[name].seconds for one in counted),
                max(one[name].peak_mb for one in counted),
            )
            for name in modules
        }

    def free(self) -> None:
        """Give back what of the device's memory nobody holds any more."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


class _Watch:
    """Own seconds and memory of modules during one call, by hooks.

    Args:
        clock: What waits for the device.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.own_s: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}
        self._open: list[str] = []
        self._since_s, self._base = 0.0, 0

    def follow(self, name: str, module: nn.Module, stack: ExitStack) -> None:
        """Watch a module until the stack is closed."""
        self.own_s[name], self.peak_mb[name] = 0.0, 0.0
        before = module.register_forward_pre_hook(lambda *_: self._enter(name))
        after = module.register_forward_hook(lambda *_: self._leave())
        stack.callback(before.remove)
        stack.callback(after.remove)

    def _enter(self, name: str) -> None:
        self._add()
        self._open.append(name)

    def _leave(self) -> None:
        self._add()
        self._open.pop()

    def _add(self) -> None:
        """Give the time since the last event to the module that was running."""
        self.clock.wait()
        now_s = time.perf_counter()
        on_gpu, device = self.clock.device.type == "cuda", self.clock.device
        if self._open:
            name = self._open[-1]
            self.own_s[name] += now_s - self._since_s
            peak = torch.cuda.max_memory_allocated(device) - self._base if on_gpu else 0
            extra_mb = peak / 2**20 if on_gpu else host_peak_mb()
            self.peak_mb[name] = max(self.peak_mb[name], extra_mb)
        if on_gpu:
            self._base = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
        self._since_s = time.perf_counter()


def host_peak_mb() -> float:
    """The most memory of the host that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
