"""Any detector of transformers as a proposer: closed-set ones, and zero-shot ones that take names.

Legend: B images of a batch, Q boxes an image, C classes, L names of a prompt, T tokens.
"""

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from vlm_fo1.errors import ConfigError
from vlm_fo1.proposers.base import DEFAULT_SELECTION, Selection, check_queries, ranked
from vlm_fo1.proposers.digest import digest_of
from vlm_fo1.proposers.hf.load import Family, load_detector
from vlm_fo1.proposers.hf.prompts import Prompt, grounding_prompts, owl_prompts, task_prompts
from vlm_fo1.regions import Regions

CLOSED_SET = "PekingU/rtdetr_v2_r50vd"
"""What ``hf`` alone loads: RT-DETR v2, the 80 kinds of things of COCO (Apache-2.0)."""
ZERO_SHOT = "openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det"
"""What ``hf:zero-shot`` loads: MM-Grounding-DINO, anything that has a name (Apache-2.0)."""

_MAX_ASPECT = 16
"""Longer images are widened at the right or the bottom, since their short side would vanish."""


@dataclass(frozen=True)
class _Found:
    """Boxes of one image, of all prompts so far."""

    cxcywh_Q4: Tensor
    """Shares of the image as the detector saw it."""
    scores_Q: Tensor
    labels: list[str]


