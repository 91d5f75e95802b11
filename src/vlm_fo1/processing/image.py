"""Images and boxes to the inputs of both encoders.

Shape legend: P patches of all images, D values of a patch, B images, N boxes of one image, H and W
sides of one auxiliary image.
"""

import importlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from vlm_fo1.boxes import check as check_boxes
from vlm_fo1.boxes import scale as scale_boxes
from vlm_fo1.errors import BoxError, ConfigError, ImageError
from vlm_fo1.images import read_image

AuxMode = Literal["dynamic", "squash", "dynamic_square"]

AUX_MODES: tuple[AuxMode, ...] = ("dynamic", "squash", "dynamic_square")
SQUARE_SIDES = (384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1280, 1536, 1792, 2048)
"""Sides that `dynamic_square` chooses from, in pixels."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_ASPECT_RATIO = 100
"""Longest side over shortest; Qwen2-VL's grid takes 200, and whole patches may double it."""

_TYPE_KEY = "image_processor_type"


def qwen_primary(**changes: Any) -> dict[str, Any]:
    """Settings of the primary part: Qwen2-VL's patches with the released checkpoint's limits.

    Args:
        changes: Settings of `Qwen2VLImageProcessorPil` that differ, e.g. ``patch_size=16`` and
            ``image_mean=[0.5, 0.5, 0.5]`` for Qwen3-VL.

    Returns:
        A value for `FO1ImageProcessor(primary=...)`.

    Source: REFERENCE, "Preprocessing and prompt": 56*56 to 2048*2048 pixels.
    """
    return {
        _TYPE_KEY: "Qwen2VLImageProcessorPil",
        "size": {"shortest_edge": 56 * 56, "longest_edge": 2048 * 2048},
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        **changes,
    }


def square_primary(side: int, **changes: Any) -> dict[str, Any]:
    """Settings of the primary part for towers that look at one square: Idefics3, SmolVLM.

    The whole image is stretched to the square and never split into tiles: regions are cut from one
    map, and their boxes follow the stretch axis by axis.

    Args:
        side: Pixels.
        changes: ``patch_size`` and ``merge_size`` (the host's ``scale_factor``), which the number
            of image tokens follows from, and other settings of `Idefics3ImageProcessorPil`.

    Returns:
        A value for `FO1ImageProcessor(primary=...)`.
    """
    return {
        _TYPE_KEY: "Idefics3ImageProcessorPil",
        "do_image_splitting": False,
        "do_resize": False,  # of the long side first; the stretch to the square comes anyway
        "do_pad": False,
        "max_image_size": {"longest_edge": side},
        **changes,
    }


