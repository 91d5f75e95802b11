"""`FO1ForConditionalGeneration`: a host VLM that reads regions and points at them.

The forward pass is the paper's figure: both towers look at the image, the region encoder turns
boxes into tokens, the splice puts them where the text names them, the host's decoder answers.

Shapes: B rows, T tokens, D width of the language model, V vocabulary, I images, P patches of all
images, N regions of an image, H and W sides of an auxiliary image, L decoder layers (deepstack).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlm_fo1._extras import warn_of_untested_transformers
from vlm_fo1.errors import SpliceError
from vlm_fo1.model.auxiliary import AuxiliaryTower
from vlm_fo1.model.configuration import FO1Config
from vlm_fo1.model.connectors import build_connector
from vlm_fo1.model.generation import CACHE
from vlm_fo1.model.hosts import find_host
from vlm_fo1.model.primary import FeatureMap
from vlm_fo1.model.region_encoder import HybridRegionEncoder
from vlm_fo1.model.splice import EmbeddedPrompt, check_counts, splice, splice_deep
from vlm_fo1.model.weights import load_pretrained


@dataclass(frozen=True)
class EncodedImages:
    """What the language model sees of a batch of images; reusable for many questions."""

    image_tokens: list[Tensor]
    """Per image (n, D)."""
    region_tokens: list[Tensor]
    """Per image (N, D)."""
    image_grid_thw: Tensor
    """(I, 3) frames, rows and columns of patches."""
    deep_tokens: list[Tensor] = field(default_factory=list[Tensor])
    """Per image (n, L, D), see `PrimaryFeatures.deep_tokens`; an empty list for most hosts."""

    def one_by_one(self) -> list["EncodedImages"]:
        """Each image on its own, in memory of its own if there are several."""
        if len(self.image_tokens) == 1:
            return [self]
        return [
            EncodedImages(
                [self.image_tokens[index].clone()],
                [self.region_tokens[index].clone()],
                self.image_grid_thw[index : index + 1].clone(),
                [tokens.clone() for tokens in self.deep_tokens[index : index + 1]],
            )
            for index in range(len(self.image_tokens))
        ]


def _at_once(connector: nn.Module, features: list[Tensor]) -> list[Tensor]:
    """Features of all images through a connector in one call; (n, D) per image."""
    return list(connector(torch.cat(features)).split([len(part) for part in features]))


class FO1ForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """VLM-FO1 on any host that `hosts` has an adapter for.

    Args:
        config: Sizes of everything.
        host_model: The host itself, taken over; a fresh one is built if left out.
    """

    config_class = FO1Config
    base_model_prefix = "host"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _no_split_modules = ["Florence2VisionBlock", "Level"]  # the host's own are added to these

    def __init__(self, config: FO1Config, host_model: PreTrainedModel | None = None) -> None:
        warn_of_untested_transformers()
        super().__init__(config)
        host, regions = config.host, config.regions
        self.host_adapter = find_host(host.model_type)
        self.host: Any = (
            AutoModelForImageTextToText.from_config(host) if host_model is None else host_model
        )
        self.image_connector = build_connector(
            config.image_connector, config.hidden_size, config.hidden_size
        )
        self.auxiliary = AuxiliaryTower(config.auxiliary)
        self.region_encoder = HybridRegionEncoder(
            regions, self.host_adapter.map_channels(host), self.host_adapter.map_stride(host)
        )
        self.region_connector = build_connector(
            config.region_connector, config.region_width, config.hidden_size
        )
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> "FO1ForConditionalGeneration":
        """Load a released folder, one of ours, or a Hub id; see `weights.load_pretrained`."""
        return load_pretrained(cls, pretrained_model_name_or_path, **options)

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | Path, **options: Any
    ) -> None:
        """Save in our own layout, which `from_pretrained` reads; options as in transformers."""
        super().save_pretrained(save_directory, **{"save_original_format": False, **options})

    def get_input_embeddings(self) -> nn.Module:
        """The host's word embeddings."""
        return self.host.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the host's word embeddings, e.g. after adding tokens."""
        self.host.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The host's language-model head."""
        return self.host.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the host's language-model head."""
        self.host.set_output_embeddings(new_embeddings)

    def encode_images(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor | None = None,
        aux_pixel_values: Sequence[Tensor] | Tensor | None = None,
        region_boxes: Sequence[Tensor] | None = None,
    ) -> EncodedImages:
        """Both towers, the region encoder and the connectors.

        Args:
            pixel_values: What the host's image processor makes: flattened patches of all images
                (P, patch values), or squares (I, 3, side, side).
            image_grid_thw: (I, 3) frames, rows and columns of patches, best on the CPU, where
                reading it waits for nothing; None for hosts whose pixels tell it.
            aux_pixel_values: Per image (3, H, W); None if no image has boxes.
            region_boxes: Per image (N, 4) xyxy in auxiliary pixels; None for no boxes at all.

        Returns:
            Tokens per image; (0, D) region tokens for an image without boxes, whose auxiliary
            image is then not looked at.

        Raises:
            SpliceError: No grid, or lists that do not have one entry per image.
        """
        image_grid_thw = self.host_adapter.image_grid(
            self.config.host, pixel_values, image_grid_thw
        )
        images = len(image_grid_thw)
        if region_boxes is None:
            region_boxes = [pixel_values.new_zeros(0, 4)] * images
        if aux_pixel_values is None:
            if any(len(boxes) for boxes in region_boxes):
                raise SpliceError("region_boxes need aux_pixel_values: pass one image per entry")
            aux_pixel_values = [pixel_values.new_zeros(3, 1, 1)] * images
        for name, values in (
            ("aux_pixel_values", aux_pixel_values),
            ("region_boxes", region_boxes),
        ):
            if len(values) != images:
                raise SpliceError(
                    f"{len(values)} {name} for {images} images: pass one entry per image"
                )
        primary = self.host_adapter.encode_images(self.host, pixel_values, image_grid_thw)
        return EncodedImages(
            _at_once(self.image_connector, primary.tokens),
            self._encode_regions(primary.maps, aux_pixel_values, region_boxes),
            image_grid_thw.to(pixel_values.device, non_blocking=True),
            primary.deep_tokens,
        )

    def _encode_regions(
        self,
        maps: Sequence[FeatureMap],
        pixels: Sequence[Tensor] | Tensor,
        boxes: Sequence[Tensor],
    ) -> list[Tensor]:
        """Region tokens (N, D) of each image; one without boxes is not looked at."""
        dtype = maps[0].map_CHW.dtype  # of activations; quantised weights have another
        none = pixels[0].new_zeros((0, self.config.hidden_size), dtype=dtype)
        tokens = [none] * len(boxes)
        shown = [index for index, some in enumerate(boxes) if len(some)]
        if shown:
            features = self.region_encoder(
                self.auxiliary.__call__,
                *([part[index] for index in shown] for part in (pixels, maps, boxes)),
            )
            found = _at_once(self.region_connector, [part.to(dtype) for part in features])
            for index, part in zip(shown, found, strict=True):
                tokens[index] = part
        return tokens

    def get_region_features(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor | None,
        aux_pixel_values: Sequence[Tensor],
        region_boxes: Sequence[Tensor],
    ) -> list[Tensor]:
        """Region tokens as the language model reads them; arguments as in `encode_images`.

        Returns:
            Per image (N, D).
        """
        return self.encode_images(
            pixel_values, image_grid_thw, aux_pixel_values, region_boxes
        ).region_tokens

    def embed_prompt(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        encoded: EncodedImages | None = None,
    ) -> EmbeddedPrompt:
        """Text with image and region tokens in place, and its positions.

        What comes out goes into `forward` (instead of ``input_ids``) or `generate` (with them)::

            model.generate(input_ids, attention_mask, **model.embed_prompt(...))

        Args:
            input_ids: (B, T) with ``config.image_token_id`` once per merged image token and
                ``config.region_token_id`` once per region.
            attention_mask: (B, T), 0 on padding: a placeholder there is none.
            encoded: The images of all rows, in reading order; None for text alone.

        Returns:
            Embeddings with every placeholder replaced, and positions of the whole prompt.

        Raises:
            SpliceError: Placeholders and features differ in number.
        """
        is_image = input_ids == self.config.image_token_id
        is_region = input_ids == self.config.region_token_id
        if attention_mask is not None:  # a tokenizer may pad with a placeholder
            is_image, is_region = (
                is_image & attention_mask.bool(),
                is_region & attention_mask.bool(),
            )
        check_counts(
            is_image.sum(-1).tolist(),
            is_region.sum(-1).tolist(),
            [len(tokens) for tokens in encoded.image_tokens] if encoded else [],
            [len(tokens) for tokens in encoded.region_tokens] if encoded else [],
        )
        embeds = self.get_input_embeddings()(input_ids)
        if encoded is not None:
            embeds = splice(embeds, is_image, encoded.image_tokens)
            embeds = splice(embeds, is_region, encoded.region_tokens)
        positions = self.host_adapter.position_ids(
            self.host,
            input_ids,
            attention_mask,
            encoded.image_grid_thw if encoded else None,
            self.config.image_token_id,
        )
        prompt = EmbeddedPrompt(inputs_embeds=embeds, position_ids=positions)
        if encoded is not None and encoded.deep_tokens:
            prompt["deepstack_embeds"] = splice_deep(embeds, is_image, encoded.deep_tokens)
        return prompt

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        aux_pixel_values: Sequence[Tensor] | Tensor | None = None,
        region_boxes: Sequence[Tensor] | None = None,
        encoded: EncodedImages | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        deepstack_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits for a batch of prompts.

        Args:
            input_ids: (B, T), see `embed_prompt`. Left-pad a batch.
            attention_mask: (B, T), 0 on padding.
            pixel_values: See `encode_images`; images of all rows in reading order, rows may have
                none.
            image_grid_thw: See `encode_images`.
            aux_pixel_values: See `encode_images`.
            region_boxes: See `encode_images`.
            encoded: What `encode_images` returned, instead of the four above.
            position_ids: Positions in the host's shape; worked out for a whole prompt, needed when
                a cache holds part of it.
            cache: Keys and values of earlier tokens; then ``input_ids`` are plain text.
            inputs_embeds: (B, T, D) instead of ``input_ids``, placeholders already replaced.
            deepstack_embeds: (B, T, L, D) to go with ``inputs_embeds``, see `embed_prompt`.
            labels: (B, T) token ids, -100 where no loss is wanted.
            use_cache: Return the cache.
            logits_to_keep: Only the last so many positions (0 for all), or indices of positions.
            past_key_values: The older name of ``cache``.
            **kwargs: Passed to the host's decoder.

        Returns:
            ``logits`` (B, T, V), ``loss`` with labels, the cache under the name that the installed
            transformers has for it (`generation.CACHE`).

        Raises:
            SpliceError: Placeholders and features differ in number, or positions are missing.
        """
        cache = past_key_values if cache is None else cache
        started = cache is not None and cache.get_seq_length() > 0
        if inputs_embeds is not None:
            embeds = inputs_embeds
        elif input_ids is None:
            raise SpliceError("input_ids or inputs_embeds are needed, got neither")
        elif started:
            embeds = self.get_input_embeddings()(input_ids)
        else:
            if encoded is None and pixel_values is not None:
                encoded = self.encode_images(
                    pixel_values, image_grid_thw, aux_pixel_values, region_boxes
                )
            prompt = self.embed_prompt(input_ids, attention_mask, encoded)
            embeds, deepstack_embeds = prompt["inputs_embeds"], prompt.get("deepstack_embeds")
            position_ids = prompt["position_ids"] if position_ids is None else position_ids
        if deepstack_embeds is not None:
            kwargs["deepstack_embeds"] = deepstack_embeds
        if position_ids is None:
            raise SpliceError(
                "position_ids are needed with inputs_embeds or a started cache: "
                "embed_prompt returns those of the prompt"
            )
        outputs = self.host_adapter.decode(
            self.host,
            embeds,
            position_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            **{CACHE: cache},
            **kwargs,
        )
        assert outputs.last_hidden_state is not None
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.get_output_embeddings()(outputs.last_hidden_state[:, keep, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.get_text_config().vocab_size
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: getattr(outputs, CACHE)},
        )

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        aux_pixel_values: Sequence[Tensor] | Tensor | None = None,
        region_boxes: Sequence[Tensor] | None = None,
        encoded: EncodedImages | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **options: Any,
    ) -> Any:
        """Continue a batch of prompts.

        Images and regions are encoded once, and positions travel with the call: nothing is kept on
        the module, so threads may generate on one model at the same time.

        Args:
            input_ids: (B, T) prompts, left-padded; placeholders as in `forward`.
            attention_mask: (B, T), 0 on padding; all ones if left out.
            pixel_values: As in `forward`.
            image_grid_thw: As in `forward`.
            aux_pixel_values: As in `forward`.
            region_boxes: As in `forward`.
            encoded: What `encode_images` returned, instead of the four above.
            cache: Keys and values of the prompts' start, as `forward` returned them.
            past_key_values: The older name of ``cache``.
            **options: As in transformers: ``max_new_tokens``, ``do_sample``, ``streamer``,
                ``logits_processor``, ``num_beams``, ``return_dict_in_generate``, ... With
                ``inputs_embeds`` and the rest of `embed_prompt` nothing is encoded.

        Returns:
            (B, T + new) token ids, prompts first, as transformers gives them.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        cache = past_key_values if cache is None else cache
        if cache is not None:
            options[CACHE] = cache
        if "inputs_embeds" not in options:
            if encoded is None and pixel_values is not None:
                encoded = self.encode_images(
                    pixel_values, image_grid_thw, aux_pixel_values, region_boxes
                )
            options |= self.embed_prompt(input_ids, attention_mask, encoded)
        return super().generate(  # pyright: ignore[reportAttributeAccessIssue]
            input_ids=input_ids, attention_mask=attention_mask, **options
        )

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, *args: Any, position_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Rows repeated for beams; (3, B, T) positions too, which transformers 5.17 gets wrong."""
        input_ids, inputs = super()._expand_inputs_for_generation(expand_size, *args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if position_ids is not None:
            inputs["position_ids"] = position_ids.repeat_interleave(expand_size, dim=-2)
        return input_ids, inputs

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        *,
        inputs_embeds: Tensor | None = None,  # transformers looks for this name in the signature
        is_first_iteration: bool | None = False,
        deepstack_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one decoding step; deepstack belongs to the prompt, so to the first alone."""
        inputs = super().prepare_inputs_for_generation(  # pyright: ignore[reportAttributeAccessIssue]
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration and deepstack_embeds is not None:
            # A cache may hold the start of the prompt: keep what belongs to the rest.
            inputs["deepstack_embeds"] = deepstack_embeds[:, -inputs["inputs_embeds"].shape[1] :]
        return inputs
