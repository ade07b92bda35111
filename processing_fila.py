# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Processor of FILA: text and images to model inputs, and conversations to training batches."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import torch
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .configuration_fila import NORMALIZATION_FIELDS, RemoteCodeMixin, get_content_box

AUTO_MAP = {"AutoProcessor": "processing_fila.FilaProcessor"}


class FilaProcessor(ProcessorMixin, RemoteCodeMixin):
    r"""Joins [`FilaImageProcessor`] and a tokenizer.

    In text, each `<image>` stands for one image and is expanded to as many image tokens as the image has visual tokens:
    (1 + R*C) * G * G for R x C tiles and a global view of G x G tokens each.

    Args:
        image_processor ([`FilaImageProcessor`]): the image processor.
        tokenizer (`PreTrainedTokenizerFast`): a tokenizer that knows `image_token` as one special token.
        chat_template (`str`, *optional*): Jinja template of a conversation.
        image_token (`str`, *optional*, defaults to `"<image>"`): the placeholder, unless the tokenizer names its own.

    Raises:
        ValueError: the tokenizer does not have the image token.
    """

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, image_token="<image>", **kwargs):
        self.image_token = getattr(tokenizer, "image_token", None) or image_token
        self.image_token_id = None if tokenizer is None else tokenizer.convert_tokens_to_ids(self.image_token)
        # An unknown token gets the id of the tokenizer's unknown token, or none.
        if self.image_token_id is None or tokenizer.convert_ids_to_tokens(self.image_token_id) != self.image_token:
            raise ValueError(
                f"FilaProcessor needs a tokenizer that has {self.image_token!r} as one token. Add it with "
                f"`tokenizer.add_special_tokens({{'additional_special_tokens': [{self.image_token!r}]}})`, then resize the "
                "model's embeddings and set `image_token_id` in its config."
            )
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def to_dict(self):
        """`dict`: as of every processor, with its `auto_map` whether it has been saved or not."""
        return {**super().to_dict(), "auto_map": AUTO_MAP}

    def for_model(self, config):
        """This processor for one model. Images stay uint8, a quarter of the size of floats, if the model's configuration says
        that it normalises them as this processor would; else they are float32, as always.

        Args:
            config ([`FilaConfig`]): the model's.

        Returns:
            [`FilaProcessor`]: a copy. What it saves is the same as what this one saves.
        """
        processor = copy.copy(self)
        processor.image_processor = copy.copy(self.image_processor)
        processor.image_processor.model_normalization = {
            name: getattr(config, name, None) for name in NORMALIZATION_FIELDS
        }
        return processor

    def prepare_inputs_layout(self, images=None, text=None, **kwargs):
        if isinstance(images, (list, tuple)) and not _flatten(images):
            images = None  # text only, given as an empty list or as an empty list for each prompt
        return super().prepare_inputs_layout(images=images, text=text, **kwargs)

    def validate_inputs(self, images=None, text=None, **kwargs):
        if isinstance(text, list) and not text:
            raise ValueError("`text` is an empty list. Pass at least one prompt.")
        if isinstance(text, list) and all(isinstance(sample, str) for sample in text):
            self._check_image_counts(images, text)
        super().validate_inputs(images=images, text=text, **kwargs)

    def _check_image_counts(self, images, text):
        """Compares images and placeholders sample by sample.

        Raises:
            ValueError: with both counts and the index of the sample.
        """
        placeholders = [sample.count(self.image_token) for sample in text]
        is_nested = isinstance(images, (list, tuple)) and any(isinstance(item, (list, tuple)) for item in images)
        if is_nested and len(images) == len(text):
            counts = [len(_flatten(item)) for item in images]
        else:
            # A flat list is assigned in order. What is left counts for the last sample.
            remaining = len(make_flat_list_of_images(images)) if images is not None else 0
            counts = []
            for expected in placeholders:
                counts.append(min(expected, remaining))
                remaining -= counts[-1]
            counts[-1] += remaining
        for index, (expected, count) in enumerate(zip(placeholders, counts)):
            if expected != count:
                raise ValueError(
                    f"Sample {index} has {expected} {self.image_token} placeholders in its text, but {count} images. The total "
                    f"number of {self.image_token} tokens in the prompts should be the same as the number of images passed. A "
                    "chat template writes one for each image item."
                )

    def replace_image_token(self, image_inputs, image_idx, **images_kwargs):
        """`str`: the image tokens that the placeholder of image `image_idx` is expanded to."""
        height, width = (int(side) for side in image_inputs["image_sizes"][image_idx])
        return self.image_token * self.image_processor.get_number_of_image_tokens(height, width, images_kwargs)

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        """Counts tokens without touching pixels, for serving engines.

        Args:
            image_sizes (`list[tuple[int, int]]`, *optional*): (height, width) of each image.

        Returns:
            [`MultiModalData`] with `num_image_tokens` for each image, and `num_image_patches`, its rows of `pixel_values`:
            always 1, as for LLaVA-NeXT. Engines cut a batch into images by the latter.
        """
        if image_sizes is None:
            return MultiModalData()
        processor = self.image_processor
        return MultiModalData(
            num_image_tokens=[processor.get_number_of_image_tokens(*size, kwargs) for size in image_sizes],
            num_image_patches=[1] * len(image_sizes),
        )

    def draw_view(self, inputs, view="canvas", index=0, heat=None):
        """Draws what the ViT gets of an image.

        Args:
            inputs (`dict`): output of this processor or of its image processor.
            view (`str`): `"canvas"`, the tiles with red cuts and gray padding, or `"global_view"`.
            index (`int`): which image of the batch.
            heat (`torch.Tensor` of shape `(rows, columns)`, *optional*): one of the maps of
                [`~FilaForConditionalGeneration.get_fusion_maps`] for this view, laid over it. Red is its largest value.

        Returns:
            `PIL.Image`, with the pixels of the views.

        Raises:
            ValueError: a canvas of an image that is not tiled, or an unknown view.
        """
        rows, columns = (int(count) for count in inputs["image_grids"][index])
        if view not in ("canvas", "global_view") or (view == "canvas" and not rows):
            allowed = "'canvas' or 'global_view'" if rows else "'global_view': the image is not tiled"
            raise ValueError(f"view={view!r} cannot be drawn. Allowed: {allowed}.")
        if view == "global_view":
            rows = columns = 1
        views, processor = torch.as_tensor(inputs["pixel_values"][index]).cpu(), self.image_processor
        views = views[1 : 1 + rows * columns] if view == "canvas" else views[:1]
        is_raw, views = views.dtype == torch.uint8, views.float()
        if processor.do_normalize and not is_raw:
            mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (processor.image_mean, processor.image_std))
            views = views * std + mean
        if (processor.do_normalize or processor.do_rescale) and not is_raw:
            views = views * 255
        # row, column, channel, y, x -> row y, column x, channel
        pixels = views[:, :3].clamp(0, 255).round().byte().unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
        pixels = pixels.flatten(2, 3).flatten(0, 1).numpy().copy()
        size, (height, width) = views.shape[-1], pixels.shape[:2]
        if view == "canvas":
            image_size = [int(side) for side in inputs["image_sizes"][index]]
            top, left, content_height, content_width = get_content_box(image_size, (height, width))
            is_padding = np.ones((height, width), bool)
            is_padding[top : top + content_height, left : left + content_width] = False
            pixels[is_padding] = 200
        picture = PIL.Image.fromarray(pixels)
        if heat is not None:
            heat = torch.as_tensor(heat).float()
            heat = (heat / heat.max().clamp(min=1e-9) * 200).round().byte().cpu().numpy()
            mask = PIL.Image.fromarray(heat).resize(picture.size, PIL.Image.Resampling.NEAREST)
            picture = picture.convert("L").convert("RGB")
            picture.paste((230, 0, 0), mask=mask)
        pen = PIL.ImageDraw.Draw(picture)
        for x in range(size, width, size):
            pen.line([(x, 0), (x, height)], "red", max(1, size // 150))
        for y in range(size, height, size):
            pen.line([(0, y), (width, y)], "red", max(1, size // 150))
        return picture


class SequenceTooLongError(ValueError):
    """Within `max_length`, a conversation leaves nothing to learn."""


@dataclass
class FilaDataCollator(RemoteCodeMixin):
    r"""Makes training batches of conversations. Only the turns of the assistant are learnt.

    Works with the stock `Trainer` (with `remove_unused_columns=False`). An example is a dict with

    - `messages`: a conversation; the content of a message is a string, or a list of `{"type": "text", "text": ...}` and
      `{"type": "image"}` items. An image item may carry its image under `"image"`, `"url"`, `"path"` or `"base64"`;
    - `images` (optional): the images of the items that carry none, in order.

    Examples with several images, with one and with none may share a batch.

    Args:
        processor ([`FilaProcessor`]): its chat template must mark assistant turns with `{% generation %}`. With one from
            [`~FilaProcessor.for_model`], images travel to the model as uint8.
        max_length (`int`, *optional*): longest sequence, in tokens. Longer ones lose text at their end, never image tokens.
    """

    processor: ProcessorMixin
    max_length: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Returns:
            `dict`: `input_ids`, `attention_mask` and `labels` of shape (batch_size, length), padded on the right, and
            what the image processor returns if there is any image.

        Raises:
            ValueError: [`~FilaDataCollator.encode`] rejects an example, or its images and image items differ in number. The
                message gives its index in the batch.
        """
        if not examples:
            raise ValueError("The batch is empty. Pass at least one example.")
        images_of = [_conversation_images(example, index) for index, example in enumerate(examples)]
        images = _flatten(images_of)
        inputs = self.processor.image_processor(images, return_tensors="pt") if images else {}
        image_sizes = iter(inputs["image_sizes"].tolist() if images else [])

        sequences, labels = [], []
        for index, example in enumerate(examples):
            try:
                encoded = self.encode(example["messages"], [next(image_sizes) for _ in images_of[index]])
            except ValueError as error:
                raise type(error)(f"Example {index} of the batch {error}") from error
            sequences.append(torch.tensor(encoded["input_ids"]))
            labels.append(torch.tensor(encoded["labels"]))

        pad_token_id = self.processor.tokenizer.pad_token_id
        pad = torch.nn.utils.rnn.pad_sequence
        masks = [torch.ones_like(sequence) for sequence in sequences]
        return {
            "input_ids": pad(sequences, batch_first=True, padding_value=0 if pad_token_id is None else pad_token_id),
            "attention_mask": pad(masks, batch_first=True, padding_value=0),
            "labels": pad(labels, batch_first=True, padding_value=-100),
            **inputs,
        }

    def encode(self, messages: list[dict[str, Any]], image_sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
        """Tokenizes one conversation, without pixels.

        Args:
            messages (`list[dict]`): the conversation.
            image_sizes (`list[tuple[int, int]]`): height and width of the images of its image items, in order.

        Returns:
            `dict`: `input_ids`, and `labels`, which are -100 where nothing is learnt.

        Raises:
            SequenceTooLongError: the images alone are longer than `max_length`, or no answer begins within it.
            ValueError: placeholders and images differ in number, or there is nothing to learn.
            Both messages begin with a verb ("has 2 images, but ..."): the caller puts the name of the example before it.
        """
        processor = self.processor
        # Tokenized with one token for each image: expanding it afterwards keeps the assistant mask exact.
        encoded = processor.tokenizer.apply_chat_template(
            messages,
            chat_template=processor.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        token_ids, is_learnt = encoded["input_ids"], encoded["assistant_masks"]
        num_placeholders = token_ids.count(processor.image_token_id)
        if num_placeholders != len(image_sizes):
            raise ValueError(
                f"has {len(image_sizes)} images, but its rendered conversation has {num_placeholders} "
                f"{processor.image_token} placeholders. The chat template must write one for each image item and escape "
                "those in text."
            )
        if not any(is_learnt):
            raise ValueError(
                "has nothing to learn: it has no assistant turn, or the chat template does not mark assistant turns with "
                "{% generation %}."
            )
        counts = iter(processor.image_processor.get_number_of_image_tokens(*size) for size in image_sizes)
        repeats = [next(counts) if token == processor.image_token_id else 1 for token in token_ids]
        excess = 0 if self.max_length is None else sum(repeats) - self.max_length
        for position in reversed(range(len(token_ids))):
            if excess > 0 and token_ids[position] != processor.image_token_id:
                repeats[position] = 0
                excess -= 1
        if excess > 0:
            raise SequenceTooLongError(
                f"has images of {sum(repeats)} tokens, more than max_length={self.max_length}. Raise max_length or leave the "
                "example out."
            )
        input_ids, labels = [], []
        for token, learnt, count in zip(token_ids, is_learnt, repeats):
            input_ids.extend([token] * count)
            labels.extend([token if learnt and token != processor.image_token_id else -100] * count)
        if all(label == -100 for label in labels):
            raise SequenceTooLongError(
                f"has nothing left to learn when it is cut to max_length={self.max_length}: its first answer begins later. "
                "Raise max_length or leave the example out."
            )
        return {"input_ids": input_ids, "labels": labels}


def _flatten(images):
    """A (nested) list of images as a flat list."""
    if isinstance(images, (list, tuple)):
        return [image for item in images for image in _flatten(item)]
    return [images]


def _conversation_images(example, index):
    """The images of one example, in the order of its image items."""
    if "messages" not in example:
        raise ValueError(
            f"Example {index} of the batch has no 'messages', only {sorted(example)}. With the Trainer, set "
            "remove_unused_columns=False."
        )
    given = example.get("images")
    given = iter([] if given is None else _flatten(given))
    images, num_missing = [], 0
    for message in example["messages"]:
        content = message["content"]
        for item in content if isinstance(content, list) else []:
            if item["type"] != "image":
                continue
            carried = [item[key] for key in ("image", "url", "path", "base64") if item.get(key) is not None]
            image = carried[0] if carried else next(given, None)
            num_missing += image is None
            images.append(image)
    num_left = len(list(given))
    if num_missing or num_left:
        raise ValueError(
            f"Example {index} of the batch has {len(images)} image items in its messages, but "
            f"{len(images) - num_missing + num_left} images. Give one image for each image item."
        )
    return images


FilaProcessor.register_for_auto_class()

__all__ = ["FilaDataCollator", "FilaProcessor", "SequenceTooLongError"]
