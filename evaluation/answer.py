# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Loads a vision-language model and answers batches of conversations, greedily unless told otherwise."""

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin

from fila.common.arguments import library_errors
from fila.common.devices import resolve_dtype


def load_model(model_name_or_path, dtype="auto", device=None, attn_implementation=None):
    """`tuple[PreTrainedModel, ProcessorMixin]`: a FILA, or another model that `AutoModelForImageTextToText` loads and
    whose processor has a chat template, in eval mode and set to greedy decoding. Code that comes with them is run. The
    device is an accelerator if there is one; [`~fila.common.devices.resolve_dtype`] says what `dtype="auto"` means.
    Raises a `UserError` if it is not a vision-language model, or the device cannot be used or cannot hold it."""
    device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    with library_errors(f"{model_name_or_path} cannot be loaded as a vision-language model on the device {device}"):
        processor = AutoProcessor.from_pretrained(model_name_or_path, trust_remote_code=True)
        # A folder without a processor gives a tokenizer or an image processor alone.
        if not isinstance(processor, ProcessorMixin) or processor.chat_template is None:
            raise ValueError("it has no processor of images and text with a chat template.")
        kwargs = {"dtype": resolve_dtype(dtype, device), "attn_implementation": attn_implementation}
        model = AutoModelForImageTextToText.from_pretrained(model_name_or_path, trust_remote_code=True, **kwargs)
        model.eval().to(device)
    if hasattr(processor, "for_model"):
        processor = processor.for_model(model.config)
    model.generation_config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None)
    return model, processor


def prepare_inputs(processor, conversations):
    """`BatchFeature`: model inputs of conversations that wait for an answer, padded on the left."""
    padding = {"padding": True, "padding_side": "left"}
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(conversations, processor_kwargs=padding, **options)


def generate_answers(model, processor, inputs, **generate_kwargs):
    """`list[str]`: the answers to a batch from [`prepare_inputs`], without special tokens, stripped. Greedy unless the
    arguments of `generate` say otherwise."""
    inputs = inputs.to(model.device, dtype=model.dtype)
    with torch.inference_mode():
        output = model.generate(**inputs, **generate_kwargs)
    new_tokens = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new_tokens, skip_special_tokens=True)]
