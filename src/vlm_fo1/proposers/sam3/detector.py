"""SAM 3 on one image: every thing that a few words name, with box, score and mask."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer, Sam3Model

from vlm_fo1.devices import reason_of
from vlm_fo1.errors import BoxError, CheckpointError, ConfigError, PromptError
from vlm_fo1.proposers.base import Selection, check_queries, ranked
from vlm_fo1.proposers.digest import digest_of
from vlm_fo1.proposers.sam3.loading import load_network, masks_at, pixels_of
from vlm_fo1.regions import Regions

KINDS = ("sam3_video", "sam3")
"""Values of ``model_type`` whose checkpoints hold the detector; the released one is the first."""


class SAM3Proposer:
    """Offers what the queries name; each region carries its query as label, and its mask.

    Args:
        model: The detector, a `Sam3Model` in evaluation mode.
        tokenizer: Of its text encoder.
        source: Where it came from: `SAM3Tracker.beside` loads the tracker from there.
        min_score: What scores lower is left out before masks are made, which for large images is
            most of the time and memory. At 0, the default, all of the network's guesses come (200
            in the released one).

        hub: ``revision`` and ``token`` that it came with, for the same.

    Raises:
        ConfigError: A ``min_score`` outside [0, 1].
    """

    name = "sam3"
    requires_labels = True
    selection = Selection(min_score=0.05, nms_iou=0.8, limit=100)
    """Where the network is unsure, a thing of a low score may be what is meant."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        source: str = "",
        min_score: float = 0.0,
        hub: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ConfigError(f"min_score = {min_score} must be a score: from 0 to 1")
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.hub = dict(hub or {})
        self.min_score = min_score

    @classmethod
    def from_pretrained(
        cls,
        argument: str,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        min_score: float = 0.0,
    ) -> "SAM3Proposer":
        """Load the detector of a SAM 3 checkpoint.

        Args:
            argument: A folder, or a Hub id such as ``facebook/sam3``.
            device: By default CUDA where there is one.
            dtype: By default float32 on the CPU, else as saved.
            revision: Branch, tag or commit of a Hub id.
            token: For gated and private repositories.
            min_score: See the class.

        Raises:
            CheckpointError: No such checkpoint, or weights of another network.
            ConfigError: Nothing to load was named, or no such device or dtype here.
        """
        model = load_network(
            Sam3Model, argument, KINDS, device=device, dtype=dtype, revision=revision, token=token
        )
        try:
            tokenizer = AutoTokenizer.from_pretrained(argument, revision=revision, token=token)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"the tokenizer of {argument} cannot be loaded: "
                f"{reason_of(argument, error, revision)}"
            ) from error
        hub = {"revision": revision, "token": token}
        return cls(model, tokenizer, source=argument, min_score=min_score, hub=hub)

    @property
    def fingerprint(self) -> str:
        """Hash of the weights and of what else decides the regions."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return digest_of(
            self.name,
            transformers.__version__,
            self.min_score,
            self.tokenizer.get_vocab(),
            self.model.state_dict(),
        )

    @torch.inference_mode()
    def propose(
        self, images: Sequence[Image.Image], *, queries: Sequence[str] | None = None
    ) -> list[Regions]:
        """Regions of each image with masks, best first; all queries together.

        Args:
            images: Upright RGB images of any sizes; not changed.
            queries: A few words each; a query asked twice counts once.

        Returns:
            One `Regions` per image, as `Proposer.propose` has it.

        Raises:
            PromptError: No query, or one with more words than the network reads.
            BoxError: The network returned what is no number.
        """
        names = list(dict.fromkeys(check_queries(self.name, queries, needed=True)))
        asked = [(name, *self._read(name)) for name in names]
        return [self._look(image, asked) for image in images]

    def _read(self, text: str) -> tuple[Any, torch.Tensor]:
        """Features of a query and which of them count.

        Raises:
            PromptError: It is too long.
        """
        room = self.model.config.text_config.max_position_embeddings
        used = len(self.tokenizer(text)["input_ids"])
        if used > room:
            raise PromptError(
                f"the query {text!r} takes {used} tokens, SAM 3 reads {room}: name the thing in "
                "fewer words"
            )
        tokens = self.tokenizer(text, padding="max_length", max_length=room, return_tensors="pt")
        tokens = {name: tokens[name].to(self.model.device) for name in _TOKENS}
        return self.model.get_text_features(**tokens), tokens["attention_mask"]

    def _look(self, image: Image.Image, asked: Sequence[tuple[str, Any, torch.Tensor]]) -> Regions:
        side = self.model.config.vision_config.image_size
        pixels = pixels_of(image, side)[None].to(self.model.device, self.model.dtype)
        seen = self.model.get_vision_features(pixels)
        boxes, scores, masks, labels = [], [], [], []
        for name, words, attention in asked:
            found = self.model(vision_embeds=seen, text_embeds=words, attention_mask=attention)
            part = self._of_query(found, image.size)
            boxes.append(part[0])
            scores.append(part[1])
            masks.append(part[2])
            labels += [name] * len(part[1])
        return ranked(
            np.concatenate(boxes),
            np.concatenate(scores),
            image.size,
            name=self.name,
            labels=labels,
            masks=np.concatenate(masks) if len(masks) > 1 else masks[0],
        )

    def _of_query(self, found: Any, size_wh: tuple[int, int]) -> tuple[Any, Any, Any]:
        """Boxes (N, 4) in pixels, scores (N,) and masks (N, H, W) of one query.

        Raises:
            BoxError: What the network returned is no number.
        """
        scores = found.pred_logits[0].float().sigmoid()
        if found.presence_logits is not None:  # whether the thing is in the image at all
            scores = scores * found.presence_logits[0].float().sigmoid()
        boxes, maps = found.pred_boxes[0].float(), found.pred_masks[0].float()
        good = scores.isfinite() & boxes.isfinite().all(-1) & maps.flatten(1).isfinite().all(-1)
        if not good.all():
            raise BoxError(
                f"{self.name} returned {int((~good).sum())} of {len(good)} things that are no "
                "numbers: its weights are broken or overflowed; try dtype='float32'"
            )
        kept = scores >= self.min_score
        boxes = boxes[kept] * torch.tensor([*size_wh, *size_wh], device=boxes.device)
        masks = masks_at(maps[kept].sigmoid(), size_wh, threshold=0.5)
        return boxes.cpu().numpy(), scores[kept].cpu().numpy(), masks


_TOKENS = ("input_ids", "attention_mask")
