"""Loading a detector of transformers without torchvision, and what differs between families."""

import importlib.util
from dataclasses import dataclass, replace
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoTokenizer,
)

# By its module: 5.17 shows a placeholder under the short name where torchvision is missing.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from vlm_fo1._extras import require
from vlm_fo1.devices import check_report, placed, reason_of
from vlm_fo1.errors import CheckpointError, ConfigError, MissingExtraError
from vlm_fo1.hub import first_line
from vlm_fo1.proposers.base import DEFAULT_SELECTION


@dataclass(frozen=True, kw_only=True)
class Family:
    """What has to be known of detectors of one ``model_type``."""

    reads: Literal["nothing", "sentence", "texts", "task"] = "nothing"
    """How names reach it: not at all, all in one sentence, each as a text of its own, or so and in
    a task that names all of them."""
    template: str = "{}"
    min_score: float = DEFAULT_SELECTION.min_score
    """Boxes that score less are not used unless the user says otherwise."""
    pads_to_square: bool = False
    """Its boxes are shares of the image after that was padded to a square."""
    outputs: tuple[str, str] = ("logits", "pred_boxes")
    """What its output calls scores before the sigmoid, and boxes."""

    @property
    def takes_names(self) -> bool:
        """Whether it looks for named things."""
        return self.reads != "nothing"

    @classmethod
    def of(cls, model_type: str) -> "Family":
        """The family of a ``model_type``.

        Raises:
            ConfigError: There is no adapter for it; the message says which there are, and why not.
        """
        if model_type in _FAMILIES:
            return _FAMILIES[model_type]
        reason = _REFUSED.get(model_type, "it is no detector with an adapter")
        raise ConfigError(
            f"model type {model_type!r} cannot offer boxes here: {reason}; "
            f"there is {', '.join(sorted(_FAMILIES))}"
        )


_OWL = Family(reads="texts", template="a photo of a {}", min_score=0.05)
_GROUNDING = Family(reads="sentence", min_score=0.15)
_CLOSED_SET = (
    *("rt_detr", "rt_detr_v2", "d_fine", "deimv2", "lw_detr"),
    *("detr", "conditional_detr", "deformable_detr", "table-transformer", "yolos"),
)
_FAMILIES = {
    **dict.fromkeys(_CLOSED_SET, Family()),
    "grounding-dino": _GROUNDING,
    "mm-grounding-dino": _GROUNDING,
    "owlvit": _OWL,
    "owlv2": replace(_OWL, pads_to_square=True),
    "omdet-turbo": Family(reads="task", outputs=("decoder_class_logits", "decoder_coord_logits")),
}
_REFUSED = {"rf_detr": "its image processor needs torchvision"}
_TIMM = (
    "its backbone is one of timm, which brings torchvision and is not used here; take a revision "
    "without (there is one: hf:facebook/detr-resnet-50@no_timm), or another detector"
)
_UNREADABLE = (SafetensorError, UnpicklingError, OSError, ValueError, RuntimeError, KeyError)


def load_detector(
    source: str,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> tuple[Any, Any, Any]:
    """Model, image processor (the one that works with Pillow) and tokenizer or None.

    Args:
        source: A folder or a Hub id.
        device: By default CUDA where there is one.
        dtype: By default float32 on the CPU, else as saved.
        revision: Branch, tag or commit of a Hub id.
        token: For gated and private repositories.

    Raises:
        CheckpointError: No such checkpoint, a file of it that is broken, or weights of another
            network.
        ConfigError: A kind of detector without an adapter, or no such device or dtype here.
        MissingExtraError: It needs a package that is not installed.
    """
    device, dtype = placed(device, dtype)
    hub: dict[str, Any] = {"revision": revision, "token": token}
    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except (OSError, ValueError, KeyError) as error:
        reason = reason_of(source, error, revision)
        raise CheckpointError(
            f"{source} holds no detector of transformers: {reason}; name a folder with "
            "config.json and weights, or a Hub id such as PekingU/rtdetr_v2_r50vd"
        ) from error
    except ImportError as error:
        raise MissingExtraError(_missing(source, error)) from error
    family = Family.of(config.model_type)
    backbone = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", "") == "timm_backbone" and not _has_timm():
        raise MissingExtraError(f"{source} cannot be loaded: {_TIMM}")  # before it is fetched
    if config.model_type == "owlv2":
        require("scipy", extra="detectors")  # its image processor resizes with it
    model_class = (
        AutoModelForZeroShotObjectDetection if family.takes_names else AutoModelForObjectDetection
    )
    try:
        model, report = model_class.from_pretrained(
            source, config=config, dtype=dtype, output_loading_info=True, **hub
        )
        image_processor = AutoImageProcessor.from_pretrained(source, backend="pil", **hub)
        tokenizer = None
        if family.takes_names:
            tokenizer = AutoTokenizer.from_pretrained(source, **hub)
    except ImportError as error:
        raise MissingExtraError(_missing(source, error)) from error
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{source} cannot be loaded: {reason_of(source, error, revision)}"
        ) from error
    check_report(source, model, report)
    return model.to(device), image_processor, tokenizer


def _missing(source: str, error: ImportError) -> str:
    timm = "timm" in str(error) and not _has_timm()
    reason = _TIMM if timm else first_line(error)
    return f"{source} cannot be loaded: {reason}"


def _has_timm() -> bool:
    return importlib.util.find_spec("timm") is not None
