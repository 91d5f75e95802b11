"""`fo1 app`."""

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from vlm_fo1.cli import options
from vlm_fo1.cli.running import shown


def command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="'tiny' for the bundled model, a checkpoint folder, or a Hub id. Repeat it to "
            "choose on the page.",
            show_default="tiny",
        ),
    ] = None,
    proposer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:ARG",
            help="What offers boxes: upn:PATH, sam3:PATH, ocr, ... Repeat it to choose on the "
            "page.",
            show_default="the one that comes with the first model",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="cuda, cuda:1, cpu. Repeat it to choose on the page.",
            show_default="cuda if there is one",
        ),
    ] = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    token: options.Token = None,
    strict: options.Strict = False,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen.")] = 7860,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Ask Gradio for a public address. Everything sent then leaves this machine.",
        ),
    ] = False,
    at_once: Annotated[
        int, typer.Option(min=1, help="Questions that are worked on at the same time.")
    ] = 1,
    queue: Annotated[int, typer.Option(min=1, help="Most requests that wait.")] = 64,
    upload_mb: Annotated[float, typer.Option(help="Largest image, in MiB.")] = 20.0,
    video_mb: Annotated[float, typer.Option(help="Largest video, in MiB.")] = 200.0,
    pixels: Annotated[int, typer.Option(help="Largest image, in pixels.")] = 40_000_000,
) -> None:
    """Show the page: ask about images in a browser.

    Without options it runs on the bundled model, and nothing leaves this machine.

    fo1 app --model omlab/VLM-FO1_Qwen2.5-VL-3B-v01 --proposer upn:resources/upn_large.pth
    """
    errors = Console(stderr=True)
    with shown(errors), errors.status(Text("starting")):
        import vlm_fo1.fo1  # noqa: F401 - before the first visitor waits for it
        from vlm_fo1.app.context import Context
        from vlm_fo1.app.limits import Limits
        from vlm_fo1.app.models import Loading, ModelPool
        from vlm_fo1.app.page import serve_page

        loading = Loading(dtype=dtype, revision=revision, token=token, strict=strict)
        pool = ModelPool(model or ["tiny"], proposer or [], device or [], loading=loading)
        limits = Limits(upload_mb=upload_mb, video_mb=video_mb, pixels=pixels)
        context = Context(pool=pool, limits=limits, at_once=at_once)
        page = serve_page(context, host=host, port=port, share=share, queue=queue, wait=False)
    typer.echo(f"The page is at {page.local_url} (Ctrl+C stops it)")
    if page.share_url:
        typer.echo(f"and, for everybody, at {page.share_url}")
    page.block_thread()
