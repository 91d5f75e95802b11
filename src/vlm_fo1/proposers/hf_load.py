"""Loading a detector of transformers without torchvision, and what differs between families."""

import importlib.util
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForZeroShotObjectDetection,
    AutoTokenizer,
)

from vlm_fo1._extras import require
from vlm_fo1.errors import CheckpointError, ConfigError, MissingExtraError


@dataclass(frozen=True, kw_only=True)
class Family:
    """What has to be known of detectors of one ``model_type``."""

    takes_names: bool = False
    is_owl: bool = False
    """Each name is a text of its own, instead of all sharing a sentence."""
    template: str = "{}"
    pads_to_square: bool = False
    """Its boxes are shares of the picture after that was padded to a square."""

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


_OWL = {"takes_names": True, "is_owl": True, "template": "a photo of a {}"}
_CLOSED_SET = (
    *("rt_detr", "rt_detr_v2", "d_fine", "deimv2", "lw_detr"),
    *("detr", "conditional_detr", "deformable_detr", "table-transformer", "yolos"),
)
_FAMILIES = {
    **dict.fromkeys(_CLOSED_SET, Family()),
    "grounding-dino": Family(takes_names=True),
    "mm-grounding-dino": Family(takes_names=True),
    "owlvit": Family(**_OWL),
    "owlv2": Family(**_OWL, pads_to_square=True),
}
_REFUSED = {
    "omdet-turbo": "its processor, and the backbone of its released weights, need torchvision",
    "rf_detr": "its image processor needs torchvision",
}
_UNREADABLE = (SafetensorError, UnpicklingError, OSError, ValueError, RuntimeError, KeyError)


def load_detector(
    source: str,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
) -> tuple[Any, Any, Any]:
    """Model, image processor (the one that works with Pillow) and tokenizer or None.

    Args:
        source: A folder or a Hub id.
        device: By default CUDA where there is one.
        dtype: By default float32 on the CPU, else as saved.
        revision: Branch, tag or commit of a Hub id.

    Raises:
        CheckpointError: No such checkpoint, a file of it that is broken, or weights of another
            network.
        ConfigError: A kind of detector without an adapter, or no such device or dtype here.
        MissingExtraError: It needs a package that is not installed.
    """
    device, dtype = _placed(device, dtype)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{source} holds no detector of transformers: {_first_line(error)}; name a folder with "
            "config.json and weights, or a Hub id such as PekingU/rtdetr_v2_r50vd"
        ) from error
    except ImportError as error:
        raise MissingExtraError(_missing(source, error)) from error
    family = Family.of(config.model_type)
    if config.model_type == "owlv2":
        require("scipy", extra="detectors")  # its image processor resizes with it
    model_class = (
        AutoModelForZeroShotObjectDetection if family.takes_names else AutoModelForObjectDetection
    )
    try:
        model, report = model_class.from_pretrained(
            source, config=config, revision=revision, dtype=dtype, output_loading_info=True
        )
        image_processor = AutoImageProcessor.from_pretrained(
            source, revision=revision, backend="pil"
        )
        tokenizer = None
        if family.takes_names:
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except ImportError as error:
        raise MissingExtraError(_missing(source, error)) from error
    except _UNREADABLE as error:
        raise CheckpointError(f"{source} cannot be loaded: {_first_line(error)}") from error
    _check_report(source, model, report)
    return model.to(device), image_processor, tokenizer


def _placed(
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, torch.dtype | str]:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {str(device)!r} cannot be used here ({_first_line(error)}): leave it out, or "
            "run `fo1 doctor` to see what there is"
        ) from error
    if dtype is None:
        return place, torch.float32 if place.type == "cpu" else "auto"
    known = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if dtype != "auto" and not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise ConfigError(
            f"dtype {str(dtype)!r} is none that weights can have: float32, bfloat16, float16 or "
            "auto is needed"
        )
    return place, known or "auto"


def _check_report(source: str, model: Any, report: dict[str, Any]) -> None:
    """Refuse weights that leave a parameter random.

    Raises:
        CheckpointError: With the names of such parameters.
    """
    parameters = {name for name, _ in model.named_parameters()}
    missing = sorted(parameters & set(report["missing_keys"]))
    other = [str(key[0]) for key in report.get("mismatched_keys") or ()]
    if missing or other:
        names = [*missing, *other]
        raise CheckpointError(
            f"the weights of {source} are of another network: {len(names)} of {len(parameters)} "
            f"tensors are missing or of another shape: {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}"
        )


def _missing(source: str, error: ImportError) -> str:
    reason = _first_line(error)
    if "timm" in str(error) and importlib.util.find_spec("timm") is None:
        reason = (
            "its backbone is one of timm, which brings torchvision and is not used here; take a "
            "revision without (facebook/detr-resnet-50 has one: revision='no_timm'), or another "
            "detector"
        )
    return f"{source} cannot be loaded: {reason}"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
