"""How a host VLM wants one question about one image to be wrapped, as data."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from vlm_fo1.errors import ConfigError
from vlm_fo1.prompts import SYSTEM


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    r"""The fixed text of a prompt; the default is that of the released checkpoints.

    A prompt is `opening`, then (with an image) `before_image` IMAGE `after_image`, then (with
    regions) the tagged regions and `after_regions`, then the question and `closing`. A host that
    starts with a BOS token has it written in `opening`. Another host is another value::

        ChatFormat(opening="<|im_start|>user\n")  # no system turn

    Source: REFERENCE, "Preprocessing and prompt".
    """

    opening: str = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    """Everything up to what the user shows or asks."""
    before_image: str = "<|vision_start|>"
    """Stands right before the image; absent without one."""
    after_image: str = "<|vision_end|>\n"
    """Stands right after the image; absent without one."""
    after_regions: str = "\n"
    """Ends the line of regions; absent without regions."""
    closing: str = "<|im_end|>\n<|im_start|>assistant\n"
    """Everything between the question and the answer."""
    image_token: str = "<|image_pad|>"
    """The token that one merged image patch takes the place of."""
    stop_token: str = "<|im_end|>"
    """The token that ends an answer."""

    def __post_init__(self) -> None:
        """Refuse what no prompt can be made from.

        Raises:
            ConfigError: A token that is empty.
        """
        if not self.image_token or not self.stop_token:
            raise ConfigError("chat.image_token and chat.stop_token must not be empty")

    def control_tokens(self) -> list[str]:
        """What stands in angle brackets in the fixed text, each once: tokens that must be whole."""
        image = self.before_image + self.after_image
        text = self.opening + image + self.after_regions + self.closing
        return list(dict.fromkeys(re.findall(r"<[^<>\s]+>", text)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a configuration file; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ChatFormat":
        """Inverse of `to_dict`; missing keys take their defaults.

        Raises:
            ConfigError: An unknown key, or a value that is not text.
        """
        known = [item.name for item in fields(cls)]
        for key, value in values.items():
            if key not in known:
                raise ConfigError(f"chat has no {key!r}: it has {', '.join(known)}")
            if not isinstance(value, str):
                raise ConfigError(f"chat.{key} is {type(value).__name__}, a text is needed")
        return cls(**values)