class DetectorProposer:
    """A detector of transformers.

    Every box the detector has is offered, with its best class or name and that one's score. Images
    of one size go through it together, up to ``batch_size``; no image is padded to another's size,
    so that what an image gets does not depend on its company.

    Args:
        model: ``AutoModelForObjectDetection`` or ``AutoModelForZeroShotObjectDetection``.
        image_processor: Of that model, with ``backend="pil"``.
        tokenizer: Of that model where it takes names.
        batch_size: Images that go through the detector together.
        template: Text that a name is put in, ``{}`` standing for it. By default the bare name, and
            for OWL ``"a photo of a {}"``, which it was trained on.

    Raises:
        ConfigError: A kind of detector without an adapter, or settings that cannot be.
    """

    name = "hf"

    def __init__(
        self,
        model: Any,
        image_processor: Any,
        tokenizer: Any = None,
        *,
        batch_size: int = 4,
        template: str | None = None,
    ) -> None:
        self.family = Family.of(model.config.model_type)
        if batch_size < 1:
            raise ConfigError(f"batch_size = {batch_size}: at least 1 image at a time")
        if self.family.takes_names and tokenizer is None:
            raise ConfigError(f"{model.config.model_type} looks for names: pass its tokenizer")
        self.template = template or self.family.template
        if "{}" not in self.template:
            raise ConfigError(f"template {template!r} has no place for the name: put {{}} in it")
        self.model = model.eval()
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self._lock = threading.Lock()  # a fast tokenizer refuses two threads at a time
        known = inspect.signature(model.forward).parameters
        self._image_inputs = {"pixel_values", "pixel_mask"} & set(known)

    @classmethod
    def from_pretrained(
        cls,
        argument: str = "",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        **options: Any,
    ) -> "DetectorProposer":
        """Load a detector.

        Args:
            argument: A folder or a Hub id; nothing for `CLOSED_SET`, ``zero-shot`` for `ZERO_SHOT`.
            device: By default CUDA where there is one.
            dtype: Of the weights; by default float32 on the CPU, else as saved.
            revision: Branch, tag or commit of a Hub id.
            token: For gated and private repositories.
            **options: Of the class.

        Raises:
            CheckpointError: There is no such checkpoint, or its weights do not fit.
            ConfigError: No adapter for this kind of detector, or no such device or dtype.
            MissingExtraError: It needs a package that is not installed.
        """
        source = {"": CLOSED_SET, "zero-shot": ZERO_SHOT}.get(argument, argument)
        parts = load_detector(source, device=device, dtype=dtype, revision=revision, token=token)
        return cls(*parts, **options)

    @property
    def requires_labels(self) -> bool:
        """Whether it looks for named things."""
        return self.family.takes_names

    @property
    def selection(self) -> Selection:
        """Zero-shot detectors give right boxes lower scores than closed-set ones."""
        return replace(DEFAULT_SELECTION, min_score=self.family.min_score)

    @property
    def fingerprint(self) -> str:
        """Of weights, configuration, image steps, template and the version of transformers."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        config = {k: v for k, v in self.model.config.to_dict().items() if not k.startswith("_")}
        return digest_of(
            self.name,
            transformers.__version__,
            config,
            self.image_processor.to_dict(),
            self.template if self.requires_labels else "",
            str(self.model.dtype),
            self.model.state_dict(),
        )

    def propose(
        self, images: Sequence[Image.Image], *, queries: Sequence[str] | None = None
    ) -> list[Regions]:
        """Boxes of each image, see `Proposer.propose`; ``labels`` says what each is.

        Raises:
            PromptError: Names are missing, given to a detector that takes none, or too long.
            BoxError: The detector gave boxes that are no numbers.
        """
        names = check_queries(self.name, queries, needed=self.requires_labels)
        if not images:
            return []
        prompts = self._prompts(names)
        results: dict[int, Regions] = {}
        for batch, inputs in self._batches(images):
            found = self._detect(inputs, prompts, len(batch))
            for index, boxes in zip(batch, found, strict=True):
                results[index] = self._in_pixels(boxes, images[index].size)
        return [results[index] for index in range(len(images))]

    def _prompts(self, names: list[str]) -> list[Prompt]:
        config = self.model.config
        match self.family.reads:
            case "nothing":
                return [Prompt()]
            case "sentence":
                make, limits = grounding_prompts, [config.max_text_len]
            case "texts":
                make, limits = owl_prompts, list[int]()
            case "task":
                make, limits = task_prompts, list[int]()
        limit = min([config.text_config.max_position_embeddings, *limits])
        with self._lock:
            return make(names, self.tokenizer, template=self.template, limit=limit)

    def _batches(
        self, images: Sequence[Image.Image]
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Indices and inputs of images whose pixels have one shape, at most ``batch_size``."""
        waiting: dict[tuple[int, ...], list[tuple[int, dict[str, Tensor]]]] = {}
        for index, image in enumerate(images):
            pixels = self._pixels(image)
            group = waiting.setdefault(tuple(pixels["pixel_values"].shape), [])
            group.append((index, pixels))
            if len(group) == self.batch_size:
                yield _stacked(waiting.pop(tuple(pixels["pixel_values"].shape)))
        for group in waiting.values():
            yield _stacked(group)

    def _pixels(self, image: Image.Image) -> dict[str, Tensor]:
        canvas_wh = self._canvas(image.size)
        if canvas_wh != image.size:
            canvas = Image.new("RGB", canvas_wh)
            canvas.paste(image)
            image = canvas
        processed = self.image_processor(  # one pixel leaves open which axis the channels are
            images=[image], return_tensors="pt", input_data_format="channels_last"
        )
        return {key: processed[key] for key in self._image_inputs if key in processed}

    def _canvas(self, size_wh: tuple[int, int]) -> tuple[int, int]:
        """Size of the image that the detector's shares are of."""
        width, height = size_wh
        if self.family.pads_to_square:
            return max(size_wh), max(size_wh)
        if self.image_processor.size.get("shortest_edge") is None:
            return size_wh  # it is squeezed into one size, whatever its shape
        return max(width, -(-height // _MAX_ASPECT)), max(height, -(-width // _MAX_ASPECT))

    @torch.inference_mode()
    def _detect(self, inputs: dict[str, Tensor], prompts: list[Prompt], count: int) -> list[_Found]:
        device, dtype = self.model.device, self.model.dtype
        inputs = {key: value.to(device) for key, value in inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        parts: list[list[_Found]] = []
        for prompt in prompts:
            text = {
                key: value.repeat(count, *[1] * (value.ndim - 1)).to(device)
                for key, value in prompt.inputs.items()
            }
            logits, boxes = self._outputs({**inputs, **text})
            scores_BQ, classes_BQ = self._best(logits.float(), prompt)
            labels = prompt.labels or self.model.config.id2label
            parts.append(
                [
                    _Found(boxes_Q4, scores_Q, [labels[i] for i in classes_Q.tolist()])
                    for boxes_Q4, scores_Q, classes_Q in zip(
                        boxes.float().cpu(), scores_BQ, classes_BQ, strict=True
                    )
                ]
            )
        return [_joined(of_image) for of_image in zip(*parts, strict=True)]

    def _outputs(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and boxes of a batch."""
        # OmDet-Turbo keeps what it made of texts on the model, where threads would mix it up.
        alone = self._lock if self.family.reads == "task" else nullcontext()
        with alone:
            outputs = self.model(**inputs)
        logits, boxes = self.family.outputs
        return outputs[logits], outputs[boxes]

    def _best(self, logits: Tensor, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Score and number of the best class or name of each box, (B, Q) each, on the CPU."""
        if prompt.spans:  # (B, Q, T): the score of a name is that of its best token
            table = torch.stack([logits[..., a:b].amax(-1) for a, b in prompt.spans], -1).sigmoid()
        elif logits.shape[-1] == self.model.config.num_labels + 1 and not prompt.labels:
            table = logits.softmax(-1)[..., :-1]  # DETR and YOLOS have a class for nothing
        else:
            table = logits.sigmoid()
        best = table.max(-1)  # NaN wins, so that broken weights are seen
        return best.values.cpu(), best.indices.cpu()

    def _in_pixels(self, found: _Found, size_wh: tuple[int, int]) -> Regions:
        width, height = self._canvas(size_wh)
        centre_Q2, half_Q2 = found.cxcywh_Q4[:, :2], found.cxcywh_Q4[:, 2:] / 2
        xyxy_Q4 = torch.cat([centre_Q2 - half_Q2, centre_Q2 + half_Q2], 1)
        xyxy_Q4 = xyxy_Q4 * torch.tensor([width, height, width, height])
        return ranked(
            xyxy_Q4.numpy(), found.scores_Q.numpy(), size_wh, name=self.name, labels=found.labels
        )


def _stacked(
    group: list[tuple[int, dict[str, Tensor]]],
) -> tuple[list[int], dict[str, Tensor]]:
    first = group[0][1]
    return (
        [index for index, _ in group],
        {key: torch.cat([pixels[key] for _, pixels in group]) for key in first},
    )


def _joined(parts: Sequence[_Found]) -> _Found:
    """The boxes of all pieces of the names."""
    return _Found(
        torch.cat([part.cxcywh_Q4 for part in parts]),
        torch.cat([part.scores_Q for part in parts]),
        [label for part in parts for label in part.labels],
    )
