"""What loading a checkpoint of transformers has in common: its place, and that its weights fit."""

from typing import Any

import torch

from vlm_fo1.errors import CheckpointError, ConfigError
from vlm_fo1.hub import first_line, problem_of


def placed(
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, torch.dtype | str]:
    """Where a network goes and in which type.

    Args:
        device: By default CUDA where there is one.
        dtype: By default float32 on the CPU, else ``"auto"``: as saved.

    Raises:
        ConfigError: No such device or dtype here.
    """
    place = torch.device(check_device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    if dtype is None:
        return place, torch.float32 if place.type == "cpu" else "auto"
    return place, dtype if dtype == "auto" else dtype_of(dtype)


def check_device(device: str | torch.device) -> str | torch.device:
    """A device as it is given, if something can be put there.

    Raises:
        ConfigError: No such device here.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such name, or a torch built without it
        raise ConfigError(
            f"device {str(device)!r} cannot be used here ({first_line(error)}): "
            "leave it out, or run `fo1 doctor` to see what there is"
        ) from error
    return device


def dtype_of(dtype: str | torch.dtype) -> torch.dtype:
    """A type that weights can have, by its name or itself.

    Raises:
        ConfigError: None of that name.
    """
    known = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise ConfigError(
            f"dtype {str(dtype)!r} is none that weights can have: "
            "float32, bfloat16, float16 or auto is needed"
        )
    return known


def check_report(source: str, model: Any, report: dict[str, Any]) -> None:
    """Refuse weights that leave a parameter random.

    Args:
        source: Where they came from, for the message.
        model: The network.
        report: What ``from_pretrained(..., output_loading_info=True)`` gives with it.

    Raises:
        CheckpointError: With the names of such parameters.
    """
    parameters = {name for name, _ in model.named_parameters()}
    missing = sorted(parameters & set(report["missing_keys"]))
    other = [str(key[0]) for key in report.get("mismatched_keys") or ()]
    if names := [*missing, *other]:
        raise CheckpointError(
            f"the weights of {source} are of another network: {len(names)} of {len(parameters)} "
            f"tensors are missing or of another shape: {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}"
        )


def reason_of(source: str, error: Exception, revision: str | None = None) -> str:
    """Why a checkpoint of transformers cannot be loaded, in one line.

    Args:
        source: Its folder or Hub id.
        error: What loading it raised.
        revision: That was asked for.
    """
    return problem_of(source, error, revision=revision) or first_line(error)
