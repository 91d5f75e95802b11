"""Questions about images with regions to a batch of token ids, and ids back to text."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from vlm_fo1.config import build, plain
from vlm_fo1.errors import BoxError, ConfigError, PromptError
from vlm_fo1.markup import RELEASED, Vocabulary, escape_special_tokens, respelt
from vlm_fo1.processing.chat import ChatFormat, checked_question, place_images
from vlm_fo1.processing.image import FO1ImageProcessor
from vlm_fo1.processing.released import read_released
from vlm_fo1.processing.tokenizer import load_tokenizer
from vlm_fo1.tasks import checked_text

IMAGE_PLACEHOLDER = "<image>"
"""Stands for the image in a prompt made for people."""

_HUB_KEYS = (
    *("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder"),
    "proxies",
)
_SAVED_KEYS = ("vocabulary", "chat", "image_token_id", "region_token_id", "chat_template")


class FO1Processor(ProcessorMixin):
    """Everything a model needs around its tensors: images, boxes, prompts, token ids.

    Args:
        image_processor: Prepares images and boxes.
        tokenizer: The host's tokenizer; it must hold the vocabulary's tags.
        vocabulary: How regions are spelt, or its plain values; the released spelling by default.
        chat: The host's prompt, or its plain values; the released one by default.
        image_token_id: Id that stands for one merged image patch; looked up by default.
        region_token_id: Id that stands for one region feature; looked up by default.
        chat_template: Kept for tools that read it; not used here.

    Raises:
        ConfigError: An id that is neither given nor known to the tokenizer, a control token of the
            chat that the tokenizer splits, or limits on regions that differ.
    """

    image_processor: FO1ImageProcessor

    def __init__(
        self,
        image_processor: FO1ImageProcessor,
        tokenizer: Any,
        vocabulary: Vocabulary | Mapping[str, Any] | None = None,
        chat: ChatFormat | Mapping[str, Any] | None = None,
        image_token_id: int | None = None,
        region_token_id: int | None = None,
        chat_template: Any = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        if isinstance(vocabulary, Mapping):
            vocabulary = build(Vocabulary, vocabulary, "vocabulary")
        if isinstance(chat, Mapping):
            chat = build(ChatFormat, chat, "chat")
        self.vocabulary = RELEASED if vocabulary is None else vocabulary
        self.chat = ChatFormat() if chat is None else chat
        if image_token_id is None:
            image_token_id = self._id_of(self.chat.image_token, "image_token_id")
        if region_token_id is None:
            region_token_id = self._id_of(self.vocabulary.region_feature, "region_token_id")
        self.image_token_id = image_token_id
        self.region_token_id = region_token_id
        self.stop_token_id = self._id_of(self.chat.stop_token, None)
        self._reserved: tuple[int, list[str]] | None = None  # of a tokenizer of that length
        pad = tokenizer.pad_token_id
        self.pad_token_id: int = (
            self.stop_token_id if pad in {None, image_token_id, region_token_id} else pad
        )
        """What fills the shorter rows of a batch: never a placeholder, as some tokenizers have."""
        for token in self.chat.control_tokens():
            self._only_id(token, "chat has it: name the tokens of this tokenizer there")
        if image_processor.max_regions != self.vocabulary.max_regions:
            raise ConfigError(
                f"image_processor.max_regions is {image_processor.max_regions} but the vocabulary "
                f"has {self.vocabulary.max_regions} region tags: give both the same number"
            )

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: Any, **options: Any
    ) -> "FO1Processor":
        """Load from a folder or a Hub repository, ours or a released one.

        Args:
            pretrained_model_name_or_path: A folder that `save_pretrained` wrote, a released folder
                (`model_type` omchat_qwen2_5_vl, tokenizer files, config.json), or a Hub id of
                either.
            options: The Hub's keywords (``revision``, ``cache_dir``, ``token``,
                ``local_files_only``, ``subfolder``, ``force_download``, ``proxies``), and arguments
                of this class that replace what the files say. Others are ignored, as tools pass
                many.

        Returns:
            A new processor.

        Raises:
            CheckpointError: Neither kind of folder, or its tokenizer cannot be loaded.
            MissingExtraError: The tokenizer needs a package that is not installed.
        """
        source = str(pretrained_model_name_or_path)
        hub = {key: options[key] for key in _HUB_KEYS if options.get(key) is not None}
        saved, _ = cls.get_processor_dict(source, **hub)
        if saved.get("processor_class") == cls.__name__:
            values = {key: saved[key] for key in _SAVED_KEYS if key in saved}
            image_processor = FO1ImageProcessor(**saved["image_processor"])
        else:
            image_processor, values = read_released(source, hub)
        values |= {key: options[key] for key in _SAVED_KEYS if key in options}
        tokenizer = load_tokenizer(source, **hub)
        return cls(options.get("image_processor", image_processor), tokenizer, **values)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for processor_config.json."""
        return {
            **super().to_dict(),
            "vocabulary": plain(self.vocabulary),
            "chat": plain(self.chat),
        }

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Any = None,
        questions: str | Sequence[str] | None = None,
        boxes: Any = None,
        *,
        padding: bool = True,
        return_tensors: Literal["pt"] | None = "pt",
        allow_url: bool = False,
    ) -> BatchFeature:
        """Prepare a batch; a row is one question with at most one image.

        Args:
            images: One image for one question, or a list with one entry per question, None where a
                question goes without; whatever `vlm_fo1.images.read_image` takes.
            questions: A question or a list of them. Tags of the vocabulary keep their meaning;
                every other control token is escaped.
            boxes: As `FO1ImageProcessor` takes them: (N, 4) xyxy in pixels of the image, or a list
                of such if `images` is a list.
            padding: Fill rows on the left to one length.
            return_tensors: "pt", or None for lists of ids.
            allow_url: Whether http(s) URLs are fetched.

        Returns:
            ``input_ids`` and ``attention_mask`` (rows, T) int64, and, if any row has an image, the
            keys of `FO1ImageProcessor` with one entry per image, in the order of the rows.

        Raises:
            PromptError: No question, an empty one, numbers of images and questions that differ, or
                rows of different length without padding.
            BoxError: Boxes without an image, or boxes that cannot be used.
        """
        rows = [questions] if isinstance(questions, str) else list(questions or ())
        row_images, row_boxes = _rows(images, boxes, len(rows))
        shown = [index for index, image in enumerate(row_images) if image is not None]
        prepared: dict[str, Any] = {}
        counts, tokens = [0] * len(rows), [0] * len(rows)
        if shown:
            prepared = dict(
                self.image_processor(
                    [row_images[index] for index in shown],
                    [row_boxes[index] for index in shown],
                    allow_url=allow_url,
                )
            )
            per_image = self.image_processor.image_tokens(prepared["image_grid_thw"])
            for position, index in enumerate(shown):
                counts[index] = len(prepared["region_boxes"][position])
                tokens[index] = per_image[position]
        ids = [self.encode_prompt(*row) for row in zip(rows, counts, tokens, strict=True)]
        return BatchFeature({**self._collate(ids, padding, return_tensors), **prepared})

    def prompt(self, question: str, count: int = 0, *, image: bool = True) -> str:
        """The whole prompt as text, with ``<image>`` and the feature placeholder standing in.

        Args:
            question: What the user asks.
            count: Number of regions.
            image: Whether there is an image.

        Returns:
            What the model reads, for people and for tests.

        Raises:
            PromptError: No question, or regions without an image.
            BoxError: More regions than tags.
        """
        pieces = self._pieces(question, count, image)
        stand_ins = [IMAGE_PLACEHOLDER, *[self.vocabulary.region_feature] * count, ""]
        return "".join(
            piece + stand_in
            for piece, stand_in in zip(pieces, stand_ins[-len(pieces) :], strict=True)
        )

    def encode_prompt(self, question: str, count: int = 0, image_tokens: int = 0) -> list[int]:
        """Token ids of a prompt.

        The text between two placeholders is tokenised by itself, without BOS, as in the released
        code: the ids of a piece never depend on what the placeholder stands for.

        Args:
            question: What the user asks.
            count: Number of regions.
            image_tokens: Merged patches of the image; 0 is a prompt without an image.

        Returns:
            Ids with `image_token_id` and `region_token_id` as placeholders.

        Raises:
            PromptError: No question, or regions without an image.
            BoxError: More regions than tags.
        """
        return self.encode_prefix(count, image_tokens) + self.encode_question(
            question, count, image=image_tokens > 0
        )

    def encode_prefix(
        self, count: int, image_tokens: int, *, system: str | None = None
    ) -> list[int]:
        """The part of `encode_prompt` that all questions on one image share.

        It ends with the last placeholder: the text after it is one piece with the question.

        Args:
            count: Number of regions.
            image_tokens: Merged patches of the image; 0 gives an empty list.
            system: A system message in place of the chat's own; control tokens in it are escaped.

        Returns:
            Token ids.

        Raises:
            PromptError: Regions without an image, or a host that takes no system message.
            BoxError: More regions than tags.
        """
        if system is not None:
            checked = checked_text(system, "the system message")
            system = escape_special_tokens(checked, self.vocabulary, self.reserved_tokens())
        pieces = self._shared_pieces(count, image_tokens > 0, system)[:-1]
        if not pieces:
            return []
        fill = [[self.image_token_id] * image_tokens, *[[self.region_token_id]] * count]
        encoded = self._tokenise(pieces)
        return [id_ for ids, slot in zip(encoded, fill, strict=True) for id_ in [*ids, *slot]]

    def encode_question(
        self, question: str, count: int, *, image: bool = True, more_images: Sequence[int] = ()
    ) -> list[int]:
        """The rest of `encode_prompt` after `encode_prefix`.

        Args:
            question: What the user asks. With further images, ``<image_1>`` is where the first of
                them goes, and so on; those that it does not place stand before it, in order.
                ``<image_0>``, the image of the prefix, has its place already and is left out.
            count: Number of regions: with none, the end of the image is part of this piece.
            image: Whether there is an image.
            more_images: Merged patches of each further image.

        Returns:
            Token ids.

        Raises:
            PromptError: No question, regions without an image, or an image in the question that is
                not there or placed twice.
            BoxError: More regions than tags.
        """
        if not more_images:
            return self._tokenise(self._pieces(question, count, image)[-1:])[0]
        chat, (texts, order) = self.chat, place_images(question, len(more_images))
        opened = self._shared_pieces(count, image)[-1]
        pieces = [opened + self._escaped(texts[0]), *map(self._escaped, texts[1:])]
        pieces[-1] += chat.closing
        for place in range(len(order)):
            pieces[place] += chat.before_image
            pieces[place + 1] = chat.after_image + pieces[place + 1]
        slots = [*([self.image_token_id] * more_images[which] for which in order), []]
        encoded = self._tokenise(pieces)
        return [id_ for ids, slot in zip(encoded, slots, strict=True) for id_ in [*ids, *slot]]

    def encode_list_start(self, label: str) -> list[int]:
        """Token ids with which an answer begins a label and opens the list of its regions.

        Args:
            label: As it was asked; its control tokens are escaped.
        """
        (ground, end_ground), (objects, _) = self.vocabulary.ground, self.vocabulary.objects
        plain = escape_special_tokens(label, self.vocabulary, self.reserved_tokens())
        return self._tokenise([f"{ground}{plain}{end_ground}{objects}"])[0]

    def encode_turns(
        self,
        turns: Iterable[tuple[str, str]],
        count: int = 0,
        image_tokens: int = 0,
        *,
        conversation: bool = True,
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Token ids of questions and answers to be learnt from.

        Records are written in the canonical spelling (`markup.RELEASED`); here, and here alone,
        they take that of `vocabulary`. The first question comes in the prompt of `encode_prompt`;
        later ones as a user's next turn, or as if each followed `encode_prefix` itself.

        Args:
            turns: Questions and their answers.
            count: Number of regions.
            image_tokens: Merged patches of the image; 0 for no image.
            conversation: Later questions are further turns.

        Yields:
            Ids of what stands before an answer, and of the answer with the token that ends it.

        Raises:
            PromptError: As `encode_prompt`, of the first question.
            BoxError: More regions than tags.
        """
        opening = self.chat.opening.rpartition(self.chat.stop_token)[2].lstrip("\n")
        for index, turn in enumerate(turns):
            question, answer = (respelt(text, self.vocabulary) for text in turn)
            if index == 0:
                prompt = self.encode_prompt(question, count, image_tokens)
            elif not conversation:
                prompt = self.encode_question(question, count, image=image_tokens > 0)
            else:  # a system turn comes once
                later = f"\n{opening}{self._escaped(question)}{self.chat.closing}"
                prompt = self._tokenise([later])[0]
            yield prompt, [*self._tokenise([self._escaped(answer)])[0], self.stop_token_id]

    def decode(self, ids: Iterable[int] | torch.Tensor) -> str:
        """What the model wrote: special tokens kept, cut before the stop token.

        Args:
            ids: Generated token ids of one row.

        Returns:
            Text for `vlm_fo1.parser`.
        """
        row: list[int] = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
        if self.stop_token_id in row:
            row = row[: row.index(self.stop_token_id)]
        return self.tokenizer.decode(
            row, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def region_tag_ids(self) -> list[int]:
        """The token id of each region tag, by region number.

        Returns:
            `vocabulary.max_regions` ids.

        Raises:
            ConfigError: A tag that the tokenizer does not hold as one token.
        """
        tags = [self.vocabulary.tag(index) for index in range(self.vocabulary.max_regions)]
        ids = self._tokenise(tags)
        if all(len(own) == 1 for own in ids) and len({own[0] for own in ids}) == len(tags):
            return [own[0] for own in ids]
        return [
            self._only_id(tag, "add vocabulary.special_tokens() to the tokenizer") for tag in tags
        ]

    def whole_id(self, token: str) -> int | None:
        """The id of a text that is one token, else None."""
        ids = self._tokenise([token])[0]
        return ids[0] if len(ids) == 1 and self._lookup(token) == ids[0] else None

    def reserved_tokens(self) -> list[str]:
        """Control tokens of the tokenizer and the chat that are not the vocabulary's own."""
        size = len(self.tokenizer)
        if self._reserved is None or self._reserved[0] != size:
            self._reserved = size, self._control_tokens()
        return self._reserved[1]

    def _control_tokens(self) -> list[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        special |= {*self.tokenizer.all_special_tokens, self.chat.image_token, self.chat.stop_token}
        stands_in = self.tokenizer.convert_ids_to_tokens(
            [self.image_token_id, self.region_token_id]
        )
        special |= {token for token in stands_in if token}
        return sorted(special - {*self.vocabulary.special_tokens()})

    def _pieces(self, question: str, count: int, image: bool) -> list[str]:
        """The text before, between and after the placeholders: the image, then each region."""
        *before, last = self._shared_pieces(count, image)
        return [*before, last + self._escaped(checked_question(question)) + self.chat.closing]

    def _shared_pieces(self, count: int, image: bool, system: str | None = None) -> list[str]:
        # What stands before the question; its last piece goes on with the question.
        chat = self.chat
        if count > self.vocabulary.max_regions:
            raise BoxError(
                f"{count} regions, but only {self.vocabulary.max_regions} region tags: "
                "keep the best by score"
            )
        if not image:
            if count:
                raise PromptError(f"{count} regions but no image: regions need an image")
            return [chat.opened(system)]
        pieces = [chat.opened(system) + chat.before_image, chat.after_image]
        for index in range(count):
            pieces[-1] += self.vocabulary.tag(index)
            pieces.append("")
        if count:
            pieces[-1] = chat.after_regions
        return pieces

    def _escaped(self, question: str) -> str:
        # The vocabulary's own tags pass (the templates name regions); between them nothing does.
        return escape_special_tokens(
            question, self.vocabulary, self.reserved_tokens(), keep_markup=True
        )

    def _tokenise(self, pieces: list[str]) -> list[list[int]]:
        return self.tokenizer(pieces, add_special_tokens=False)["input_ids"]

    def _collate(
        self, rows: list[list[int]], padding: bool, return_tensors: str | None
    ) -> dict[str, Any]:
        masks = [[1] * len(row) for row in rows]
        longest = max(map(len, rows))
        if padding:
            masks = [[0] * (longest - len(mask)) + mask for mask in masks]
            rows = [[self.pad_token_id] * (longest - len(row)) + row for row in rows]
        if return_tensors is None:
            return {"input_ids": rows, "attention_mask": masks}
        if any(len(row) != longest for row in rows):
            raise PromptError(
                f"rows have {', '.join(str(len(row)) for row in rows)} tokens: pass padding=True"
            )
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}

    def _lookup(self, token: str) -> int | None:
        found = self.tokenizer.convert_tokens_to_ids(token)
        if found == self.tokenizer.unk_token_id and token != self.tokenizer.unk_token:
            return None
        return found

    def _only_id(self, token: str, remedy: str) -> int:
        # Of a token that must not fall apart: the model knows it whole.
        found = self.whole_id(token)
        if found is None:
            parts = len(self._tokenise([token])[0])
            raise ConfigError(
                f"the tokenizer splits {token} into {parts} tokens, one is needed: {remedy}"
            )
        return found

    def _id_of(self, token: str, argument: str | None) -> int:
        found = self._lookup(token)
        if found is None:
            remedy = f", or pass {argument}" if argument else ""
            raise ConfigError(f"the tokenizer has no token {token}: add it{remedy}")
        return found


def _rows(images: Any, boxes: Any, count: int) -> tuple[list[Any], list[Any]]:
    # One image and one list of boxes, or None, for each of `count` questions.
    if not count:
        raise PromptError("no question given: pass at least one")
    if images is None:
        images = [None] * count
        boxes = [boxes] if count == 1 and boxes is not None else boxes
    elif not isinstance(images, list | tuple):
        images, boxes = [images], [boxes]
    row_boxes = [None] * len(images) if boxes is None else list(boxes)
    if len(images) != count:
        raise PromptError(
            f"{count} questions but {len(images)} images: pass one image per question, "
            "None for a question without"
        )
    if len(row_boxes) != count:
        raise BoxError(
            f"{count} questions but {len(row_boxes)} lists of boxes: pass one per question, "
            "None where there are none"
        )
    for index, (image, its_boxes) in enumerate(zip(images, row_boxes, strict=True)):
        if image is None and its_boxes is not None and len(its_boxes):
            raise BoxError(f"row {index} has {len(its_boxes)} boxes but no image: pass its image")
    return list(images), row_boxes
