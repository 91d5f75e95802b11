"""What may differ from one UPN to another, and what may not."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers import DeformableDetrConfig, ResNetConfig, SwinConfig

from vlm_fo1.config import build
from vlm_fo1.errors import ConfigError

PROMPTS = ("fine_grained", "coarse_grained")
"""What to look for: every object and part, or whole objects only."""

WIDTH = 256
"""Channels of the transformer."""
LEVELS = 5
"""Feature maps: four of the backbone, and one of half the last one's size."""
EPS = 1e-5
"""Of every LayerNorm and GroupNorm."""

_FIXED: Mapping[str, Any] = {
    "type": "UPN",
    "dec_pred_bbox_embed_share": True,
    "vision_backbone_cfg.dilation": False,
    "vision_backbone_cfg.backbone_cfg.type": "SwinTransformer",
    "vision_backbone_cfg.backbone_cfg.patch_size": 4,
    "vision_backbone_cfg.backbone_cfg.in_chans": 3,
    "vision_backbone_cfg.backbone_cfg.mlp_ratio": 4.0,
    "vision_backbone_cfg.backbone_cfg.qkv_bias": True,
    "vision_backbone_cfg.backbone_cfg.qk_scale": None,
    "vision_backbone_cfg.backbone_cfg.ape": False,
    "vision_backbone_cfg.backbone_cfg.patch_norm": True,
    "vision_backbone_cfg.backbone_cfg.out_indices": [0, 1, 2, 3],
    "vision_backbone_cfg.backbone_cfg.dilation": False,
    "vision_backbone_cfg.position_embedding_cfg.normalize": True,
    "vision_backbone_cfg.position_embedding_cfg.num_pos_feats": 128,
    "vision_backbone_cfg.position_embedding_cfg.temperatureH": 20,
    "vision_backbone_cfg.position_embedding_cfg.temperatureW": 20,
    "transformer_cfg.encoder_cfg.encoder_layer_cfg.activation": "relu",
    "transformer_cfg.encoder_cfg.encoder_layer_cfg.d_model": WIDTH,
    "transformer_cfg.encoder_cfg.encoder_layer_cfg.n_levels": LEVELS,
    "transformer_cfg.decoder_cfg.decoder_layer_cfg.activation": "relu",
    "transformer_cfg.decoder_cfg.decoder_layer_cfg.d_model": WIDTH,
    "transformer_cfg.decoder_cfg.decoder_layer_cfg.n_levels": LEVELS,
    "transformer_cfg.decoder_cfg.rm_dec_query_scale": True,
    "transformer_cfg.learnable_tgt_init": True,
    "transformer_cfg.random_refpoints_xy": False,
    "transformer_cfg.num_feature_levels": LEVELS,
    "transformer_cfg.two_stage_type": "standard",
    "transformer_cfg.two_stage_bbox_embed_share": False,
    "transformer_cfg.two_stage_keep_all_tokens": False,
    "transformer_cfg.two_stage_learn_wh": False,
    "transformer_cfg.binary_query_selection": False,
}
"""What the official configuration has to say where it says anything."""


