"""UPN as a proposer: images of any size to regions."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlm_fo1.errors import BoxError, ConfigError
from vlm_fo1.proposers.base import Selection, check_queries, ranked, select
from vlm_fo1.proposers.digest import digest_of
from vlm_fo1.proposers.upn.configuration import PROMPTS
from vlm_fo1.proposers.upn.modeling import UPN, UPNOutput
from vlm_fo1.proposers.upn.preprocessing import LONGER_MAX, SHORTER, collate, to_pixels
from vlm_fo1.regions import Regions

OFFICIAL_FILTER = Selection(min_score=0.3, nms_iou=0.8, whole_pixels=True)
"""What the released code keeps of UPN's boxes, and of those the best `OFFICIAL_LIMIT`."""
OFFICIAL_LIMIT = 100


class UPNProposer:
    """Class-free boxes of everything in an image."""

    name = "upn"
    requires_labels = False

    def __init__(
        self,
        model: UPN,
        *,
        prompt: str = "fine_grained",
        shorter: int = SHORTER,
        longer_max: int = LONGER_MAX,
        batch_size: int = 1,
        selection: Selection | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            model: In evaluation mode.
            prompt: ``"fine_grained"`` for objects and their parts, ``"coarse_grained"`` for whole
                objects.
            shorter: Images are resized to this shorter side in pixels,
            longer_max: or to this longer one where that is smaller.
            batch_size: Images in one pass. More than 1 pays on a GPU, but the network sees the
                padding: an image's numbers then depend on the sizes of its neighbours.
            selection: Applied before boxes are clipped to the image, as the released pipeline does.
                None, the default, drops nothing: `select` may do it later, on clipped boxes.
                `vlm_fo1.FO1` then takes the best 100 of what is left.

        Raises:
            ConfigError: No such prompt, or a number below 1.
        """
        if prompt not in PROMPTS:
            raise ConfigError(f"prompt = {prompt!r}: {' or '.join(map(repr, PROMPTS))} is needed")
        for key, value in (
            ("shorter", shorter), ("longer_max", longer_max), ("batch_size", batch_size)
        ):  # fmt: skip
            if value < 1:
                raise ConfigError(f"{key} = {value}: at least 1 is needed")
        self._model = model.eval()
        self._prompt: str = prompt
        self._sides = (shorter, longer_max)
        self._batch_size = batch_size
        self._selection = selection
        # A second suppression, on clipped boxes, would drop what the released one keeps.
        self.selection = replace(
            selection or OFFICIAL_FILTER,
            nms_iou=OFFICIAL_FILTER.nms_iou if selection is None else None,
            limit=(selection and selection.limit) or OFFICIAL_LIMIT,
        )

    @classmethod
    def from_pretrained(
        cls,
        argument: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        strict: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        **options: Any,
    ) -> "UPNProposer":
        """Load weights.

        Args:
            argument: A folder, ``upn_large.pth`` or a Hub id: see `UPN.from_pretrained`.
            device: ``"cuda"``, ``"cpu"``, ...; CUDA where there is some, else the CPU.
            dtype: ``"float32"`` or ``"bfloat16"``; as saved if left out.
            strict: See `UPN.from_pretrained`.
            revision: See `UPN.from_pretrained`.
            token: See `UPN.from_pretrained`.
            **options: What the constructor takes.

        Raises:
            ConfigError: No path, or an option that cannot be.
            CheckpointError: The weights cannot be read or do not fit.
        """
        if not str(argument):
            raise ConfigError(
                "upn needs its weights: write upn:PATH, e.g. upn:resources/upn_large.pth"
            )
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        hub = {"revision": revision, "token": token}
        model = UPN.from_pretrained(argument, device=device, dtype=dtype, strict=strict, **hub)
        return cls(model, **options)

    @property
    def fingerprint(self) -> str:
        """Of the weights, their dtype, the settings and the versions that make boxes."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        settings = (self._prompt, self._sides, self._batch_size, self._selection)
        versions = [version(package) for package in ("vlm-fo1", "torch", "transformers", "pillow")]
        return digest_of(
            self.name, repr((settings, self._model.config)), versions, self._model.state_dict()
        )

    def propose(
        self, images: Sequence[Image.Image], *, queries: Sequence[str] | None = None
    ) -> list[Regions]:
        """Regions of each image.

        Args:
            images: Upright RGB images of any sizes; not changed.
            queries: Must be None.

        Returns:
            One `Regions` per image, with scores, best first and within the image; all of the
            network's boxes unless a selection was asked for.

        Raises:
            PromptError: Queries were given.
            BoxError: The network gave numbers that are none.
        """
        check_queries(self.name, queries, needed=False)
        found: list[Regions] = []
        for start in range(0, len(images), self._batch_size):
            for regions in self._detect(images[start : start + self._batch_size]):
                kept = regions if self._selection is None else select(regions, self._selection)
                found.append(ranked(kept.xyxy, kept.scores, kept.size_wh, name=self.name))
        return found

    @torch.inference_mode()
    def _detect(self, images: Sequence[Image.Image]) -> list[Regions]:
        weight = self._model.decoder.content
        pixel_values, pixel_mask = collate([to_pixels(image, *self._sides) for image in images])
        output = self._model(
            pixel_values.to(weight.device), pixel_mask.to(weight.device), self._prompt
        )
        return regions_of(output, [image.size for image in images])


def regions_of(output: UPNOutput, sizes_wh: Sequence[tuple[int, int]]) -> list[Regions]:
    """The network's boxes in pixels, not clipped: `select` with `OFFICIAL_FILTER` wants them so.

    Args:
        output: Of a batch.
        sizes_wh: Width and height in pixels of each image as it was before resizing.

    Returns:
        One `Regions` per image, best first; boxes may stick out of it.

    Raises:
        BoxError: A logit or box that is no finite number.
    """
    logits, boxes = output.logits.float().cpu(), output.boxes.float().cpu()
    bad = int((~(logits.isfinite() & boxes.isfinite().all(-1))).sum())
    if bad:
        raise BoxError(
            f"upn returned {bad} of {logits.numel()} boxes that are no numbers: its weights are "
            "broken or overflowed; try dtype='float32'"
        )
    scores = logits.sigmoid()
    order = scores.sort(dim=1, descending=True, stable=True).indices
    return [
        _in_pixels(boxes[index, rows], scores[index, rows], size_wh)
        for index, (rows, size_wh) in enumerate(zip(order, sizes_wh, strict=True))
    ]


def _in_pixels(boxes_Q4: Tensor, scores_Q: Tensor, size_wh: tuple[int, int]) -> Regions:
    """In the released code's order of operations: half a unit in the last place may move a cut."""
    centres, sides = boxes_Q4[:, :2], boxes_Q4[:, 2:]
    low = centres - sides / 2
    xyxy = torch.cat([low, low + sides], 1) * torch.tensor([*size_wh, *size_wh])
    return Regions(np.asarray(xyxy), size_wh, np.asarray(scores_Q))
