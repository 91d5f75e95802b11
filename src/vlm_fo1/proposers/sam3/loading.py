"""Loading the two networks of a SAM 3 checkpoint, and what both do to a picture.

transformers' own processor of SAM 3 needs torchvision; its image steps are these few lines.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoConfig

from vlm_fo1.errors import CheckpointError, ConfigError


def load_network(
    network: Any,
    source: str,
    kinds: tuple[str, ...],
    *,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    revision: str | None = None,
) -> Any:
    """A network of transformers with every weight from a checkpoint, ready to be asked.

    Args:
        network: Its class.
        source: A folder or a Hub id.
        kinds: Values of the checkpoint's ``model_type`` that hold it.
        device: By default CUDA where there is one.
        dtype: By default float32 on the CPU, else as saved.
        revision: Branch, tag or commit of a Hub id.

    Raises:
        CheckpointError: No such checkpoint, one of another network, or weights that do not fit.
        ConfigError: Nothing to load was named, or no such device or dtype here.
    """
    if not source:
        raise ConfigError(
            "sam3 needs to know what to load: sam3:facebook/sam3 (a gated repository: ask for "
            "access there first), or sam3:FOLDER"
        )
    place, kind = _placed(device, dtype)
    try:
        found = AutoConfig.from_pretrained(source, revision=revision).model_type
        if found not in kinds:
            raise CheckpointError(
                f"{source} holds a model of type {found!r}: one of {', '.join(kinds)} is needed"
            )
        model, report = network.from_pretrained(
            source, revision=revision, dtype=kind, output_loading_info=True
        )
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{source} cannot be loaded as SAM 3: {first_line(error)}; name a folder with "
            "config.json and weights, or a Hub id you have access to"
        ) from error
    known = {name for name, _ in model.named_parameters()}
    missing = sorted(known & set(report["missing_keys"]))
    other = [str(key[0]) for key in report.get("mismatched_keys") or ()]
    if names := [*missing, *other]:
        raise CheckpointError(
            f"the weights of {source} are of another network: {len(names)} of {len(known)} tensors "
            f"are missing or of another shape: {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}"
        )
    return model.to(place).eval()


def pixels_of(image: Image.Image, side: int) -> torch.Tensor:
    """A picture as SAM 3 sees it.

    Args:
        image: Of any size and shape.
        side: Of the square it is stretched to, in pixels.

    Returns:
        (3, side, side) float32 in [-1, 1].
    """
    levels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    square = functional.interpolate(levels, (side, side), mode="bilinear", antialias=True)
    return square[0].float() / 127.5 - 1


def masks_at(
    probabilities: torch.Tensor, size_wh: tuple[int, int], *, threshold: float, step: int = 8
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Small maps as masks at image size, a few at a time so that memory stays small.

    Args:
        probabilities: (N, h, w).
        size_wh: Width and height of the image in pixels.
        threshold: A pixel above it belongs to the thing.
        step: How many at once.

    Returns:
        (N, H, W) bool.
    """
    width, height = size_wh
    masks = np.zeros((len(probabilities), height, width), np.bool_)
    for start in range(0, len(masks), step):
        part = probabilities[None, start : start + step].float()
        large = functional.interpolate(part, (height, width), mode="bilinear", align_corners=False)
        masks[start : start + step] = (large[0] > threshold).cpu().numpy()
    return masks


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its name."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _placed(
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, torch.dtype | str]:
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {str(device)!r} cannot be used here ({first_line(error)}): leave it out, or "
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
