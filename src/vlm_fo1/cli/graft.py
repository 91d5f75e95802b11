"""`fo1 graft`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlm_fo1.cli import options
from vlm_fo1.cli.running import shown
from vlm_fo1.errors import ConfigError


def command(
    host: Annotated[str, typer.Argument(help="The host VLM: its folder or Hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for the new model; must not hold one.")],
    auxiliary: Annotated[
        str | None,
        typer.Option(
            help="Auxiliary tower: davit-tiny, davit-base or davit-large.",
            show_default="davit-base, or what --auxiliary-weights holds",
        ),
    ] = None,
    auxiliary_weights: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of a Florence-2 whose vision tower to start from.",
            show_default="random",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the host.", show_default=False)
    ] = None,
    token: options.Token = None,
    dtype: Annotated[
        str, typer.Option(help="bfloat16, float32, ..., or auto for the host's own.")
    ] = "auto",
    max_regions: Annotated[int, typer.Option(min=1, help="Region tags to add.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the new, random weights.")] = 0,
) -> None:
    """Make an untrained VLM-FO1 from another vision-language model.

    The host keeps its weights and its answers; what is new has to be trained.

    fo1 graft Qwen/Qwen3-VL-2B-Instruct --auxiliary-weights microsoft/Florence-2-base --out grafted
    """
    errors = Console(stderr=True)
    with shown(errors):
        _check_free(out)
        with errors.status("grafting"):
            import torch

            from vlm_fo1.graft import graft_host
            from vlm_fo1.markup import Vocabulary

            torch.manual_seed(seed)
            model, processor = graft_host(
                host,
                revision=revision,
                token=token,
                dtype=dtype,
                vocabulary=Vocabulary(max_regions=max_regions),
                auxiliary=auxiliary,
                auxiliary_weights=auxiliary_weights,
            )
            model.save_pretrained(out)
            processor.save_pretrained(out)
    new = [part for name, part in model.named_parameters() if not name.startswith("host.")]
    count = sum(part.numel() for part in new)
    errors.print(
        f"{out}: {count / 1e6:.1f} million new weights to train", soft_wrap=True, markup=False
    )


def _check_free(out: Path) -> None:
    """Refuse to write over a model.

    Raises:
        ConfigError: There is one.
    """
    if (out / "config.json").exists():
        raise ConfigError(f"{out} holds a model already: name another folder")
