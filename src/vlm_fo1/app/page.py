"""The page as a whole: its tabs, what is loaded, and the server that shows it."""

import os
from pathlib import Path
from typing import Any

from vlm_fo1.app import views
from vlm_fo1.app.ask_tab import ask_tab
from vlm_fo1.app.batch_tab import batch_tab
from vlm_fo1.app.context import Context, gradio
from vlm_fo1.app.examples import FOLDER, captions, examples
from vlm_fo1.app.limits import MEGABYTE
from vlm_fo1.app.segment_tab import segment_tab
from vlm_fo1.app.video_tab import video_tab
from vlm_fo1.errors import ConfigError

STATIC = Path(__file__).parent / "static"
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")
STATE_S = 1.0
"""How often the line about what is loaded looks again while a model is loading."""


def build_page(context: Context) -> Any:
    """The page, not shown yet.

    Args:
        context: Its models and limits.

    Returns:
        ``gradio.Blocks``; show it with `serve_page`.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when a page is made
    gr = gradio()
    gr.set_static_paths([FOLDER])  # the examples, wherever this package is installed
    with gr.Blocks(title="VLM-FO1", analytics_enabled=False, delete_cache=(600, 7200)) as page:
        gr.Markdown("# VLM-FO1\nAsk about an image; the answer points at its regions.")
        choice = context.pool.choice()
        state = gr.HTML(views.state(context.pool.state(choice), choice.device), elem_id="fo1-state")
        with gr.Tabs():
            with gr.Tab("Ask", id="ask"):
                chosen = ask_tab(context, state)
            with gr.Tab("SAM 3 + FO1", id="segment"):
                segment_tab(context)
            with gr.Tab("Video", id="video"):
                video_tab(context)
            with gr.Tab("Batch", id="batch"):
                batch_tab(context)
        _tie_state(context, page, chosen, state)
    return page


def _tie_state(context: Context, page: Any, chosen: Any, state: Any) -> None:
    """Load the first model when the page is first looked at, and say how far that is."""
    gr = gradio()
    timer = gr.Timer(STATE_S, active=True)

    def look(model: Any, proposer: Any, device: Any) -> list[Any]:
        choice = context.pool.choice(model, proposer, device)
        shown = views.state(context.pool.state(choice), choice.device)
        return [shown, gr.Timer(active=context.pool.busy(choice))]

    def begin(model: Any, proposer: Any, device: Any) -> list[Any]:
        context.pool.begin(context.pool.choice(model, proposer, device))
        return look(model, proposer, device)

    quiet = {"queue": False, "show_progress": "hidden"}
    page.load(begin, chosen.all, [state, timer], api_name="state", **quiet)
    timer.tick(look, chosen.all, [state, timer], api_name=False, **quiet)
    for field in chosen.all:
        field.input(begin, chosen.all, [state, timer], api_name=False, **quiet)


def serve_page(
    context: Context,
    *,
    host: str = "127.0.0.1",
    port: int | None = 7860,
    share: bool = False,
    queue: int = 64,
    wait: bool = True,
) -> Any:
    """Show the page until the program is stopped.

    Args:
        context: Its models and limits.
        host: Address to listen on; ``0.0.0.0`` lets other machines in.
        port: Where to listen; None takes a free one.
        share: Ask Gradio for a public address. That leaves the machine.
        queue: Most requests that wait.
        wait: Return only when it is stopped.

    Returns:
        The running ``gradio.Blocks``, with ``local_url``.

    Raises:
        ConfigError: The port is taken.
        MissingExtraError: Gradio is not installed.
    """
    gr = gradio()
    page = build_page(context)
    page.queue(max_size=queue, default_concurrency_limit=4)
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            inbrowser=False,
            quiet=True,
            show_error=False,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=["api"],
            max_file_size=int(context.limits.video_mb * MEGABYTE),
            theme=gr.themes.Default(font=FONTS, font_mono=MONO),
            css=(STATIC / "page.css").read_text(encoding="utf-8") + captions(examples()),
            head=f"<script>{script}</script>",
        )
    except OSError as error:
        raise ConfigError(f"nothing can listen on {host}:{port} ({error}): pass --port") from error
    if wait:
        page.block_thread()
    return page