class FO1ImageProcessor(BaseImageProcessor):
    """Prepares images for the primary and the auxiliary encoder, and boxes with them.

    Args:
        primary: Which transformers image processor makes the primary encoder's input, and its
            settings: ``{"image_processor_type": name, setting: value, ...}``; `qwen_primary` by
            default.
        min_side: Each side is raised to this many pixels by itself.
        max_side: The long side is shrunk to this many pixels, the other in proportion, but not
            under `min_side`; None keeps every size, but for raising a side that is less than a
            100th of the other.
        image_size: The short side is brought to this many pixels, up too, as far as the long side
            stays within `max_side`: the official preparation, with 1024, of its demos of SAM 3.
            None takes images as they come.
        aux_image_aspect_ratio: "dynamic" keeps the size, "squash" makes a square of
            `aux_image_size`, "dynamic_square" the square of `SQUARE_SIDES` nearest in area.
        aux_image_size: Side of the squashed auxiliary image in pixels.
        aux_image_mean: What is subtracted from each channel of the auxiliary image in 0..1.
        aux_image_std: What each channel is then divided by.
        max_regions: How many boxes one image can have.
        saved: Keys that files carry besides these: the class name.

    Raises:
        ConfigError: An unknown setting or value.

    Source: REFERENCE, "Preprocessing and prompt".
    """

    model_input_names = ["pixel_values", "image_grid_thw", "aux_pixel_values", "region_boxes"]  # noqa: RUF012 (read by transformers)

    def __init__(
        self,
        *,
        primary: dict[str, Any] | None = None,
        min_side: int = 28,
        max_side: int | None = 2048,
        image_size: int | None = None,
        aux_image_aspect_ratio: str = "dynamic",
        aux_image_size: int = 768,
        aux_image_mean: Sequence[float] = IMAGENET_MEAN,
        aux_image_std: Sequence[float] = IMAGENET_STD,
        max_regions: int = 100,
        **saved: Any,
    ) -> None:
        unknown = set(saved) - {_TYPE_KEY, "processor_class"}
        if unknown:
            raise ConfigError(f"image processor settings {sorted(unknown)} are unknown")
        if aux_image_aspect_ratio not in AUX_MODES:
            raise ConfigError(
                f"aux_image_aspect_ratio {aux_image_aspect_ratio!r} is unknown: "
                f"one of {', '.join(AUX_MODES)} is needed"
            )
        if image_size is not None and not image_size >= min_side:
            raise ConfigError(
                f"image_size is {image_size}: the short side in pixels, at least {min_side}"
            )
        super().__init__()
        self.primary = dict(qwen_primary() if primary is None else primary)
        self.min_side = min_side
        self.max_side = max_side
        self.image_size = image_size
        self.aux_image_aspect_ratio = aux_image_aspect_ratio
        self.aux_image_size = aux_image_size
        self.aux_image_mean = list(aux_image_mean)
        self.aux_image_std = list(aux_image_std)
        self.max_regions = max_regions
        self._primary = _build_primary(self.primary)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: Any, boxes: Any = None, **options: Any
    ) -> BatchFeature:
        """See `preprocess`."""
        return self.preprocess(images, boxes, **options)

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Any,
        boxes: Any = None,
        *,
        allow_url: bool = False,
        max_regions: int | None = None,
    ) -> BatchFeature:
        """Prepare images with their boxes.

        Args:
            images: One image, or a list or tuple of them: whatever `vlm_fo1.images.read_image`
                takes.
            boxes: (N, 4) xyxy in pixels of the image, in the order of their numbers; for a list of
                images a list of such, where None stands for no boxes. Boxes that stick out are
                clamped.
            allow_url: Whether http(s) URLs are fetched.
            max_regions: How many boxes an image can have here, in place of the setting: the towers
                take any number, a question does not.

        Returns:
            ``pixel_values`` (P, D) float32, or (B, 3, side, side) for a tower that looks at
            squares; ``image_grid_thw`` (B, 3) int64, ``aux_pixel_values``
            a list of B (3, H, W) float32, ``region_boxes`` a list of B (N, 4) float32 xyxy in
            pixels of the auxiliary image; all on the CPU.

        Raises:
            ImageError: An image that cannot be read; no image at all.
            BoxError: Boxes that cannot be used, too many, or not one entry per image.
        """
        if not isinstance(images, list | tuple):
            images, boxes = [images], [boxes]
        boxes = [None] * len(images) if boxes is None else list(boxes)
        if len(boxes) != len(images):
            raise BoxError(
                f"{len(images)} images but {len(boxes)} lists of boxes: "
                "pass one per image, None where there are none"
            )
        if not images:
            raise ImageError("no image given: pass at least one")
        fitted: list[Image.Image] = []
        aux: list[torch.Tensor] = []
        regions: list[torch.Tensor] = []
        for index, (image, boxes_N4) in enumerate(zip(images, boxes, strict=True)):
            original = read_image(image, allow_url=allow_url)
            try:
                checked = self._check_boxes(boxes_N4, original.size, max_regions)
            except BoxError as error:
                raise BoxError(f"image {index}: {error}" if len(images) > 1 else error) from error
            raised = self._raise_sides(original)
            fitted.append(self._limit_side(raised))
            aux_image = self._aux_image(fitted[-1])
            aux.append(torch.from_numpy(self._normalised(aux_image)))
            # The official code leaves boxes alone when it raises a side: they stay in pixels of
            # the original, the smaller frame, and follow every later change of size.
            scaled = scale_boxes(checked, raised.size, aux_image.size)
            regions.append(torch.from_numpy(scaled))
        batch = self._primary(
            images=[self._fit_primary(image) for image in fitted], return_tensors="pt"
        )
        if "image_grid_thw" not in batch:
            batch = self._squares(batch["pixel_values"])
        return BatchFeature({**batch, "aux_pixel_values": aux, "region_boxes": regions})

    def _squares(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Squares by themselves, (B, 3, side, side), with the grid of patches of each."""
        squares = pixel_values.flatten(0, -4)
        patch_size = self.primary["patch_size"]
        grid = [1, squares.shape[-2] // patch_size, squares.shape[-1] // patch_size]
        return {"pixel_values": squares, "image_grid_thw": torch.tensor([grid] * len(squares))}

    @property
    def merge_size(self) -> int:
        """Patches along one side of what becomes one image token."""
        return int(getattr(self._primary, "merge_size", 1))

    def image_tokens(self, image_grid_thw: torch.Tensor) -> list[int]:
        """How many image tokens each image takes in the text.

        Args:
            image_grid_thw: (B, 3) patches in time, height and width.

        Returns:
            B counts.
        """
        return (image_grid_thw.prod(dim=1) // self.merge_size**2).tolist()

    def seen_size(self, size_wh: tuple[int, int]) -> tuple[int, int]:
        """At what size the primary encoder sees an image.

        Args:
            size_wh: Width and height of the image in pixels.

        Returns:
            Width and height in pixels, as far as they are known without the image.
        """
        width, height = self._limited(tuple(max(side, self.min_side) for side in size_wh))
        if self._fits_qwen():
            return self._fitted(width, height)
        side = (self.primary.get("max_image_size") or {}).get("longest_edge")
        return (side, side) if side else (width, height)

    def tokens_of(self, size_wh: tuple[int, int]) -> int:
        """How many image tokens an image takes in the text.

        Args:
            size_wh: Width and height of the image in pixels.
        """
        width, height = self.seen_size(size_wh)
        patch_size = self.primary["patch_size"]
        return (width // patch_size) * (height // patch_size) // self.merge_size**2

    def with_image_size(self, image_size: int | None) -> "FO1ImageProcessor":
        """The same with another `image_size`.

        Raises:
            ConfigError: It is too small.
        """
        return FO1ImageProcessor(**{**self.to_dict(), "image_size": image_size})

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for preprocessor_config.json."""
        values = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return {**values, "primary": dict(self.primary), _TYPE_KEY: type(self).__name__}

    def _check_boxes(
        self, boxes_N4: Any, size_wh: tuple[int, int], most: int | None
    ) -> npt.NDArray[np.float32]:
        if boxes_N4 is None:
            return np.zeros((0, 4), np.float32)
        checked = check_boxes(boxes_N4, size_wh)
        most = self.max_regions if most is None else most
        if len(checked) > most:
            raise BoxError(
                f"{len(checked)} boxes for one image, at most {most} fit: "
                "keep the best by score, e.g. with vlm_fo1.proposers.base.select"
            )
        return checked

    def _raise_sides(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        return _resize(image, (max(width, self.min_side), max(height, self.min_side)))

    def _limit_side(self, image: Image.Image) -> Image.Image:
        return _resize(image, self._limited(image.size))

    def _limited(self, size_wh: tuple[int, ...]) -> tuple[int, int]:
        """A size whose long side is within `max_side`, and which no tower is too large for.

        The short side is `image_size` where that is wanted and fits. That of a very narrow image is
        less in proportion than the towers' first convolutions and the grid of patches can take: it
        gets the least that they can.
        """
        width, height = size_wh
        if self.image_size is not None:
            factor = self.image_size / min(size_wh)
            if self.max_side is not None:
                factor = min(factor, self.max_side / max(size_wh))
            width, height = int(width * factor + 1e-6), int(height * factor + 1e-6)
        elif self.max_side is not None and max(size_wh) > self.max_side:
            factor = self.max_side / max(size_wh)
            width, height = int(width * factor), int(height * factor)
        least = max(self.min_side, math.ceil(max(width, height) / MAX_ASPECT_RATIO))
        return max(width, least), max(height, least)

    def _fit_primary(self, image: Image.Image) -> Image.Image:
        """Bring the image to the primary's size here, where the order of the passes is fixed."""
        return _resize(image, self._fitted(*image.size)) if self._fits_qwen() else image

    def _fits_qwen(self) -> bool:
        return isinstance(self._primary, Qwen2VLImageProcessorPil) and self._primary.do_resize

    def _fitted(self, width: int, height: int) -> tuple[int, int]:
        """Whole patches, within the primary's limits."""
        primary: Any = self._primary
        rows, columns = smart_resize(
            height,
            width,
            factor=primary.patch_size * primary.merge_size,
            min_pixels=primary.size["shortest_edge"],
            max_pixels=primary.size["longest_edge"],
        )
        return columns, rows

    def _aux_image(self, image: Image.Image) -> Image.Image:
        if self.aux_image_aspect_ratio == "dynamic":
            return image
        if self.aux_image_aspect_ratio == "squash":
            side = self.aux_image_size
        else:
            area = image.width * image.height
            side = min(SQUARE_SIDES, key=lambda side: abs(side * side - area))
        return _resize(image, (side, side))

    def _normalised(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """(3, H, W); scaled in float64 and normalised in float32, as the recorded numbers were."""
        unit = (np.asarray(image) * (1 / 255)).astype(np.float32)
        unit -= np.array(self.aux_image_mean, np.float32)
        unit /= np.array(self.aux_image_std, np.float32)
        return np.ascontiguousarray(unit.transpose(2, 0, 1))


def _build_primary(settings: dict[str, Any]) -> BaseImageProcessor:
    # An image processor of transformers by name, in its Pillow form: none needs torchvision.
    values = dict(settings)
    name = values.pop(_TYPE_KEY, None)
    if not isinstance(name, str):
        raise ConfigError(f"primary has no {_TYPE_KEY}: name an image processor of transformers")
    base = name.removesuffix("Fast").removesuffix("Pil")
    kind = getattr(transformers, f"{base}Pil", None) or getattr(transformers, base, None)
    if isinstance(kind, type) and kind.__module__.startswith("transformers.models."):
        # 5.17 shows a placeholder for some that it says need torchvision; their modules do not.
        kind = getattr(importlib.import_module(kind.__module__), base + "Pil", kind)
    if not isinstance(kind, type) or not issubclass(kind, BaseImageProcessor):
        raise ConfigError(f"primary {name!r} is not an image processor of transformers")
    return kind(**values)


def _resize(image: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    """Bicubic, one axis after the other, each rounded to 8 bits.

    Down before across where only the height shrinks, else across first. The recorded numbers were
    made with this order; Pillow's own differs between its versions, and spelling it out keeps the
    result the same under all of them. At hard edges the order shows: up to 17 grey levels.
    """
    if image.size == size_wh:
        return image
    (width, height), bicubic = size_wh, Image.Resampling.BICUBIC
    down_first = height < image.height and width >= image.width
    between = (image.width, height) if down_first else (width, image.height)
    return image.resize(between, bicubic).resize((width, height), bicubic)
