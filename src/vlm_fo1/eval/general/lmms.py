"""For lmms-eval: ``--model vlm_fo1 --model_args model=FOLDER`` once both are installed.

lmms-eval finds `manifest` by its entry point; the class is made when it asks for it, so that this
module can be imported without lmms-eval.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlm_fo1._extras import require
from vlm_fo1.errors import FO1Error, PromptError, item_errors
from vlm_fo1.eval.general.chat import Part, chat, image_of

logger = logging.getLogger(__name__)

MODEL_ID = "vlm_fo1"
_TOKENS = 1024
"""New tokens where a task sets no limit."""


def manifest() -> Any:
    """What lmms-eval's registry takes, by the entry point group ``lmms_eval.models``.

    Raises:
        MissingExtraError: lmms-eval is not installed.
    """
    registry = require("lmms_eval.models.registry_v2", extra="lmms")
    return registry.ModelManifest(
        model_id=MODEL_ID, chat_class_path=f"{__name__}.LmmsFO1", aliases=("vlm-fo1",)
    )


def parts_of(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[Part]]:
    """System message and question of a conversation of one turn.

    Args:
        messages: Each with ``role`` and ``content``: a text, or ``{"type", "text" | "url"}`` each.

    Raises:
        PromptError: A video or a sound, which this model does not take.
    """
    system: str | None = None
    parts: list[Part] = []
    for message in messages:
        content = message["content"]
        found = list(_contents([content] if isinstance(content, str) else content))
        if message["role"] == "system":
            system = "\n".join(part for part in found if isinstance(part, str))
        else:
            parts += found
    return system, parts


def _contents(content: Sequence[Any]) -> Iterator[Part]:
    for one in content:
        if isinstance(one, str):
            yield one
        elif one["type"] == "text":
            yield one["text"]
        elif one["type"] == "image":
            yield image_of(one.get("url", one.get("image")))
        else:
            raise PromptError(f"the question holds a {one['type']}: images and texts are taken")


def answer_all(fo1: Any, requests: Sequence[Any], task_dict: Mapping[str, Any], hook: Any) -> Any:
    """Texts for requests of lmms-eval's chat form, in their order; one that fails is empty.

    Args:
        fo1: The model.
        requests: Each with ``args``: context, doc_to_messages, options, doc_id, task, split.
        task_dict: Documents by task and split.
        hook: Caches each answer, or None.
    """
    answers: list[str] = []
    for request in requests:
        context, to_messages, options, document, task, split = request.args
        try:
            with item_errors("the question"):
                system, parts = parts_of(to_messages(task_dict[task][split][document]))
                until = options.get("until") or ()
                text = chat(
                    fo1,
                    parts,
                    system=system,
                    max_new_tokens=options.get("max_new_tokens") or _TOKENS,
                    until=[until] if isinstance(until, str) else until,
                )
        except FO1Error as error:
            logger.warning("%s %s: %s: it is answered with nothing", task, document, error)
            text = ""
        answers.append(text)
        if hook is not None:
            hook.add_partial("generate_until", (context, options), text)
    return answers


def _model_class() -> type:
    """The class that lmms-eval loads."""
    base = require("lmms_eval.api.model", extra="lmms").lmms

    class LmmsFO1(base):
        """VLM-FO1 as a chat model of lmms-eval.

        Args:
            model: A folder, a Hub id, or "tiny".
            device: See `FO1.from_pretrained`.
            dtype: See `FO1.from_pretrained`.
            others: What lmms-eval passes to every model.
        """

        is_simple = False

        def __init__(
            self, model: str = "tiny", device: str | None = None, dtype: str | None = None,
            **others: Any,
        ) -> None:  # fmt: skip
            super().__init__()
            from vlm_fo1.fo1 import FO1

            self.fo1 = FO1.from_pretrained(model, device=device, dtype=dtype)
            self.batch_size_per_gpu = int(others.get("batch_size") or 1)

        @property
        def batch_size(self) -> int:
            """As it was asked for."""
            return self.batch_size_per_gpu

        @property
        def device(self) -> Any:
            """Where the model is."""
            return self.fo1.model.device

        def generate_until(self, requests: Sequence[Any]) -> Any:
            """See `answer_all`."""
            return answer_all(self.fo1, requests, self.task_dict, self.cache_hook)

        def loglikelihood(self, requests: Sequence[Any]) -> Any:
            """Not offered.

            Raises:
                NotImplementedError: Always.
            """
            raise NotImplementedError(f"{len(requests)} likelihoods: choose a task that generates")

        def generate_until_multi_round(self, requests: Sequence[Any]) -> Any:
            """Not offered.

            Raises:
                NotImplementedError: Always.
            """
            raise NotImplementedError(f"{len(requests)} conversations: choose a task of one round")

    return LmmsFO1


def __getattr__(name: str) -> Any:
    """The class, made when lmms-eval asks for it.

    Raises:
        AttributeError: Another name.
    """
    if name == "LmmsFO1":
        return _model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
