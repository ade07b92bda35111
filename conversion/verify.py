# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The output beside its sources: equal visual tokens, equal tokens of a text, equal logits."""

from collections.abc import Mapping

import torch
from accelerate import cpu_offload, init_empty_weights
from transformers import AutoModelForCausalLM, CLIPVisionModel

from fila import FilaForConditionalGeneration
from fila.common.arguments import UserError
from fila.common.layout import DTYPES
from fila.conversion.mapping import INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS, rename
from fila.conversion.sources import SafetensorsFiles

SENTENCE = "Fine print, line 3: total 1,284.50 EUR, due 2026-11-24 (see §7)."


class LazyStateDict(Mapping):
    """A checkpoint's tensors, each read when it is asked for, under its own names or FILA's.

    With `tied`, the output embeddings are the input embeddings.
    """

    def __init__(self, checkpoint, table, tied):
        self._checkpoint, self._table, self._tied = checkpoint, table, tied
        self._names = {rename(name, table): name for name in checkpoint.specs}

    def __getitem__(self, name):
        name = rename(name, self._table)
        return self._checkpoint.read(
            self._names[INPUT_EMBEDDINGS if self._tied and name == OUTPUT_EMBEDDINGS else name]
        )

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def _offload(make_model, state_dict, dtype):
    """A model each module of which reads its weights when it runs, and forgets them afterwards."""
    with init_empty_weights():
        model = make_model().eval()
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay in float32
        parameter.data = parameter.data.to(dtype)
    return cpu_offload(model, execution_device=torch.device("cpu"), state_dict=state_dict)


@torch.no_grad()
def compare_with_sources(folder, config, vision, text, source_tokenizer, tokenizer):
    """Runs the output beside its sources: the ViT on noise, the decoder on a short text.

    Args:
        folder (`Path`): the output.
        config ([`FilaConfig`]): of the output.
        vision, text ([`Part`]): the backbones.
        source_tokenizer, tokenizer (`PreTrainedTokenizerFast`): the decoder's, and the output's.

    Returns:
        `list[str]`: one line for each comparison.

    Raises:
        UserError: a difference.
    """
    dtype = DTYPES[str(config.dtype).removeprefix("torch.")]
    tied = config.tie_word_embeddings
    output = LazyStateDict(SafetensorsFiles(sorted(folder.glob("*.safetensors"))), (), tied)
    model = _offload(lambda: FilaForConditionalGeneration(config), output, dtype)
    lines = []
    if vision.source is not None:
        lines.append(_compare_visual_tokens(model, vision, dtype))
    if text.source is not None:
        ids = source_tokenizer(SENTENCE)["input_ids"]
        if tokenizer(SENTENCE)["input_ids"] != ids:
            raise UserError(f"The tokenizer of the output splits {SENTENCE!r} unlike the one of {text.label}.")
        source = LazyStateDict(text.checkpoint, text.table, tied)
        decoder = _offload(lambda: AutoModelForCausalLM.from_config(text.config), source, dtype)
        expected = decoder(input_ids=torch.tensor([ids]), use_cache=False).logits
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[..., : expected.shape[-1]]
        # With added rows in the vocabulary, sums may be computed in another order.
        tolerance = 0 if config.text_config.vocab_size == expected.shape[-1] else 4 * torch.finfo(dtype).eps
        lines.append(_check_equal("logits of a text", logits, expected, tolerance))
    return lines


def _compare_visual_tokens(model, vision, dtype):
    config = model.config
    generator = torch.Generator().manual_seed(0)

    def draw_noise(size):
        return torch.randn(1, 1, 3, size, size, generator=generator).to(dtype)

    size = config.vision_config.image_size
    inputs = {"pixel_values": draw_noise(size), "image_sizes": torch.tensor([[size, size]])}
    inputs["image_grids"] = torch.zeros(1, 2, dtype=torch.long)
    if config.fusion_type != "none":
        inputs["high_res_pixel_values"] = draw_noise(config.high_res_image_size)
    clip, info = CLIPVisionModel.from_pretrained(
        vision.source.folder, config=config.vision_config, dtype=dtype, output_loading_info=True
    )
    if info["missing_keys"]:
        raise UserError(f"CLIPVisionModel does not find {sorted(info['missing_keys'])[:4]} in {vision.label}.")
    hidden_states = clip.eval()(inputs["pixel_values"][0], output_hidden_states=True).hidden_states
    actual = model.model.vision_tower(**inputs).last_hidden_state
    return _check_equal("visual tokens", actual, hidden_states[config.num_vision_layers])


def _check_equal(title, actual, expected, tolerance=0.0):
    difference = (actual.float() - expected.float()).abs().max().item()
    bound = tolerance * expected.float().abs().max().item()
    if not difference <= bound:
        raise UserError(
            f"The {title} differ from the source's by up to {difference:.3g} (allowed: {bound:.3g}), so the output was not "
            "kept. `--no-verify` keeps it, to find out why. Please report it."
        )
    return f"{title}: " + ("equal, bit by bit" if difference == 0 else f"equal within {difference:.2g}")
