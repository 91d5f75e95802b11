"""Many questions about many images: prepared in threads while the model answers, told in order.

Items stand in a window of bounded length. Threads open those behind, read, propose and preprocess;
the model answers a batch of those that are ready, images of one size first; the front of the window
leaves as soon as it is answered. Items are drawn, and the model runs, in the thread of the caller.
"""

import logging
import reprlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_fo1.answer import Answer
from vlm_fo1.engine import Generation, LocalEngine, Prompt
from vlm_fo1.errors import FO1Error, PromptError, item_errors
from vlm_fo1.images import Frame, read_framed
from vlm_fo1.plan import Plan
from vlm_fo1.scene import Part, Scene, encode_parts
from vlm_fo1.tasks import BATCH_SIZE, Request

logger = logging.getLogger(__name__)

THREADS = 4
"""Most items that are prepared at the same time."""
THREAD_NAME = "fo1-prepare"
READY = 2
"""Batches of items that a batch is chosen from: the oldest, and others of its size."""
AHEAD = 3
"""Batches of items that are drawn and have no answer yet."""
WINDOW = 5
"""Batches of items that are drawn and not yet handed on; the rest have answers and wait for an
earlier one."""
PREPROCESSED_BYTES = 2**31
"""About how much of what the towers take is made ahead; the rest is when it is used."""
PATIENCE_S = 1.0
"""If nothing new is ready for so long, a batch goes without what is slow."""


Asking = tuple[Any, Request] | tuple[Any, Request, Any]
"""An image and what is asked of it, and perhaps boxes."""

Read = tuple[Image.Image, Frame] | None
"""An image that is read, or is still to be."""

Planned = Callable[[Any, Request, Any, Read], tuple[Scene, Plan]]
"""Opens an image with its request, boxes (or None), and what was read of it."""


def check_batch_size(batch_size: Any) -> None:
    """Refuse what no batch can have.

    Raises:
        PromptError: No whole number from 1.
    """
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if not whole or batch_size < 1:
        raise PromptError(
            f"batch_size is {batch_size!r}, at least 1 is needed: how many images are asked about "
            "side by side"
        )


def answer_items(
    items: Iterable[Asking | Callable[[], Asking]],
    planned: Planned,
    engine: LocalEngine,
    *,
    batch_size: int = BATCH_SIZE,
    images: Sequence[Image.Image] = (),
    on_step: Callable[[], None] | None = None,
) -> Generator[Answer | FO1Error]:
    """Answer items; memory is bounded by `batch_size`, not by how many there are.

    Args:
        items: See `FO1.answer_many`.
        planned: Called in threads; what it raises takes the place of the answer.
        engine: Of the scenes; runs their prompts.
        batch_size: How many are answered at once, as long as memory suffices.
        images: Further images of every prompt.
        on_step: See `FO1.answer_many`.

    Yields:
        An answer an item, or its error, in order.

    Raises:
        Exception: What the iterator of items raised, after the answers to those before; what
            ``on_step`` raised, at once.
    """
    threads = ThreadPoolExecutor(min(THREADS, batch_size), THREAD_NAME)
    drawn = _Drawn(enumerate(items), planned, batch_size, threads)
    run = _Run(engine, batch_size, images, on_step)
    window: deque[_Place] = deque()
    try:
        while drawn.fill(window):
            run.answer_some(window)
            while window and (answer := window[0].answer) is not None:
                window.popleft()
                if isinstance(answer, FO1Error):
                    _let_go(answer)
                yield answer
        if drawn.error is not None:
            raise drawn.error
    except _HookError as error:
        raise error.raised from None
    finally:
        window.clear()
        threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Opened:
    name: str
    scene: Scene
    plan: Plan
    parts: list[Part]


@dataclass(eq=False)
class _Place:
    """An item in the window: to be prepared, then ready, then answered."""

    future: "Future[_Opened | FO1Error] | None"
    """None once there is an answer."""
    answer: Answer | FO1Error | None = None

    @property
    def ready(self) -> _Opened | None:
        """What may go into a batch; an error takes the place of the answer here."""
        if self.future is None or not self.future.done():
            return None
        opened = self.future.result()
        if isinstance(opened, FO1Error):
            self.settle(opened)
            return None
        return opened

    def settle(self, answer: Answer | FO1Error) -> None:
        """Take the answer, and let go of what it was made from."""
        self.answer, self.future = answer, None


@dataclass
class _Drawn:
    """Draws items of the caller's iterator and has them prepared."""

    items: Iterator[tuple[int, Any]] | None
    planned: Planned
    batch_size: int
    threads: ThreadPoolExecutor
    error: Exception | None = None
    """What ended the iterator."""

    def fill(self, window: deque[_Place]) -> bool:
        """Draw as many items as there is room for; whether the window holds any."""
        waiting = sum(place.answer is None for place in window)
        while (
            self.items
            and waiting < AHEAD * self.batch_size
            and len(window) < WINDOW * self.batch_size
        ):
            try:
                number, item = next(self.items)
            except StopIteration:
                self.items = None
            except Exception as error:  # noqa: BLE001 - the caller's own, handed on at the end
                self.items, self.error = None, error
            else:
                window.append(self._place(f"item {number}", item))
                waiting += 1
        return bool(window)

    def _place(self, name: str, item: Any) -> _Place:
        """An item that goes to the threads; what may change once more is drawn is read now."""
        read = None
        if isinstance(item, tuple | list) and item:
            image = item[0]
            if isinstance(image, str | Path):
                name = name if str(image).startswith("data:") else str(image) or name
            elif not isinstance(image, bytes):
                try:
                    with item_errors(name):
                        read = read_framed(image)
                except FO1Error as error:
                    return _Place(None, error)
            item = [*item[:2], *(one.copy() if _is_array(one) else one for one in item[2:])]
        return _Place(self.threads.submit(self._prepared, name, item, read))

    def _prepared(self, name: str, item: Any, read: Read) -> _Opened | FO1Error:
        """What is done in threads: all that needs no language model."""
        most_bytes = PREPROCESSED_BYTES // (AHEAD * self.batch_size)
        try:
            with item_errors(name):
                scene, plan = self.planned(*_whole(item() if callable(item) else item), read)
                parts: list[Part] = []
                for part in scene.preprocess(plan):
                    parts.append(part)
                    if sum(one.bytes for one in parts) > most_bytes:
                        break
                return _Opened(name, scene, plan, parts)
        except FO1Error as error:
            return error


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | list)


