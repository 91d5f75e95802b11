"""The training run, read from top to bottom: stages, steps, micro-batches."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.optim import Optimizer

from vlm_fo1.config import dump, plain
from vlm_fo1.data.check import BadRecord
from vlm_fo1.errors import CheckpointError, TrainingError
from vlm_fo1.jsonl import writing
from vlm_fo1.train import checkpoint
from vlm_fo1.train.batches import Batch, BatchLoader, BatchSettings
from vlm_fo1.train.claim import checkpoints_of, claim, is_finished
from vlm_fo1.train.components import RunComponents, StepReport, TrainResult
from vlm_fo1.train.config import EvaluationConfig, StageConfig, TrainConfig
from vlm_fo1.train.distributed import gradients_summed, inner, start, total, wrap
from vlm_fo1.train.evaluation import BEST_FOLDER, Evaluation, agreed, undisturbed
from vlm_fo1.train.export import CONFIG_FILE, export
from vlm_fo1.train.loss import clip, to_device
from vlm_fo1.train.meters import Meters
from vlm_fo1.train.metrics import MetricsLogger
from vlm_fo1.train.schedule import lr_multiplier
from vlm_fo1.train.stages import StagePlan, apply_stage, check_optimizers
from vlm_fo1.train.stop import Stop, stop_on_signals

logger = logging.getLogger(__name__)

PADDING_LIMIT = 0.15
"""Share of padding above which the log warns."""


def train(
    config: TrainConfig,
    components: RunComponents,
    *,
    resume: bool = True,
    allow_changes: bool = False,
    watch: Callable[[StepReport], None] | None = None,
) -> TrainResult:
    """Run all stages, going on where an earlier run in the same folder ended.

    Args:
        config: The run.
        components: What it is put together from.
        resume: Go on from the newest checkpoint; without it the folder must hold no run.
        allow_changes: Resume although the configuration or the data changed.
        watch: Called after every step on the main process.

    Returns:
        How it ended: complete, or saved on SIGTERM or SIGINT.

    Raises:
        CheckpointError: The folder holds a run that this one cannot go on from.
        ConfigError: A pattern of a stage matches nothing, an optimiser lacks what trains, or
            another process trains in the folder.
        OutputError: The disk refuses what is written; finished checkpoints stay.
        TrainingError: The loss is not a number, or the data ran out or is bad.
    """
    out = config.output.folder
    bad_records: set[BadRecord] = set()
    folder = None
    with stop_on_signals() as stop, claim(config, resume=resume, allow_changes=allow_changes):
        done = [is_finished(config, number) for number in range(len(config.stages))]
        if all(done):
            logger.warning(
                "every stage of %s is finished: nothing is trained; for more steps, pass "
                "--allow-changes --set stages.%d.steps=...", out, len(config.stages) - 1,
            )  # fmt: skip
        for stage, is_done in zip(config.stages, done, strict=True):
            if is_done:
                folder = out / stage.name
                continue
            run = StageRun(config, stage, components, stop, watch, folder)
            try:
                run.prepare(allow_changes=allow_changes)
                finished = run.steps()
                bad_records |= run.bad_records
                if not finished:
                    return TrainResult(None, run.stopped_by, len(bad_records))
                folder = run.finish()
            finally:
                run.close()
    return TrainResult(folder, None, len(bad_records))


class StageRun:
    """One stage on one process.

    Args:
        config: The run.
        stage: The stage.
        components: What the run is put together from.
        stop: Set by a signal.
        watch: Called after every step on the main process.
        start_from: Weights of the stage before; None for ``config.model``.
    """

    def __init__(
        self,
        config: TrainConfig,
        stage: StageConfig,
        components: RunComponents,
        stop: Stop,
        watch: Callable[[StepReport], None] | None,
        start_from: Path | None,
    ) -> None:
        self.config, self.stage, self.components = config, stage, components
        self.stop, self.watch, self.start_from = stop, watch, start_from
        self.objective = components.objective(stage)
        self.accelerator: Accelerator = start(config, stage)
        self.logs = MetricsLogger(
            config.output.folder,
            main=self.accelerator.is_main_process,
            tensorboard=config.output.tensorboard,
        )
        self.step = 0
        self.bad_records: set[BadRecord] = set()
        self.model: Any = None
        self.optimizers: Sequence[Optimizer] = ()
        self.loader = self._load_batches(stage.mixture)
        self.meters = Meters(self.accelerator.device)
        self.evaluation = Evaluation(config, stage, components, self.accelerator)
        self.stopped_by: int | None = None
        self.tokens, self.padded_tokens, self.warned_of_padding = 0.0, 0.0, False

    def prepare(self, *, allow_changes: bool) -> None:
        """Load, freeze, wrap, and go to where the newest checkpoint stood.

        Args:
            allow_changes: Resume although the data changed.

        Raises:
            CheckpointError: The newest checkpoint does not fit.
            ConfigError: A parameter that trains is not in exactly one optimiser.
        """
        accelerator, stage, config = self.accelerator, self.stage, self.config
        set_seed(config.seed)
        model = self.components.load_model(self.start_from)
        self.objective.begin(model)
        self.plan: StagePlan = apply_stage(
            model, stage, self.components.new_token_ids, self.components.new_word_ids
        )
        for rule, count in self.plan.counts.items():
            logger.info("stage %s: %s trains %s numbers", stage.name, rule, f"{count:,}")
        if stage.gradient_checkpointing:
            # The newer name came with transformers 5.24.
            old = model.gradient_checkpointing_enable
            getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})
        self.model = wrap(model, config, accelerator)
        self.optimizers = self.components.optimizers(inner(self.model), stage, self.plan)
        check_optimizers(self.optimizers, inner(self.model), self.plan)
        for group in self._groups():
            group["peak_lr"] = group["lr"]
        set_seed(config.seed + accelerator.process_index)
        self.fingerprints = plain(dict(self.components.fingerprint(stage.mixture)))
        self.checkpoints = checkpoints_of(config, stage)
        found = checkpoint.list_checkpoints(self.checkpoints)
        if found:
            self._restore(found[-1], allow_changes=allow_changes)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            path = config.output.folder / CONFIG_FILE
            with writing(path):
                path.write_text(dump(config), encoding="utf-8")
        self.logs.begin(stage.name, self.step if found else -1)
        self.meters.started_s = time.perf_counter()

    def _groups(self) -> Iterator[dict[str, Any]]:
        """Parameter groups of all optimisers."""
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def _load_batches(self, mixture: Mapping[str, Any], *, held_out: bool = False) -> BatchLoader:
        config, accelerator = self.config, self.accelerator
        return BatchLoader(
            lambda shard, shards: self.components.make_source(mixture, shard, shards),
            self.objective.collate,
            self.objective.length,
            BatchSettings(
                batch_size=self.stage.batch_size,
                pool_batches=config.data.pool_batches,
                seed=config.seed,
                batch_tokens=self.stage.batch_tokens,
                workers=0 if held_out else config.data.workers,
                filler=config.distributed.strategy == "fsdp",
                stop_on_bad=config.data.on_bad_record == "stop",
            ),
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )

    def _restore(self, path: Path, *, allow_changes: bool) -> None:
        accelerator = self.accelerator
        saved = checkpoint.read_run_state(path)
        if saved.world != accelerator.num_processes:
            raise CheckpointError(
                f"{path} was saved by {saved.world} processes, now there are "
                f"{accelerator.num_processes}: resume with the same number"
            )
        checkpoint.check_same_data(saved, self.fingerprints, allow_changes=allow_changes)
        rank = accelerator.process_index
        kept = checkpoint.restore(path, inner(self.model), self.plan.names, self.optimizers, rank)
        self.step = saved.step
        self.loader.load_state_dict(kept.data)
        self.meters.load_state_dict(kept.meters)
        self.evaluation.standing = saved.standing
        checkpoint.restore_random(path, rank)
        logger.info("resumed stage %s at step %d from %s", self.stage.name, self.step, path)

    def steps(self) -> bool:
        """Train to the end of the stage.

        Returns:
            False if a signal ended it early; everything is saved then.

        Raises:
            TrainingError: The loss is not a number, or the data ran out or is bad.
        """
        stage = self.stage
        if self.step == 0 and self.evaluation.asks:
            self._evaluate()
        while self.step < stage.steps and not self.evaluation.over:
            grad_norm = self._one_step()
            self.step += 1
            last = self.step == stage.steps
            metrics = None
            if last or self.step % self.config.output.log_every == 0:
                metrics = self._log(grad_norm)
            if last or (stage.eval_every and self.step % stage.eval_every == 0):
                self._evaluate()
            if self.watch is not None and self.accelerator.is_main_process:
                self.watch(
                    StepReport(
                        stage=stage.name, step=self.step, steps=stage.steps, metrics=metrics,
                        evaluation=self.evaluation.figures or None,
                    )
                )  # fmt: skip
            stopping, early = self._asked_to_stop(), self.evaluation.over
            if stopping or early or (stage.save_every and self.step % stage.save_every == 0):
                self._save()
            if stopping and not (last or early):
                return False
        return True

    def _one_step(self) -> float:
        """One optimiser step.

        Returns:
            The norm of the gradient before clipping.

        Raises:
            TrainingError: It is not a finite number.
        """
        stage, accelerator = self.stage, self.accelerator
        batches = [self._next(self.loader, self.meters) for _ in range(stage.accumulation)]
        targets = sum(batch.targets for batch in batches)
        # Averaged by the processes, summed by us: every target weighs the same.
        share = accelerator.num_processes / max(1.0, total(accelerator, targets)[0])
        for group in self._groups():
            group["lr"] = group["peak_lr"] * lr_multiplier(stage, self.step)
        for number, batch in enumerate(batches, 1):
            with gradients_summed(self.model, on=number == len(batches)):
                accelerator.backward(self._loss(batch, self.meters) * share)
        parameters = dict(inner(self.model).named_parameters())
        for mask in self.plan.row_masks:
            mask.apply(parameters[mask.name])
        norm = clip([parameters[name] for name in self.plan.names], stage.clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient is {norm.item()} at step {self.step + 1} of stage {stage.name!r}: "
                "lower its learning rates, warm up longer, or use precision: fp32; the newest "
                f"checkpoint is in {self.checkpoints}"
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def _next(self, loader: BatchLoader, meters: Meters) -> Batch:
        """The next batch, counted, with what was left out of it listed."""
        batch = next(loader)
        self._list(batch.bad)
        meters.count(batch)
        return batch

    def _list(self, bad: Sequence[BadRecord]) -> None:
        """List records that were left out."""
        self.logs.bad(bad)
        self.bad_records.update(bad)

    def _loss(self, batch: Batch, meters: Meters) -> Tensor:
        """The loss of a batch, summed over its targets; it and its figures are metered."""
        inputs = to_device(batch.inputs, self.accelerator.device)
        with self.accelerator.autocast():
            found = self.objective.loss(self.model, inputs)
        loss, figures = (found, {}) if isinstance(found, Tensor) else found
        meters.add(loss=loss, **figures)
        return loss

    def _log(self, grad_norm: float) -> dict[str, float]:
        """Write a line about the steps since the last one; every process must call."""
        seconds = time.perf_counter() - self.meters.started_s
        figures, counts = self.meters.totals(self.accelerator)
        self.meters = Meters(self.accelerator.device)
        metrics = {
            **figures,
            "lr_multiplier": lr_multiplier(self.stage, self.step - 1),
            "grad_norm": grad_norm,
            "examples": counts["examples"],
            "targets": counts["targets"],
            "samples_per_s": counts["examples"] / seconds,
        }
        if counts["padded_tokens"]:
            metrics["padding"] = 1 - counts["tokens"] / counts["padded_tokens"]
            metrics["tokens_per_s"] = counts["tokens"] / seconds
            self._watch_padding(counts["tokens"], counts["padded_tokens"])
        self.logs.write(self.stage.name, self.step, "train", metrics)
        return metrics

    def _watch_padding(self, tokens: float, padded_tokens: float) -> None:
        """Warn once when much of what the network reads is padding, a pool of batches seen."""
        self.tokens += tokens
        self.padded_tokens += padded_tokens
        share = 1 - self.tokens / self.padded_tokens
        seen = self.step * self.stage.accumulation >= self.config.data.pool_batches
        if seen and share > PADDING_LIMIT and not self.warned_of_padding:
            self.warned_of_padding = True
            logger.warning(
                "%.0f %% of the tokens so far are padding: raise data.pool_batches, or set "
                "batch_tokens",
                100 * share,
            )

    def _evaluate(self) -> None:
        """Held-out figures; leaves random numbers and the clock as they were."""
        began_s = time.perf_counter()
        model, figures = inner(self.model), dict[str, float]()
        with undisturbed(model):
            if self.config.evaluation is not None:
                figures |= self._held_out(self.config.evaluation)
            answered, bad = self.evaluation.answered(self.model, self.step)
            self._list(bad)
            figures |= answered
            if self.components.evaluate is not None:
                figures |= self.components.evaluate(model, self.stage, self.step)
        if figures:
            figures = agreed(self.accelerator, figures)
            self.logs.write(self.stage.name, self.step, "eval", figures)
            if self.evaluation.take(figures, self.step):
                self._export(BEST_FOLDER)
        self.meters.started_s += time.perf_counter() - began_s

    def _held_out(self, settings: EvaluationConfig) -> dict[str, float]:
        """The loss, and figures beside it, on held-out examples."""
        loader = self._load_batches(settings.mixture, held_out=True)
        meters = Meters(self.accelerator.device)
        for _ in range(settings.batches):
            self._loss(self._next(loader, meters), meters)
        return meters.totals(self.accelerator)[0]

    def _asked_to_stop(self) -> bool:
        """Whether any process got a signal; all agree."""
        asked = total(self.accelerator, float(self.stop.signal_number is not None))[0] > 0
        if asked:
            self.stopped_by = self.stop.signal_number or 15
        return asked

    def _save(self) -> None:
        began_s = time.perf_counter()
        checkpoint.save(
            self.checkpoints,
            checkpoint.RunState(
                stage=self.stage.name,
                step=self.step,
                config=plain(self.config),
                fingerprints=self.fingerprints,
                world=self.accelerator.num_processes,
                standing=self.evaluation.standing,
            ),
            checkpoint.RankState(data=self.loader.state_dict(), meters=self.meters.state_dict()),
            inner(self.model),
            self.plan.names,
            self.optimizers,
            self.accelerator,
            keep=self.config.output.keep_checkpoints,
        )
        self.meters.started_s += time.perf_counter() - began_s

    def finish(self) -> Path:
        """Write the weights of the stage."""
        if self.evaluation.best:
            logger.info("stage %s: %s", self.stage.name, self.evaluation.best)
        return self._export(self.stage.name)

    def _export(self, name: str) -> Path:
        """Write weights as they are now into a folder of the run; every process must call."""
        facts = {
            "steps": self.step,
            "figures": self.evaluation.figures,
            "processes": self.accelerator.num_processes,
            "data": self.fingerprints,
            "started_from": str(self.start_from or self.config.model.path),
        }
        return export(
            inner(self.model), self.config, self.stage, self.accelerator, facts,
            self.components.save_model, self.components.plain_state, name,
        )  # fmt: skip

    def close(self) -> None:
        """End workers and logs, free the network."""
        self.loader.close()
        self.logs.close()
        if self.accelerator.device.type != "cpu":
            self.accelerator.free_memory()
        self.model, self.optimizers = None, ()
