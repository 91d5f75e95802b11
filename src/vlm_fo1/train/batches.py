"""Examples to batches of like length, read ahead by processes if wanted, resumable exactly."""

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vlm_fo1.data.check import BadRecord, Collate, fault
from vlm_fo1.errors import ConfigError, FO1Error, TrainingError, item_errors

_FILLER_SEARCH = 1000
_MOST_IN_A_ROW = 200  # bad records without a good one between, after which a run is given up


@runtime_checkable
class Source(Protocol):
    """Examples without end, or until they run out; its state is plain values (JSON)."""

    def __iter__(self) -> Iterator[Any]:
        """Go on from where the state says."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a state says."""
        ...


class BucketedBatches:
    """Batches of examples of about the same length, so that little is padding.

    ``pool_batches`` batches are read at once, sorted by length, cut, and given out in random order.
    The state is that of the source before the pool and how many of its batches are out: to resume,
    the pool is read again.

    Args:
        source: The examples.
        length: Tokens of an example.
        batch_size: Examples a batch, at most.
        pool_batches: Batches a pool.
        seed: Of the order.
        batch_tokens: Tokens a batch with padding, at most; 0 for no limit. A longer example is a
            batch of its own.
    """

    def __init__(
        self,
        source: Source,
        *,
        length: Callable[[Any], int],
        batch_size: int,
        pool_batches: int = 32,
        seed: int = 0,
        batch_tokens: int = 0,
    ) -> None:
        self.source = source
        self.length = length
        self.batch_size = batch_size
        self.pool_batches = pool_batches
        self.seed = seed
        self.batch_tokens = batch_tokens
        self._state: dict[str, Any] = {"source": None, "pool": 0, "taken": 0}

    def __iter__(self) -> Iterator[list[Any]]:
        """Give batches until the source runs out; the last may be short."""
        if self._state["source"] is not None:
            self.source.load_state_dict(self._state["source"])
        pool_number, taken = self._state["pool"], self._state["taken"]
        examples = iter(self.source)
        while True:
            before = copy.deepcopy(self.source.state_dict())
            pool = list(islice(examples, self.batch_size * self.pool_batches))
            if not pool:
                return
            batches = self._cut(pool, pool_number)
            while taken < len(batches):
                taken += 1
                self._state = {"source": before, "pool": pool_number, "taken": taken}
                yield batches[taken - 1]
            pool_number, taken = pool_number + 1, 0

    def _cut(self, pool: list[Any], number: int) -> list[list[Any]]:
        order = random.Random(f"{self.seed}/{number}")
        keyed = [
            (self.length(example), order.random(), index) for index, example in enumerate(pool)
        ]
        batches: list[list[Any]] = [[]]
        for tokens, _, index in sorted(keyed):  # shortest first: the last of a batch is its width
            wide = self.batch_tokens and (len(batches[-1]) + 1) * tokens > self.batch_tokens
            if batches[-1] and (wide or len(batches[-1]) == self.batch_size):
                batches.append([])
            batches[-1].append(pool[index])
        order.shuffle(batches)
        return batches

    def state_dict(self) -> dict[str, Any]:
        """Where the batches given out so far end."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batches that a state counts; takes effect with the next ``iter``."""
        self._state = dict(state)


@dataclass
class Batch:
    """A collated batch, and what goes with it."""

    inputs: dict[str, Any]
    examples: int
    targets: int
    """What the loss is a sum over: answer tokens where there are ``labels``, else examples."""
    tokens: int
    """Without padding; 0 without an ``attention_mask``."""
    padded_tokens: int
    """With padding."""
    bad: list[BadRecord]
    shard: int = 0
    state: dict[str, Any] = field(default_factory=dict[str, Any])