@dataclass(frozen=True, kw_only=True)
class UPNConfig:
    """Sizes of a UPN; the defaults are UPN-large's."""

    embed_dim: int = 192
    """Channels of the backbone's first stage; each further one has twice as many."""
    depths: tuple[int, ...] = (2, 2, 18, 2)
    """Blocks of each backbone stage."""
    backbone_heads: tuple[int, ...] = (6, 12, 24, 48)
    """Attention heads of each backbone stage."""
    window: int = 12
    """Side of an attention window, in cells of the map."""
    encoder_layers: int = 6
    """Layers that refine the maps."""
    decoder_layers: int = 6
    """Layers that refine the boxes."""
    heads: int = 8
    """Heads of deformable attention and of the queries' self-attention."""
    points: int = 4
    """Sampling points per head and level."""
    ffn_dim: int = 2048
    """Hidden channels of the transformer's feed-forward networks."""
    queries: int = 900
    """Boxes that come out; fewer where the maps have fewer cells."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ConfigError: A size below 1, stages that differ in number, or heads that do not divide.
        """
        if not len(self.depths) == len(self.backbone_heads) == LEVELS - 1:
            raise ConfigError(
                f"depths = {self.depths} and backbone_heads = {self.backbone_heads}: "
                f"one number for each of {LEVELS - 1} stages is needed"
            )
        for name, value in asdict(self).items():
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ConfigError(f"{name} = {value}: at least 1 is needed")
        for channels, heads in [
            *((self.embed_dim * 2**stage, n) for stage, n in enumerate(self.backbone_heads)),
            (WIDTH, self.heads),
        ]:
            if channels % heads:
                raise ConfigError(f"{channels} channels do not divide into {heads} heads")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "UPNConfig":
        """Read `to_dict`'s values, or an official configuration.

        Args:
            values: Ours; or the official keys, bare or under ``model``.

        Raises:
            ConfigError: An unknown key, or an official option that is not supported.
        """
        official = values.get("model", values)
        if isinstance(official, Mapping) and "transformer_cfg" in official:
            return _from_official(official)
        if values.get("model_type") != "upn":
            raise ConfigError(
                f"this is no UPN's configuration (model_type {values.get('model_type')!r}): 'upn', "
                "or the official 'transformer_cfg', is needed"
            )
        return build(cls, {key: value for key, value in values.items() if key != "model_type"})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``config.json``."""
        return {"model_type": "upn", **asdict(self)}

    def swin(self) -> SwinConfig:
        """The backbone for transformers' Swin modules."""
        return SwinConfig(
            image_size=384,
            embed_dim=self.embed_dim,
            depths=self.depths,
            num_heads=self.backbone_heads,
            window_size=self.window,
            drop_path_rate=0.0,
            layer_norm_eps=EPS,
        )

    def detr(self) -> DeformableDetrConfig:
        """Both stacks for transformers' Deformable DETR modules; its backbone is not used."""
        config = DeformableDetrConfig(
            backbone_config=ResNetConfig(),
            d_model=WIDTH,
            encoder_ffn_dim=self.ffn_dim,
            decoder_ffn_dim=self.ffn_dim,
            encoder_attention_heads=self.heads,
            decoder_attention_heads=self.heads,
            encoder_n_points=self.points,
            decoder_n_points=self.points,
            num_feature_levels=LEVELS,
            dropout=0.0,
            activation_function="relu",
        )
        config._attn_implementation = "sdpa"  # noqa: SLF001 - as PreTrainedModel sets it
        return config


def _from_official(values: Mapping[str, Any]) -> UPNConfig:
    """From the official keys.

    Raises:
        ConfigError: An option is missing, or has a value that no published UPN has.
    """
    for path, wanted in _FIXED.items():
        found = _at(values, path, wanted)
        if found != wanted:
            raise ConfigError(f"{path} = {found!r} is not supported: published UPNs have {wanted}")
    swin = "vision_backbone_cfg.backbone_cfg."
    encoder = "transformer_cfg.encoder_cfg."
    decoder = "transformer_cfg.decoder_cfg."
    for name in ("n_heads", "n_points", "d_ffn"):
        first = _at(values, f"{encoder}encoder_layer_cfg.{name}")
        second = _at(values, f"{decoder}decoder_layer_cfg.{name}")
        if first != second:
            raise ConfigError(
                f"{name} is {first} in the encoder and {second} in the decoder: published UPNs "
                "have the same in both"
            )
    layer = f"{encoder}encoder_layer_cfg."
    return UPNConfig(
        embed_dim=_at(values, f"{swin}embed_dim"),
        depths=tuple(_at(values, f"{swin}depths")),
        backbone_heads=tuple(_at(values, f"{swin}num_heads")),
        window=_at(values, f"{swin}window_size"),
        encoder_layers=_at(values, f"{encoder}num_layers"),
        decoder_layers=_at(values, f"{decoder}num_layers"),
        heads=_at(values, f"{layer}n_heads"),
        points=_at(values, f"{layer}n_points"),
        ffn_dim=_at(values, f"{layer}d_ffn"),
        queries=_at(values, "transformer_cfg.num_queries"),
    )


_NEEDED = object()


def _at(values: Any, path: str, default: Any = _NEEDED) -> Any:
    """What is at a dotted path.

    Raises:
        ConfigError: Nothing, and there is no default.
    """
    for key in path.split("."):
        if not isinstance(values, Mapping) or key not in values:
            if default is _NEEDED:
                raise ConfigError(f"the configuration lacks {path}: pass config=UPNConfig(...)")
            return default
        values = values[key]
    return values
