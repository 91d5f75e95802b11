"""Where an answer is looked at: the controls, the answer itself, and its files."""

from dataclasses import dataclass
from typing import Any

from vlm_fo1.app import views
from vlm_fo1.app.context import KEPT_S, gradio
from vlm_fo1.app.events import Downloads, downloads_row

ANSWER_FILES = {"json": "JSON", "coco": "COCO", "drawn": "Image"}
"""The files of one answer: labels of their buttons by the end of the id."""


@dataclass(frozen=True, kw_only=True)
class AnswerPanel:
    """The components that an answer is shown with."""

    score: Any
    unchosen: Any
    view: Any
    kept: Any
    downloads: Downloads

    @property
    def options(self) -> list[Any]:
        """How it is looked at: the fields of `vlm_fo1.app.views.ViewOptions`."""
        return [self.score, self.unchosen]


def answer_panel(prefix: str, empty: str, *, api_name: str) -> AnswerPanel:
    """Lay out the place of an answer, and draw it again without the model.

    Args:
        prefix: Of the ids.
        empty: What stands there before there is an answer.
        api_name: Of the endpoint that draws again.

    Returns:
        Its components.
    """
    gr = gradio()
    with gr.Row():
        score = gr.Slider(
            0,
            1,
            value=0,
            step=0.01,
            label="Hide proposals that score less",
            elem_id=f"{prefix}-score",
        )
        unchosen = gr.Checkbox(
            label="Show boxes that were not chosen, dimly", elem_id=f"{prefix}-dim"
        )
    shown = AnswerPanel(
        score=score,
        unchosen=unchosen,
        view=gr.HTML(views.note(empty), elem_id=f"{prefix}-view"),
        kept=gr.State(None, time_to_live=KEPT_S),
        downloads=downloads_row(prefix, ANSWER_FILES),
    )

    def look_again(kept: Any, min_score: float, unchosen: bool) -> Any:
        if kept is None:
            return gr.skip()
        return views.result(kept, views.ViewOptions(min_score=min_score, unchosen=unchosen))

    for trigger, name in ((score.change, api_name), (unchosen.change, False)):
        trigger(
            look_again,
            [shown.kept, *shown.options],
            [shown.view],
            api_name=name,
            queue=False,
            show_progress="hidden",
        )
    return shown
