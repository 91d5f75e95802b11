"""What a VLM-FO1 is made of, as data.

A checkpoint is a *host* VLM, an *auxiliary* tower, a region encoder and two connectors; the sizes,
strides, token names and image handling stand here, so another host or a successor with other names
is a configuration. `from_released` reads the flat ``omchat_qwen2_5_vl`` files.
"""

import copy
import logging
from pathlib import PurePosixPath
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig, Qwen2_5_VLConfig
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from vlm_fo1.errors import ConfigError
from vlm_fo1.markup import RELEASED, flat_released, released_region_token_id

logger = logging.getLogger(__name__)

RELEASED_MODEL_TYPE = "omchat_qwen2_5_vl"


class RegionConfig(PreTrainedConfig):
    """Sizes of the region encoder.

    Args:
        pyramid_channels: Width of each pyramid level.
        pyramid_strides: Stride of each level in primary-image pixels; each is the primary map's
            stride times or divided by a power of two.
        pooling_size: RoIAlign bins per side.
        auxiliary_strides: Stride of each auxiliary stage in auxiliary-image pixels.
        position_temperature: Base of the sine frequencies of the box position.
    """

    model_type = "vlm_fo1_regions"
    __no_type_check__ = True  # takes keywords beside its fields, which run-time checkers refuse

    pyramid_channels: int = 512
    pyramid_strides: list[float] | tuple[float, ...] = (3.5, 7, 14, 28)
    pooling_size: int = 7
    auxiliary_strides: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    position_temperature: float = 10000.0


