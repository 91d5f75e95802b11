"""What a VLM-FO1 is made of, as data.

A checkpoint is a *host* VLM, an *auxiliary* tower, a region encoder and two connectors; the sizes,
strides, token names and image handling stand here, so another host or a successor with other names
is a configuration. `from_released` makes one from what `families` reads in a released file.
"""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig, Qwen2_5_VLConfig
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

from vlm_fo1.errors import ConfigError
from vlm_fo1.families import FAMILIES, find_family


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
        self.tie_word_embeddings = bool(
            self.tie_word_embeddings or getattr(self.host_config, "tie_word_embeddings", False)
        )
        for unused in ("vocabulary", "auxiliary_image"):  # older files: the processor decides both
            kwargs.pop(unused, None)
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
    """Reads configurations of a released family; what comes out is a plain `FO1Config`.

    A subclass for each of `families.FAMILIES` has its ``model_type``, see `released_configs`.
    """

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Translate a released ``config.json``; keyword arguments as in transformers."""
        return FO1Config.from_dict(from_released(config_dict).to_dict(), **kwargs)


def released_configs() -> list[type[ReleasedConfig]]:
    """A class for each released family, as transformers' ``AutoConfig`` wants them."""
    return [type("ReleasedConfig", (ReleasedConfig,), {"model_type": kind}) for kind in FAMILIES]


def from_released(values: dict[str, Any]) -> FO1Config:
    """Read a released configuration.

    Args:
        values: The contents of a ``config.json`` whose ``model_type`` is one of
            `families.FAMILIES`.

    Returns:
        The same model as our configuration.

    Raises:
        ConfigError: An option that no released checkpoint uses, sizes that contradict, or none.
    """
    arguments, stated = find_family(values.get("model_type")).model_values(values)
    config = FO1Config(**arguments)
    if stated not in (None, config.region_width):
        raise ConfigError(
            f"mm_region_hidden_size = {stated} but the towers give {config.region_width} "
            "(auxiliary stages + pyramid levels): the configuration contradicts itself"
        )
    return config


def pyramid_strides(map_stride: float) -> tuple[float, ...]:
    """Strides of a region pyramid over a host's map: two levels finer, its own, one coarser.

    Args:
        map_stride: Pixels of the primary image per cell of the host's map.

    Returns:
        A value for `RegionConfig.pyramid_strides`: 4, 8, 16, 32 for a stride of 16.
    """
    return (map_stride / 4, map_stride / 2, map_stride, map_stride * 2)
