"""How a host VLM wants one question about one image to be wrapped, as data."""

import re
from dataclasses import dataclass

from vlm_fo1.errors import ConfigError, PromptError
from vlm_fo1.families.omchat_qwen2_5_vl import CHAT
from vlm_fo1.tasks import checked_text


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    r"""The fixed text of a prompt; the default is that of the released checkpoints.

    A prompt is `opening`, then (with an image) `before_image` IMAGE `after_image`, then (with
    regions) the tagged regions and `after_regions`, then the question and `closing`. A host that
    starts with a BOS token has it written in `opening`. Another host is another value::

        ChatFormat(opening="<|im_start|>user\n")  # no system turn

    Source: REFERENCE, "Preprocessing and prompt".
    """

    opening: str = CHAT["opening"]
    """Everything up to what the user shows or asks."""
    system_opening: str = CHAT["system_opening"]
    """Stands for `opening` where a system message is given, which ``{}`` stands for; empty where
    the host takes none."""
    before_image: str = CHAT["before_image"]
    """Stands right before the image; absent without one."""
    after_image: str = CHAT["after_image"]
    """Stands right after the image; absent without one."""
    after_regions: str = CHAT["after_regions"]
    """Ends the line of regions; absent without regions."""
    closing: str = CHAT["closing"]
    """Everything between the question and the answer."""
    image_token: str = CHAT["image_token"]
    """The token that one merged image patch takes the place of."""
    stop_token: str = CHAT["stop_token"]
    """The token that ends an answer."""

    def __post_init__(self) -> None:
        """Refuse what no prompt can be made from.

        Raises:
            ConfigError: A token that is empty, or no place for a system message.
        """
        if self.system_opening and self.system_opening.count("{}") != 1:
            raise ConfigError(
                f"chat.system_opening {self.system_opening!r} must hold one {{}} for the message, "
                "or be empty"
            )
        if not self.image_token or not self.stop_token:
            raise ConfigError("chat.image_token and chat.stop_token must not be empty")

    def opened(self, system: str | None) -> str:
        """Everything up to what the user shows or asks.

        Args:
            system: A system message in place of the usual one, or None.

        Raises:
            PromptError: The host takes no system message.
        """
        if system is None:
            return self.opening
        if not self.system_opening:
            raise PromptError("this host takes no system message: put it into the question")
        return self.system_opening.replace("{}", system)

    def control_tokens(self) -> list[str]:
        """What stands in angle brackets in the fixed text, each once: tokens that must be whole."""
        image = self.before_image + self.after_image
        text = self.opening + image + self.after_regions + self.closing
        return list(dict.fromkeys(re.findall(r"<[^<>\s]+>", text)))


def checked_question(question: str) -> str:
    """A question that can be asked.

    Raises:
        PromptError: It is no text, or empty.
    """
    if not checked_text(question, "the question").strip():
        raise PromptError("the question is empty: write what you want to know")
    return question


def place_images(question: str, count: int) -> tuple[list[str], list[int]]:
    """A question cut where its images go.

    Args:
        question: With ``<image_1>`` and so on.
        count: How many images there are besides the one of the prefix.

    Returns:
        One text more than images, and the position of each image, in the order of the text.

    Raises:
        PromptError: No question, an image that is not there, or one that is placed twice.
    """
    checked_question(re.sub(r"<image_[0-9]+>", "", checked_text(question, "the question")))
    cut = re.split(r"<image_([0-9]+)>", re.sub(r"<image_0>\n?", "", question))
    texts, named = cut[::2], [int(number) for number in cut[1::2]]
    for number in named:
        if number > count:
            raise PromptError(
                f"<image_{number}> in the question, but there are {count} further images, from "
                "<image_1> on"
            )
        if named.count(number) > 1:
            raise PromptError(f"<image_{number}> stands twice in the question: place it once")
    unnamed = [number for number in range(1, count + 1) if number not in named]
    return [*[""] * len(unnamed), *texts], [number - 1 for number in [*unnamed, *named]]