class FO1Config(PreTrainedConfig):
    """Configuration of `FO1ForConditionalGeneration`.

    Args:
        host_config: The host VLM's own configuration, or its dict with ``model_type``.
        auxiliary_config: Sizes of the auxiliary DaViT.
        region_config: Sizes of the region encoder.
        image_connector: Between the host's merged image tokens and its language model:
            ``identity``, ``linear`` or ``mlpNx_gelu``.
        region_connector: Between a region feature and the language model; same kinds.
        image_token_id: Placeholder of one merged image token in ``input_ids``.
        region_token_id: Placeholder of one region feature in ``input_ids``.
        vocabulary: Spelling of the region markup, see `markup.Vocabulary.to_dict`.
        auxiliary_image: How the auxiliary image is sized: ``{"size": 768, "mode": "dynamic"}``.
    """

    model_type = "vlm_fo1"
    __no_type_check__ = True  # as in RegionConfig
    sub_configs: ClassVar[dict[str, Any]] = {  # pyright: ignore[reportIncompatibleMethodOverride]
        "host_config": AutoConfig,
        "auxiliary_config": Florence2VisionConfig,
        "region_config": RegionConfig,
    }

    host_config: dict[str, Any] | PreTrainedConfig | None = None
    auxiliary_config: dict[str, Any] | PreTrainedConfig | None = None
    region_config: dict[str, Any] | PreTrainedConfig | None = None
    image_connector: str = "identity"
    region_connector: str = "mlp2x_gelu"
    image_token_id: int = 151655
    region_token_id: int | None = None
    vocabulary: dict[str, Any] | None = None
    auxiliary_image: dict[str, Any] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn dicts into configurations and fill what follows from the host."""
        if self.host_config is None:
            self.host_config = Qwen2_5_VLConfig()
        elif isinstance(self.host_config, dict):
            values = dict(self.host_config)
            self.host_config = AutoConfig.for_model(values.pop("model_type"), **values)
        if not isinstance(self.auxiliary_config, PreTrainedConfig):
            self.auxiliary_config = Florence2VisionConfig(**(self.auxiliary_config or {}))
        if not isinstance(self.region_config, PreTrainedConfig):
            self.region_config = RegionConfig(**(self.region_config or {}))
        if self.region_token_id is None:
            self.region_token_id = self.get_text_config().vocab_size - 1
        self.vocabulary = self.vocabulary or RELEASED.to_dict()
        self.auxiliary_image = self.auxiliary_image or {"size": 768, "mode": "dynamic"}
        self.tie_word_embeddings = bool(
            self.tie_word_embeddings or getattr(self.host_config, "tie_word_embeddings", False)
        )
        super().__post_init__(**kwargs)

    @property
    def host(self) -> PreTrainedConfig:
        """``host_config`` after construction."""
        assert isinstance(self.host_config, PreTrainedConfig)
        return self.host_config

    @property
    def auxiliary(self) -> Florence2VisionConfig:
        """``auxiliary_config`` after construction."""
        assert isinstance(self.auxiliary_config, Florence2VisionConfig)
        return self.auxiliary_config

    @property
    def regions(self) -> RegionConfig:
        """``region_config`` after construction."""
        assert isinstance(self.region_config, RegionConfig)
        return self.region_config

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The host's text configuration: what generation and caches are sized by."""
        return self.host.get_text_config(*args, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the language model, so of image and region tokens."""
        return self.get_text_config().hidden_size

    @property
    def region_width(self) -> int:
        """Width of a region feature: auxiliary stages, then pyramid levels."""
        levels = len(self.regions.pyramid_strides)
        return sum(self.auxiliary.embed_dim) + levels * self.regions.pyramid_channels


class ReleasedConfig(FO1Config):
    """Reads ``omchat_qwen2_5_vl`` configurations; what comes out is a plain `FO1Config`."""

    model_type = RELEASED_MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Translate a released ``config.json``; keyword arguments as in transformers."""
        return FO1Config.from_dict(from_released(config_dict).to_dict(), **kwargs)


def pyramid_strides(map_stride: float) -> tuple[float, ...]:
    """Strides of a region pyramid over a host's map: two levels finer, its own, one coarser.

    Args:
        map_stride: Pixels of the primary image per cell of the host's map.

    Returns:
        A value for `RegionConfig.pyramid_strides`: 4, 8, 16, 32 for a stride of 16.
    """
    return (map_stride / 4, map_stride / 2, map_stride, map_stride * 2)


DAVIT_SIZES = {"davit-tiny": (96, 3), "davit-base": (128, 9), "davit-large": (256, 9)}
"""First-stage width, doubled by each later stage, and depth of the third stage, per tower name.

Source: REFERENCE, "The model", for base and large; the DaViT paper for tiny.
"""


def davit_sizes(name: str) -> dict[str, Any]:
    """Sizes of an auxiliary tower by its name, as `Florence2VisionConfig` takes them.

    Raises:
        ConfigError: The name is not known.
    """
    if name not in DAVIT_SIZES:
        raise ConfigError(
            f"no auxiliary tower {name!r}, known are {', '.join(DAVIT_SIZES)}: "
            "take one of these, or give its sizes"
        )
    width, depth = DAVIT_SIZES[name]
    widths = [width * 2**stage for stage in range(4)]
    heads = [width // 32 for width in widths]
    return {
        "depths": [1, 1, depth, 1],
        "embed_dim": widths,
        "num_heads": heads,
        "num_groups": heads,
        "window_size": 12,
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2],
        "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [False, True, True, True],
        "drop_path_rate": 0.0,
    }


def read_davit_sizes(values: dict[str, Any]) -> dict[str, Any]:
    """Sizes of a DaViT as a configuration file spells them, in Florence-2's or the native names.

    Args:
        values: ``vision_config`` of a Florence-2, or ``davit`` of a released checkpoint.

    Returns:
        What `davit_sizes` gives.
    """
    values = {"embed_dim": values.get("dim_embed"), **values, "drop_path_rate": 0.0}
    return {key: values[key] for key in davit_sizes("davit-base") if key in values}


QWEN2_5_VL_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
"""The ViT of Qwen2.5-VL, for a released file that only names its tower."""

_FIXED_OPTIONS = {
    "mm_region_feature_combination": "concat",
    "mm_pos_embedding_strategy": "bbox_based",
    "mm_use_vision_tower_region_feature": True,
    "mm_use_region_index_token": True,
    "mm_apply_position_embedding": True,
    "mm_use_simpleFPN_for_vt": True,
}
"""Options of the official configuration that the released checkpoints use one value of."""

_READ_OPTIONS = {
    "mm_vision_tower",
    "mm_vision_tower_aux",
    "mm_projector_type",
    "mm_projector_aux_type",
    "mm_hidden_size",
    "mm_region_hidden_size",
    "mm_roi_output_size",
    "mm_num_region_tokens",
}


def from_released(values: dict[str, Any]) -> FO1Config:
    """Read the official flat configuration.

    Args:
        values: The contents of a ``config.json`` with ``model_type: omchat_qwen2_5_vl``. Paths in
            it (``mm_vision_tower``) are names, never opened. The values of the language model may
            stand in ``text_config``, as newer versions of transformers write them.

    Returns:
        The same model as our configuration.

    Raises:
        ConfigError: An option that no released checkpoint uses, sizes that contradict, or none.

    Source: REFERENCE, "The model".
    """
    values = flat_released(values)
    if "hidden_size" not in values:
        raise ConfigError("config.json lacks hidden_size, the width of the language model")
    for name, needed in _FIXED_OPTIONS.items():
        if values.get(name, needed) != needed:
            raise ConfigError(
                f"{name} = {values[name]!r} is not supported, only {needed!r}: no released "
                "checkpoint uses it, so there is nothing to check an implementation against"
            )
    for name in values:
        if name.startswith("mm_") and name not in _FIXED_OPTIONS and name not in _READ_OPTIONS:
            logger.info("released configuration: %s = %r is not used here", name, values[name])
    auxiliary = _davit(values)
    region = {"pooling_size": values.get("mm_roi_output_size", 7)}
    if "simple_fpn" in values:
        region["pyramid_channels"] = values["simple_fpn"]["out_channels"]
        region["pyramid_strides"] = values["simple_fpn"]["strides"]
    host = _host(values)
    config = FO1Config(
        host_config=host,
        auxiliary_config=auxiliary,
        region_config=region,
        image_connector=values.get("mm_projector_type", "linear"),
        region_connector=values.get("mm_projector_aux_type", "linear"),
        image_token_id=values.get("image_token_id", 151655),
        region_token_id=released_region_token_id(values),
        vocabulary={**RELEASED.to_dict(), "max_regions": values.get("mm_num_region_tokens", 100)},
        auxiliary_image={
            "size": values.get("aux_image_size", 768),
            "mode": values.get("aux_image_aspect_ratio", "squash"),
        },
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        dtype=values.get("dtype") or values.get("torch_dtype"),
        **{key: values[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")
           if key in values},
    )  # fmt: skip
    stated = values.get("mm_region_hidden_size", config.region_width)
    if stated != config.region_width:
        raise ConfigError(
            f"mm_region_hidden_size = {stated} but the towers give {config.region_width} "
            "(auxiliary stages + pyramid levels): the configuration contradicts itself"
        )
    return config


def _davit(values: dict[str, Any]) -> dict[str, Any]:
    """Sizes of the auxiliary tower: spelt out, or known by the tower's name."""
    if "davit" in values:
        return read_davit_sizes(values["davit"])
    return davit_sizes(
        PurePosixPath(str(values.get("mm_vision_tower_aux", ""))).name.removesuffix(".pth")
    )


_VISION_KEYS = (*QWEN2_5_VL_VISION, "hidden_act", "in_channels", "temporal_patch_size")
_TEXT_KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "hidden_act"),
    *("num_attention_heads", "num_key_value_heads", "attention_dropout", "rms_norm_eps"),
    *("use_sliding_window", "sliding_window", "max_window_layers", "max_position_embeddings"),
    *("rope_theta", "rope_scaling", "rope_parameters", "initializer_range", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
_TOKEN_KEYS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def _host(values: dict[str, Any]) -> Qwen2_5_VLConfig:
    given = values.get("vision_config") or {}
    vision = {**QWEN2_5_VL_VISION, "out_hidden_size": values["hidden_size"]}
    vision |= {key: given[key] for key in (*_VISION_KEYS, "out_hidden_size") if key in given}
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=copy.deepcopy({key: values[key] for key in _TEXT_KEYS if key in values}),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        **{key: values[key] for key in _TOKEN_KEYS if key in values},
    )