def collate_usable(
    examples: list[Any], collate: Collate, *, filler: Any = None, stop: bool = False
) -> tuple[Batch | None, list[BadRecord]]:
    """Collate a batch, leaving out examples that cannot be.

    Args:
        examples: The batch.
        collate: Makes tensors; raises on an example it cannot use.
        filler: An example added with no say in the loss, if the batch has no regions.
        stop: Raise instead of leaving out.

    Returns:
        The batch (None if nothing is left of it) and what was left out.

    Raises:
        TrainingError: With ``stop``, for a bad example, naming where it came from; or a batch fails
            of which each example is good.
    """
    bad: list[BadRecord] = []
    try:
        with item_errors("a batch"):
            return _make_batch(examples, collate, filler, bad), bad
    except FO1Error as error:
        reason = str(error)
    usable: list[Any] = []
    for example in examples:
        wrong = fault(example, collate)
        if wrong is None:
            usable.append(example)
        else:
            bad.append(wrong)
    if stop and bad:
        record = bad[0]
        raise TrainingError(
            f"{record}; mend or remove the record, or set data.on_bad_record: report"
        )
    if len(usable) == len(examples):
        raise TrainingError(
            f"a batch of {len(examples)} cannot be made though each of its records can: {reason}"
        )
    return (_make_batch(usable, collate, filler, bad) if usable else None), bad


def _make_batch(examples: list[Any], collate: Collate, filler: Any, bad: list[BadRecord]) -> Batch:
    needs = filler is not None and not any(map(has_regions, examples))
    inputs = collate([*examples, filler] if needs else examples)
    labels, mask = inputs.get("labels"), inputs.get("attention_mask")
    if needs and labels is not None:
        labels[-1] = -100
    return Batch(
        inputs=inputs,
        examples=len(examples),
        targets=len(examples) if labels is None else int((labels[:, 1:] != -100).sum()),
        tokens=0 if mask is None else int(mask.sum()),
        padded_tokens=0 if mask is None else mask.numel(),
        bad=bad,
    )


def has_regions(example: Any) -> bool:
    """Whether an example shows regions, so passes through the region encoder."""
    return len(getattr(example, "regions_xyxy", ())) > 0


@dataclass
class BatchSettings:
    """How `BatchLoader` cuts and reads."""

    batch_size: int
    pool_batches: int = 32
    seed: int = 0
    batch_tokens: int = 0
    workers: int = 0
    """Reading processes; 0 reads in the caller."""
    filler: bool = False
    """Keep an example with regions in every batch (its answer does not count)."""
    stop_on_bad: bool = False