def _whole(item: Any) -> tuple[Any, Request, Any]:
    """Image, request and boxes.

    Raises:
        PromptError: The item is something else.
    """
    if not isinstance(item, tuple | list) or not 2 <= len(item) <= 3:
        raise PromptError(
            f"an item is {reprlib.repr(item)}: (image, request) or (image, request, boxes) is "
            "needed, or a function that gives them"
        )
    image, request, boxes = (*item, None)[:3]
    if not isinstance(request, Request):
        raise PromptError(f"what is asked is {reprlib.repr(request)}: a Request is needed")
    return image, request, boxes


@dataclass
class _Run:
    """Answers batch after batch."""

    engine: LocalEngine
    size: int
    """Most items of a batch; less after memory has run out."""
    images: Sequence[Image.Image]
    on_step: Callable[[], None] | None

    def answer_some(self, window: Sequence[_Place]) -> None:
        """Answer a batch of what is ready, unless the front of the window may leave already."""
        ready = self._wait(window)
        by_size: dict[tuple[int, int], list[tuple[_Place, _Opened]]] = {}
        for place, opened in ready:
            by_size.setdefault(opened.scene.image.size, []).append((place, opened))
        batch = [pair for some in by_size.values() for pair in some][: self.size]
        answers = self._answers([opened for _, opened in batch])
        for (place, opened), answer in zip(batch, answers, strict=True):
            place.settle(answer)
            opened.scene.close()

    def _wait(self, window: Sequence[_Place]) -> list[tuple[_Place, _Opened]]:
        """What is ready, the oldest first: enough to choose from, or all without the slow."""
        while True:
            found = [(place, place.ready) for place in window]
            ready = [(place, opened) for place, opened in found if opened is not None]
            pending = {
                place.future
                for place in window
                if place.future is not None and not place.future.done()
            }
            if window[0].answer is not None or not pending or len(ready) >= READY * self.size:
                return ready
            news, _ = wait(pending, PATIENCE_S, FIRST_COMPLETED)
            if ready and not news:
                return ready
            self._step()

    def _answers(self, batch: Sequence[_Opened]) -> list[Answer | FO1Error]:
        """An answer or an error for each; a batch that cannot be run is run in halves."""
        if not batch:
            return []
        name = batch[0].name if len(batch) == 1 else f"a batch of {len(batch)}"
        try:
            with item_errors(name):
                return list(self._together(batch))
        except FO1Error as error:
            _let_go(error)
            if len(batch) == 1:
                return [error]
            half = len(batch) // 2
            if _is_of_memory(error.__cause__):
                self.size = half
                logger.warning("%s: going on with batches of %d", error, half)
        self.engine.free()
        return [*self._answers(batch[:half]), *self._answers(batch[half:])]

    def _together(self, batch: Sequence[_Opened]) -> Iterator[Answer]:
        encode_parts(part for one in batch for part in one.parts)
        groups = [one.scene.prompts(one.plan, self.images) for one in batch]
        start = time.perf_counter()
        done = self._generated(groups)
        whole = [
            one.scene.branches(one.plan, own, self.images)
            for one, own in zip(batch, done, strict=True)
        ]
        more = self._generated([prompts for _, prompts in whole])
        seconds = time.perf_counter() - start
        for one, (plan, _), own, rest in zip(batch, whole, done, more, strict=True):
            yield one.scene.read(plan, [*own, *rest], seconds)

    def _generated(self, groups: Sequence[Sequence[Prompt]]) -> list[list[Generation]]:
        """What the model writes for several groups of prompts, all side by side."""
        on_id = None if self.on_step is None else lambda *_: self._step()
        prompts = [prompt for group in groups for prompt in group]
        done = iter(self.engine.generate(prompts, on_id=on_id) if prompts else ())
        return [list(islice(done, len(group))) for group in groups]

    def _step(self) -> None:
        if self.on_step is not None:
            try:
                self.on_step()
            except Exception as error:
                raise _HookError(error) from error


class _HookError(BaseException):
    """Carries what a hook of the caller raised past all that takes errors for those of an item."""

    def __init__(self, raised: Exception) -> None:
        super().__init__()
        self.raised = raised


def _is_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out; on a CPU torch says so in words only."""
    said = str(error)
    return isinstance(error, MemoryError) or "out of memory" in said or "t allocate memory" in said


def _let_go(error: BaseException) -> None:
    """Keep an error without its tracebacks, whose frames hold images and tensors."""
    error.__traceback__ = None
    for earlier in (error.__cause__, error.__context__):
        if earlier is not None and earlier.__traceback__ is not None:
            _let_go(earlier)
