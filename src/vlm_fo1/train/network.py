"""The network that a stage starts from, made ready to train, and how its weights are saved."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm_fo1.data.example import Example
from vlm_fo1.errors import FO1Error, item_errors
from vlm_fo1.jsonl import writing
from vlm_fo1.model.modeling import FO1ForConditionalGeneration
from vlm_fo1.model.weights import read_config
from vlm_fo1.processing import FO1Processor
from vlm_fo1.train.config import TrainConfig
from vlm_fo1.train.export import save_pretrained
from vlm_fo1.train.frozen import KeptMaps
from vlm_fo1.train.loss import to_device
from vlm_fo1.train.names import region_names
from vlm_fo1.train.standardise import Standard, first_linear, watched
from vlm_fo1.train.words import add_words, grow, new_words

logger = logging.getLogger(__name__)

WORD_RECORDS = 200
"""Records whose names are looked at for words that get a token."""
AT_ONCE = 8


class Network:
    """Loads and saves the network of a run.

    Args:
        config: The run.
        start: Folder of what the first stage starts from.
        processor: Of it; gains new words, if the run gives them tokens.
        records: The first stage's records from their beginning, each time it is called.
    """

    def __init__(
        self,
        config: TrainConfig,
        start: Path,
        processor: FO1Processor,
        records: Callable[[], Iterable[Example]],
    ) -> None:
        self.config, self.start, self.processor, self.records = config, start, processor, records
        self.words: list[str] = []
        self.word_ids: list[int] = []
        self._standard: Standard | None = None
        if config.model.new_words:
            self.words = new_words(islice(records(), WORD_RECORDS), processor.tokenizer)
            taken = _token_ids(read_config(start).to_dict())
            self.word_ids = add_words(self.words, processor.tokenizer, max(taken, default=-1) + 1)

    def load(self, folder: Path | None) -> FO1ForConditionalGeneration:
        """The network of the stage before, or what the run starts from.

        Args:
            folder: Weights of the stage before; None for the first.
        """
        model = self._read(folder)
        KeptMaps(model.auxiliary, int(self.config.data.kept_maps_gib * 2**30))
        connector, wanted = model.region_connector, self.config.model.standardise
        features, called = [], dict[str, Tensor]()
        if self.words and folder is None:
            features, called = self._look(model, wanted or AT_ONCE)
            grow(model, self.processor.tokenizer, self.words, called)
        self._standard = None
        if wanted and first_linear(connector) is not None:
            path = self.config.output.folder / f"features-{folder.name if folder else 'start'}"
            self._standard = self._measured(path.with_suffix(".safetensors"), model, features)
            if self._standard is not None:
                self._standard.enter(connector)
        return model

    def plain_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors that compute the same without what helps training."""
        return state if self._standard is None else self._standard.leave(state)

    def save(self, model: Any, state: Mapping[str, Tensor], folder: Path) -> None:
        """Write weights and processor."""
        save_pretrained(model, state, folder)
        self.processor.save_pretrained(folder)

    def _read(self, folder: Path | None) -> FO1ForConditionalGeneration:
        options: dict[str, Any] = {"attn_implementation": self.config.model.attention}
        if folder is None and self.config.model.init == "random":
            model = FO1ForConditionalGeneration._from_config(  # noqa: SLF001 - its public form
                read_config(self.start), dtype=torch.float32, **options  # would look up a class
            )  # fmt: skip
            logger.info("weights are drawn by seed %d", self.config.seed)
            return model
        return FO1ForConditionalGeneration.from_pretrained(
            folder or self.start, dtype=torch.float32, **options
        )

    def _measured(
        self, path: Path, model: FO1ForConditionalGeneration, features: list[Tensor]
    ) -> Standard | None:
        """Of the run's data when the stage began: a resumed one must use the same.

        Returns:
            None if no record that was looked at shows a region.
        """
        if path.is_file():
            return Standard(**load_file(path))
        features = features or self._look(model, self.config.model.standardise)[0]
        if not features:
            logger.info("no region to be seen at first: the connector takes features as they are")
            return None
        standard = Standard.of(features)
        if os.environ.get("RANK", "0") == "0":  # all find the same
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".part-{path.name}")
            with writing(path):
                save_file({"mean_R": standard.mean_R, "std_R": standard.std_R}, part)
                part.replace(path)
        return standard

    def _look(
        self, model: FO1ForConditionalGeneration, count: int
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Region features of some records, and the region tokens of each name in them."""
        shown = [
            one for one in islice(self.records(), count) if one.image and len(one.regions_xyxy)
        ]
        features: list[Tensor] = []
        called: dict[str, list[Tensor]] = {}
        gpu = torch.accelerator.current_accelerator(check_available=True)
        if gpu is not None and self.config.distributed.device != "cpu":
            cast(Any, model).to(torch.device(gpu.type, torch.accelerator.current_device_index()))
        for first in range(0, len(shown), AT_ONCE):
            some = shown[first : first + AT_ONCE]
            try:
                with item_errors("records"), torch.no_grad():
                    images = self.processor.image_processor(
                        [one.image for one in some], [one.regions_xyxy for one in some]
                    )
                    images = to_device(dict(images), model.device)
                    with watched(model.region_connector) as (entered, _):
                        tokens = model.get_region_features(**images)
            except FO1Error:  # which of them it is the loop will say
                continue
            features += entered
            for example, tokens_ND in zip(some, tokens, strict=True):
                for index, name in region_names(example).items():
                    called.setdefault(name, []).append(tokens_ND[index].cpu())
        return features, {name: torch.stack(found) for name, found in called.items()}


def _token_ids(config: Mapping[Any, Any]) -> Iterator[int]:
    """Ids that a configuration gives a meaning: of images, regions, videos, ends."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _token_ids(value)
        elif str(name).endswith("_token_id") and isinstance(value, int):
            yield value
