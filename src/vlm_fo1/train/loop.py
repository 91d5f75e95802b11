"""The training run, read from top to bottom: stages, steps, micro-batches."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from vlm_fo1.config import dump, plain
from vlm_fo1.errors import CheckpointError, TrainingError
from vlm_fo1.jsonl import writing
from vlm_fo1.train import checkpoint
from vlm_fo1.train.batches import Fed, Feed, FeedSettings
from vlm_fo1.train.claim import checkpoints_of, claim, is_finished
from vlm_fo1.train.config import StageConfig, TrainConfig
from vlm_fo1.train.distributed import gradients_summed, inner, start, total, wrap
from vlm_fo1.train.export import CONFIG_FILE, export
from vlm_fo1.train.loss import answer_loss, clip, to_device
from vlm_fo1.train.metrics import MetricsLogger
from vlm_fo1.train.parts import Meters, Outcome, Parts, StepReport, do_nothing
from vlm_fo1.train.stages import StagePlan, apply_stage, learning_rate_share
from vlm_fo1.train.stop import Stop, stop_on_signals

logger = logging.getLogger(__name__)

PADDING_LIMIT = 0.15
"""Share of padding above which the log warns."""


def train(
    config: TrainConfig,
    parts: Parts,
    *,
    resume: bool = True,
    allow_changes: bool = False,
    watch: Callable[[StepReport], None] = do_nothing,
) -> Outcome:
    """Run all stages, going on where an earlier run in the same folder ended.

    Args:
        config: The run.
        parts: What it is put together from.
        resume: Go on from the newest checkpoint; without it the folder must hold no run.
        allow_changes: Resume although the configuration or the data changed.
        watch: Called after every step on the main process.

    Returns:
        How it ended: complete, or saved on SIGTERM or SIGINT.

    Raises:
        CheckpointError: The folder holds a run that this one cannot go on from.
        ConfigError: A pattern of a stage matches nothing, or another process trains in the folder.
        OutputError: The disk refuses what is written; finished checkpoints stay.
        TrainingError: The loss is not a number, or the data ran out or is bad.
    """
    out = config.output.folder
    bad_records, folder = 0, None
    with stop_on_signals() as stop, claim(config, resume=resume, allow_changes=allow_changes):
        finished = [is_finished(config, number) for number in range(len(config.stages))]
        if all(finished):
            logger.warning(
                "every stage of %s is finished: nothing is trained; for more steps, pass "
                "--allow-changes --set stages.%d.steps=...", out, len(config.stages) - 1,
            )  # fmt: skip
        for stage, done in zip(config.stages, finished, strict=True):
            if done:
                folder = out / stage.name
                continue
            run = StageRun(config, stage, parts, stop, watch, folder)
            try:
                run.prepare(allow_changes=allow_changes)
                finished = run.steps()
                bad_records += run.bad_records
                if not finished:
                    return Outcome(folder=None, stopped_by=run.stopped_by, bad_records=bad_records)
                folder = run.finish()
            finally:
                run.close()
    return Outcome(folder=folder, stopped_by=None, bad_records=bad_records)


class StageRun:
    """One stage on one process.

    Args:
        config: The run.
        stage: The stage.
        parts: What the run is put together from.
        stop: Set by a signal.
        watch: Called after every step on the main process.
        start_from: Weights of the stage before; None for ``config.model``.
    """

    def __init__(
        self,
        config: TrainConfig,
        stage: StageConfig,
        parts: Parts,
        stop: Stop,
        watch: Callable[[StepReport], None],
        start_from: Path | None,
    ) -> None:
        self.config, self.stage, self.parts = config, stage, parts
        self.stop, self.watch, self.start_from = stop, watch, start_from
        self.accelerator: Accelerator = start(config, stage)
        self.journal = MetricsLogger(
            config.output.folder,
            main=self.accelerator.is_main_process,
            tensorboard=config.output.tensorboard,
        )
        self.step, self.bad_records = 0, 0
        self.model: Any = None
        self.optimizer: Any = None
        self.feed = self._feed(stage.mixture)
        self.stopped_by: int | None = None
        self.tokens, self.slots, self.warned_of_padding = 0.0, 0.0, False

    def prepare(self, *, allow_changes: bool) -> None:
        """Load, freeze, wrap, and go to where the newest checkpoint stood.

        Args:
            allow_changes: Resume although the data changed.

        Raises:
            CheckpointError: The newest checkpoint does not fit.
        """
        accelerator, stage, config = self.accelerator, self.stage, self.config
        set_seed(config.seed)
        model = self.parts.load_model(self.start_from)
        self.plan: StagePlan = apply_stage(model, stage, self.parts.new_token_ids)
        for rule, count in self.plan.counts.items():
            logger.info("stage %s: %s trains %s numbers", stage.name, rule, f"{count:,}")
        if stage.gradient_checkpointing:
            # The newer name came with transformers 5.24.
            old = model.gradient_checkpointing_enable
            getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})
        self.model = wrap(model, config, accelerator)
        groups = self.plan.parameter_groups(inner(self.model))
        self.optimizer = torch.optim.AdamW(groups, betas=stage.betas, eps=stage.eps)
        set_seed(config.seed + accelerator.process_index)
        self.fingerprints = plain(dict(self.parts.fingerprint(stage.mixture)))
        self.meters = Meters(torch.zeros((), dtype=torch.float64, device=accelerator.device))
        self.checkpoints = checkpoints_of(config, stage)
        found = checkpoint.list_checkpoints(self.checkpoints)
        if found:
            self._restore(found[-1], allow_changes=allow_changes)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            path = config.output.folder / CONFIG_FILE
            with writing(path):
                path.write_text(dump(config), encoding="utf-8")
        self.journal.begin(stage.name, self.step)

    def _feed(self, mixture: Mapping[str, Any], *, held_out: bool = False) -> Feed:
        config, accelerator = self.config, self.accelerator
        return Feed(
            lambda shard, shards: self.parts.make_source(mixture, shard, shards),
            self.parts.collate,
            self.parts.length,
            FeedSettings(
                batch_size=self.stage.batch_size,
                pool_batches=config.data.pool_batches,
                seed=config.seed,
                batch_tokens=self.stage.batch_tokens,
                workers=0 if held_out else config.data.workers,
                ballast=config.distributed.strategy == "fsdp",
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
        kept = checkpoint.restore(path, inner(self.model), self.plan.names, self.optimizer, rank)
        self.step = saved.step
        self.feed.load_state_dict(kept.data)
        counts = dict(kept.meters)
        self.meters.loss += counts.pop("loss")
        for name, value in counts.items():
            setattr(self.meters, name, value)
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
        while self.step < stage.steps:
            grad_norm = self._one_step()
            self.step += 1
            last = self.step == stage.steps
            metrics = None
            if last or self.step % self.config.output.log_every == 0:
                metrics = self._log(grad_norm)
            if self.accelerator.is_main_process:
                self.watch(
                    StepReport(stage=stage.name, step=self.step, steps=stage.steps, metrics=metrics)
                )
            if last or (stage.eval_every and self.step % stage.eval_every == 0):
                self._evaluate()
            stopping = self._asked_to_stop()
            if stopping or (stage.save_every and self.step % stage.save_every == 0):
                self._save()
            if stopping and not last:
                return False
        return True

    def _one_step(self) -> float:
        """One optimiser step.

        Returns:
            The norm of the gradient before clipping.

        Raises:
            TrainingError: It is not a finite number.
        """
        stage, accelerator, meters = self.stage, self.accelerator, self.meters
        fed = [next(self.feed) for _ in range(stage.accumulation)]
        for batch in fed:
            self._note_bad(batch)
            meters.examples += batch.examples
            meters.tokens += batch.tokens
            meters.slots += batch.slots
        answer_tokens = sum(batch.answer_tokens for batch in fed)
        meters.answer_tokens += answer_tokens
        # Averaged by the processes, summed by us: every answer token weighs the same.
        share = accelerator.num_processes / max(1.0, total(accelerator, answer_tokens)[0])
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * learning_rate_share(stage, self.step)
        for number, batch in enumerate(fed, 1):
            inputs = to_device(batch.inputs, accelerator.device)
            with gradients_summed(self.model, on=number == len(fed)):
                with accelerator.autocast():
                    loss = answer_loss(self.model, inputs)
                accelerator.backward(loss * share)
            meters.loss += loss.detach().double()
        parameters = dict(inner(self.model).named_parameters())
        for mask in self.plan.row_masks:
            mask.apply(parameters[mask.name])
        trained = [parameters[name] for name in self.plan.names]
        norm = clip(trained, stage.clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient is {norm.item()} at step {self.step + 1} of stage {stage.name!r}: "
                "lower its learning rates, warm up longer, or use precision: fp32; the newest "
                f"checkpoint is in {self.checkpoints}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item()

    def _note_bad(self, fed: Fed) -> None:
        """List what was left out of a batch."""
        self.journal.bad(fed.bad)
        self.bad_records += len(fed.bad)

    def _log(self, grad_norm: float) -> dict[str, float]:
        """Write a line about the steps since the last one; every process must call."""
        meters, accelerator = self.meters, self.accelerator
        seconds = time.perf_counter() - meters.started_s
        loss, answers, examples, tokens, slots = total(
            accelerator,
            meters.loss,
            meters.answer_tokens,
            meters.examples,
            meters.tokens,
            meters.slots,
        )
        metrics = {
            "loss": loss / max(1.0, answers),
            "lr_share": learning_rate_share(self.stage, self.step - 1),
            "grad_norm": grad_norm,
            "padding": 1 - tokens / max(1.0, slots),
            "examples": examples,
            "answer_tokens": answers,
            "samples_per_s": examples / seconds,
            "tokens_per_s": tokens / seconds,
        }
        self.journal.write(self.stage.name, self.step, "train", metrics)
        self._watch_padding(tokens, slots)
        self.meters = Meters(torch.zeros_like(meters.loss))
        return metrics

    def _watch_padding(self, tokens: float, slots: float) -> None:
        """Warn once when much of what the network reads is padding, a pool of batches seen."""
        self.tokens += tokens
        self.slots += slots
        share = 1 - self.tokens / max(1.0, self.slots)
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
        random_before = checkpoint.random_state()
        model, figures = inner(self.model), dict[str, float]()
        modes = {name: module.training for name, module in model.named_modules()}
        model.eval()
        with torch.no_grad():
            if self.config.evaluation is not None:
                figures["loss"] = self._held_out_loss(self.config.evaluation.batches)
            if self.parts.evaluate is not None:
                figures |= self.parts.evaluate(model, self.stage, self.step)
        for name, module in model.named_modules():
            module.training = modes[name]
        checkpoint.set_random_state(*random_before)
        if figures:
            self.journal.write(self.stage.name, self.step, "eval", figures)
        self.meters.started_s += time.perf_counter() - began_s

    def _held_out_loss(self, batches: int) -> float:
        assert self.config.evaluation is not None
        feed = self._feed(self.config.evaluation.mixture, held_out=True)
        loss, answers = self.meters.loss.new_zeros(()), 0
        for _ in range(batches):
            fed = next(feed)
            self._note_bad(fed)
            inputs = to_device(fed.inputs, self.accelerator.device)
            with self.accelerator.autocast():
                loss += answer_loss(self.model, inputs).double()
            answers += fed.answer_tokens
        summed, count = total(self.accelerator, loss, answers)
        return summed / max(1.0, count)

    def _asked_to_stop(self) -> bool:
        """Whether any process got a signal; all agree."""
        asked = total(self.accelerator, float(self.stop.signal_number is not None))[0] > 0
        if asked:
            self.stopped_by = self.stop.signal_number or 15
        return asked

    def _save(self) -> None:
        began_s = time.perf_counter()
        meters = self.meters
        checkpoint.save(
            self.checkpoints,
            checkpoint.RunState(
                stage=self.stage.name,
                step=self.step,
                config=plain(self.config),
                fingerprints=self.fingerprints,
                world=self.accelerator.num_processes,
            ),
            checkpoint.RankState(
                data=self.feed.state_dict(),
                meters={
                    "loss": meters.loss.item(),
                    "answer_tokens": meters.answer_tokens,
                    "examples": meters.examples,
                    "tokens": meters.tokens,
                    "slots": meters.slots,
                },
            ),
            inner(self.model),
            self.plan.names,
            self.optimizer,
            self.accelerator,
            keep=self.config.output.keep_checkpoints,
        )
        meters.started_s += time.perf_counter() - began_s

    def finish(self) -> Path:
        """Write the weights of the stage and let go of everything."""
        facts = {
            "steps": self.step,
            "processes": self.accelerator.num_processes,
            "data": self.fingerprints,
            "started_from": str(self.start_from or self.config.model.path),
        }
        return export(
            inner(self.model), self.config, self.stage, self.accelerator, facts,
            self.parts.save_extras,
        )  # fmt: skip

    def close(self) -> None:
        """End workers and logs, free the network."""
        self.feed.close()
        self.journal.close()
        if self.accelerator.device.type != "cpu":
            self.accelerator.free_memory()
        self.model = self.optimizer = None