class BatchLoader:
    """An endless stream of collated batches for one training process.

    With workers, each reads a shard of its own and the batches are taken in turn, so the order does
    not depend on their speed, and every batch brings the state its worker had after it.

    Args:
        make_source: Source of shard ``i`` of ``n``; shards are disjoint.
        collate: Examples to tensors.
        length: Tokens of an example.
        settings: Sizes.
        rank: Of this training process.
        world: How many training processes there are.
    """

    def __init__(
        self,
        make_source: Callable[[int, int], Source],
        collate: Collate,
        length: Callable[[Any], int],
        settings: BatchSettings,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shards = max(1, settings.workers)
        self._states: list[dict[str, Any] | None] = [None] * self.shards
        self._next = 0
        self._stream = _Stream(make_source, collate, length, settings, rank, world)
        self._workers = settings.workers
        self._batches: Iterator[Batch | TrainingError] | None = None

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            TrainingError: The source ran out, a worker died or met a bad record and should stop, or
                nothing but bad records comes.
        """
        if self._batches is None:
            self._stream.states, self._stream.first = self._states, self._next
            loader = DataLoader(
                self._stream,
                batch_size=None,
                num_workers=self._workers,
                generator=torch.Generator(),  # leaves the global one alone
            )
            self._batches = iter(loader)
        try:
            batch = next(self._batches)
        except StopIteration:
            raise TrainingError(
                "the examples ran out: training needs a source without end"
            ) from None
        except RuntimeError as error:  # such as a reading process that the system ended
            reason = str(error).split("\n", 1)[0]
            raise TrainingError(f"{reason}; if memory ran out, lower data.workers") from error
        if isinstance(batch, TrainingError):
            raise batch
        self._states[batch.shard] = batch.state
        self._next = (batch.shard + 1) % self.shards
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def state_dict(self) -> dict[str, Any]:
        """Where the batches taken so far end, read-ahead not counted."""
        return {"shards": list(self._states), "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batches that a state counts.

        Raises:
            ConfigError: It was saved with another number of workers.
        """
        if len(state["shards"]) != self.shards:
            raise ConfigError(
                f"the data state has {len(state['shards'])} shards, data.workers asks for "
                f"{self.shards}: resume with the same number of workers"
            )
        self._states, self._next, self._batches = list(state["shards"]), state["next"], None

    def close(self) -> None:
        """End the workers."""
        self._batches = None


class _Stream(IterableDataset[Batch | TrainingError]):
    """What runs inside a worker, or in the training process without workers."""

    def __init__(
        self,
        make_source: Callable[[int, int], Source],
        collate: Collate,
        length: Callable[[Any], int],
        settings: BatchSettings,
        rank: int,
        world: int,
    ) -> None:
        self.make_source, self.collate, self.length = make_source, collate, length
        self.settings, self.rank, self.world = settings, rank, world
        self.states: list[dict[str, Any] | None] = [None]
        self.first = 0

    def __iter__(self) -> Iterator[Batch | TrainingError]:
        """Batches, with what was left out on the way; at last why no more come, if so.

        An error is given rather than raised: one that leaves a worker by itself brings a traceback
        instead of a line.
        """
        try:
            yield from self._batches()
        except FO1Error as error:
            yield error if isinstance(error, TrainingError) else TrainingError(str(error))

    def _batches(self) -> Iterator[Batch]:
        """Batches, with what was left out on the way.

        Raises:
            TrainingError: Nothing but bad records comes, or a bad record should stop the run.
        """
        worker = get_worker_info()
        shards = worker.num_workers if worker else 1
        # The loader always begins with worker 0: give it the shard whose turn it is.
        shard = (self.first + (worker.id if worker else 0)) % shards
        settings = self.settings
        source = self.make_source(self.rank * shards + shard, self.world * shards)
        unread: list[str] = getattr(source, "problems", [])  # what a Mixture left out by itself
        reported = 0
        batches = BucketedBatches(
            source,
            length=self.length,
            batch_size=settings.batch_size,
            pool_batches=settings.pool_batches,
            seed=settings.seed,
            batch_tokens=settings.batch_tokens,
        )
        state = self.states[shard]
        if state is not None:
            batches.load_state_dict(state)
        filler = self._find_filler() if settings.filler else None
        pending: list[BadRecord] = []
        for examples in batches:
            batch, bad = collate_usable(
                examples, self.collate, filler=filler, stop=settings.stop_on_bad
            )
            pending += [BadRecord("", "", reason) for reason in unread[reported:]] + bad
            reported = len(unread)
            if batch is None:
                if len(pending) >= _MOST_IN_A_ROW:
                    raise TrainingError(
                        f"the last {len(pending)} records cannot be used, the newest because: "
                        f"{pending[-1].reason}; look with `fo1 data check CONFIG`"
                    )
                continue
            batch.bad, pending = pending, []
            batch.shard, batch.state = shard, batches.state_dict()
            yield batch

    def _find_filler(self) -> Any:
        """The first usable example with regions, the same one after a restart.

        Raises:
            TrainingError: There is none near the beginning.
        """
        for example in islice(self.make_source(self.rank, self.world), _FILLER_SEARCH):
            if has_regions(example) and collate_usable([example], self.collate)[0] is not None:
                return example
        raise TrainingError(
            f"none of the first {_FILLER_SEARCH} examples shows regions: FSDP needs one; "
            "use distributed.strategy: ddp for a stage without regions"
        )
