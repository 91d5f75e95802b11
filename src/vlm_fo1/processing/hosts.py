"""What a host VLM wants of processing: its chat format and its image settings, as data."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlm_fo1.errors import ConfigError
from vlm_fo1.markup import RELEASED, Vocabulary
from vlm_fo1.processing.chat import ChatFormat
from vlm_fo1.processing.image import FO1ImageProcessor, qwen_primary, square_primary
from vlm_fo1.processing.processor import FO1Processor

_IDEFICS3_CHAT = ChatFormat(
    opening="User:",
    system_opening="System: {}<end_of_utterance>\nUser:",
    before_image="<fake_token_around_image><global-img>",
    after_image="<fake_token_around_image>",
    closing="<end_of_utterance>\nAssistant:",
    image_token="<image>",
    stop_token="<end_of_utterance>",
)
HOST_CHATS = {
    "qwen2_5_vl": ChatFormat(),
    "qwen3_vl": ChatFormat(opening="<|im_start|>user\n"),
    "idefics3": _IDEFICS3_CHAT,
    "smolvlm": _IDEFICS3_CHAT,
}
"""Host ``model_type`` to its chat. Source: the chat templates that the hosts come with."""

_STARTS_WITH_BOS = ("idefics3", "smolvlm")


def chat_for_host(kind: str, tokenizer: Any) -> ChatFormat:
    """The chat of a host, with the BOS token that its tokenizer says where it starts with one.

    Hosts of one type differ there: Idefics3 starts with ``<|begin_of_text|>``, the first SmolVLMs,
    of the same type, with ``<|im_start|>``.

    Args:
        kind: The host's ``model_type``.
        tokenizer: The host's.

    Raises:
        ConfigError: Nothing is known of this type of host, or its tokenizer has no BOS token.
    """
    if kind not in HOST_CHATS:
        raise ConfigError(
            f"no chat format for hosts of type {kind!r}, there are {', '.join(HOST_CHATS)}"
        )
    chat = HOST_CHATS[kind]
    if kind not in _STARTS_WITH_BOS:
        return chat
    if tokenizer.bos_token is None:
        raise ConfigError(
            f"the tokenizer has no BOS token, which prompts of hosts of type {kind!r} start with: "
            "set bos_token in tokenizer_config.json as the host was released"
        )
    bos = tokenizer.bos_token
    return replace(chat, opening=bos + chat.opening, system_opening=bos + chat.system_opening)


_CLIP_MEAN_STD = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_HALF_MEAN_STD = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def processor_for_host(
    host: Mapping[str, Any],
    tokenizer: Any,
    *,
    vocabulary: Vocabulary = RELEASED,
    auxiliary_image: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
    chat: ChatFormat | None = None,
) -> FO1Processor:
    """The processor of a model grafted onto a host.

    Args:
        host: The host's ``config.json``.
        tokenizer: The host's tokenizer, the vocabulary's tokens already added.
        vocabulary: Spelling of the region markup.
        auxiliary_image: ``{"size": 768, "mode": "dynamic"}``.
        preprocessor: The host's ``preprocessor_config.json``: its mean and deviation are taken.
        chat: Instead of `chat_for_host`.

    Returns:
        A new processor.

    Raises:
        ConfigError: Nothing is known of this type of host, or the tokenizer lacks a token of its
            chat.
    """
    kind = str(host.get("model_type"))
    chat = chat_for_host(kind, tokenizer) if chat is None else chat
    aux = dict(auxiliary_image or {})
    given = preprocessor or {}
    images = FO1ImageProcessor(
        primary=_primary(
            kind, host, {key: given[key] for key in _HALF_MEAN_STD if given.get(key) is not None}
        ),
        aux_image_aspect_ratio=aux.get("mode", "dynamic"),
        aux_image_size=aux.get("size", 768),
        max_regions=vocabulary.max_regions,
    )
    return FO1Processor(
        images,
        tokenizer,
        vocabulary=vocabulary,
        chat=chat,
        image_token_id=host.get("image_token_id"),
    )


def _primary(kind: str, host: Mapping[str, Any], colours: dict[str, Any]) -> dict[str, Any]:
    vision = host["vision_config"]
    if not kind.startswith("qwen"):
        return square_primary(
            vision["image_size"],
            patch_size=vision["patch_size"],
            merge_size=host["scale_factor"],
            **{**_HALF_MEAN_STD, **colours},
        )
    standard = _CLIP_MEAN_STD if kind == "qwen2_5_vl" else _HALF_MEAN_STD
    return qwen_primary(
        patch_size=vision["patch_size"],
        temporal_patch_size=vision["temporal_patch_size"],
        merge_size=vision["spatial_merge_size"],
        **{**standard, **colours},
    )
