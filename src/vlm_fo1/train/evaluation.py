"""What a stage is judged by: answers to held-out questions, the best of them, and patience."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from vlm_fo1.data.check import BadRecord
from vlm_fo1.errors import TrainingError
from vlm_fo1.jsonl import writing
from vlm_fo1.train import checkpoint
from vlm_fo1.train.answers import Record, ask, draw_answers, draw_records
from vlm_fo1.train.components import RunComponents
from vlm_fo1.train.config import EvaluationConfig, StageConfig, TrainConfig
from vlm_fo1.train.distributed import inner, total, unsharded
from vlm_fo1.train.figures import figures_of, flat, from_flat, summary
from vlm_fo1.train.standing import Standing

logger = logging.getLogger(__name__)

ANSWERS_FOLDER, BEST_FOLDER = "answers", "best"


class Evaluation:
    """The held-out questions of a stage, a share on each process, and how its evaluations went.

    Args:
        config: The run.
        stage: The stage.
        components: What the run is put together from.
        accelerator: Of the stage.
    """

    def __init__(
        self,
        config: TrainConfig,
        stage: StageConfig,
        components: RunComponents,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.stage, self.components = config, stage, components
        self.accelerator = accelerator
        self.standing = Standing()
        self.figures: dict[str, float] = {}
        """Of the newest evaluation in this run."""
        self._records: list[Record] | None = None

    @property
    def asks(self) -> bool:
        """Whether questions are answered."""
        settings = self.config.evaluation
        return settings is not None and settings.answers > 0 and self._processor is not None

    @property
    def over(self) -> bool:
        """Whether the stage ends because its evaluations do not get better any more."""
        settings = self.config.evaluation
        return settings is not None and 0 < settings.patience <= self.standing.since

    @property
    def best(self) -> str:
        """The best value of the stage and where it was measured, in words; empty if none is."""
        settings, standing = self.config.evaluation, self.standing
        if settings is None or standing.best is None:
            return ""
        where = "before training"
        if standing.best_step:
            where = f"at step {standing.best_step}: {self.config.output.folder / BEST_FOLDER}"
        return f"the best {settings.best}, {standing.best:.4f}, was {where}"

    def take(self, figures: Mapping[str, float], step: int) -> bool:
        """Take all figures of an evaluation, and say what follows from them.

        Args:
            figures: The same on every process.
            step: Optimiser steps of the stage done.

        Returns:
            Whether these are the best weights that training has made in this stage so far.

        Raises:
            ConfigError: The figure that decides was not measured.
        """
        stage, settings, standing = self.stage, self.config.evaluation, self.standing
        self.figures = dict(figures)
        if settings is None:
            return False
        better = standing.take(settings, step, figures)
        if self.asks:
            said = (stage.name, step, figures["loss"], summary(figures))
            logger.info("stage %s, step %d: held-out loss %.3f, %s", *said)
        if warning := standing.stalled():
            logger.warning("stage %s: %s", stage.name, warning)
        if self.over:
            said = (stage.name, step, settings.best, standing.since, self.best)
            logger.warning("stage %s ends at step %d: no better %s in %d evaluations; %s", *said)
        return better and step > 0  # before the first step they are what the stage starts from

    @property
    def _processor(self) -> Any:
        """Of the network; None for one that answers no questions."""
        return self.components.processor

    def answered(self, model: nn.Module, step: int) -> tuple[dict[str, float], list[BadRecord]]:
        """What the answers are worth now; every process must call.

        Args:
            model: As it trains, wrapped; in evaluation mode.
            step: Names the image.

        Returns:
            Figures of all processes, and records that could not be asked about on this one.

        Raises:
            TrainingError: A record cannot be asked about, with ``on_bad_record: stop``; or none.
        """
        settings = self.config.evaluation
        if settings is None or not self.asks:
            return {}, []
        figures: dict[str, float] = {}
        bad: list[BadRecord] = []
        records, counts_here = self._share(settings)
        for shuffled in (False, True) if settings.shuffled else (False,):
            drawn = 0 if shuffled or not self.accelerator.is_main_process else settings.drawn
            with unsharded(model), self.accelerator.autocast():
                outcome = ask(
                    records, inner(model), self._processor, shuffled=shuffled, drawn=drawn
                )
            if outcome.bad and self.config.data.on_bad_record == "stop":
                raise TrainingError(
                    f"{outcome.bad[0]}; mend or remove the record, or set "
                    "data.on_bad_record: report"
                )
            bad += outcome.bad
            own = flat(outcome.counts if counts_here else {})
            counts = from_flat(total(self.accelerator, *own))
            before = "shuffled." if shuffled else ""
            figures |= {before + name: value for name, value in figures_of(counts).items()}
            if outcome.drawn:
                self._draw(outcome.drawn, step)
        return figures, list(dict.fromkeys(bad))

    def _share(self, settings: EvaluationConfig) -> tuple[list[Record], bool]:
        """What this process asks, and whether it counts.

        One that has no share asks what another asks: under FSDP all have to call the network.
        """
        if self._records is None:
            source = self.components.make_source(settings.mixture, 0, 1)
            self._records = draw_records(source, settings.answers)
            questions = sum(len(record.asked) for record in self._records)
            logger.log(
                logging.INFO if questions else logging.WARNING,
                "%d questions of %d held-out records are answered at each evaluation",
                questions, settings.answers,
            )  # fmt: skip
        mine = self._records[self.accelerator.process_index :: self.accelerator.num_processes]
        return mine or self._records[:1], bool(mine)

    def _draw(self, drawn: Any, step: int) -> None:
        path = self.config.output.folder / ANSWERS_FOLDER / f"{self.stage.name}-step-{step}.png"
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            draw_answers(drawn).save(path)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; modes and random numbers are as before after it."""
    before = checkpoint.random_state()
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
        checkpoint.set_random_state(*before)


def agreed(accelerator: Accelerator, figures: dict[str, float]) -> dict[str, float]:
    """The figures of the main process, on every process: what is decided by them is the same."""
    if accelerator.num_processes == 1:
        return figures
    (agreed_on,) = broadcast_object_list([figures])
    return agreed_on
