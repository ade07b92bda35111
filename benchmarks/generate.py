# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of FilaForConditionalGeneration.generate with an image against a stock LlamaForCausalLM with the same weights,
which gets the same inputs_embeds.

    python benchmarks/generate.py [--new-tokens 64] [--output results.json]

Prefill is the time to the first token. FILA gets the encoded image as `mm_encoder_outputs`, so that it compares the
decoder part of both: embedding the text and placing the visual tokens are FILA's own. Decoding is the time from the
first token to the last. A further call with the pixels counts the calls of the vision tower, of which there must be one.
The vision branch is small because it is not timed, but the image has as many visual tokens as in the paper.
"""

import time

import torch
from transformers import LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from fila.benchmarks.harness import Median, make_parser, measure_in_turn, parse, report, synchronize
from fila.benchmarks.models import (
    IMAGE_TOKEN_ID,
    MODELS,
    count_parameters,
    make_image_inputs,
    make_model,
    make_prompts,
    vit,
)

PRESETS = {"smollm2": 336, "llama-1b": 336, "small": 56}  # side of a view; the decoder is that of this name in MODELS


class Clock(StoppingCriteria):
    """Stops nothing; notes the time after each token."""

    def __init__(self, device):
        self.device = device
        self.times = []

    def note(self):
        synchronize(self.device)
        self.times.append(time.perf_counter())

    def __call__(self, input_ids, scores, **kwargs):
        self.note()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@torch.no_grad()
def measure(options):
    """One row of the table."""
    device, batch, new_tokens, grid = options.device, options.batch_size, options.new_tokens, tuple(options.grid)
    vision = vit(32, 6, PRESETS[options.preset])
    preset = MODELS["small"] | {"vision": vision, "text": MODELS[options.preset]["text"]}
    model = make_model(**preset, **options.factory).eval()
    images = make_image_inputs(model.config, batch, grid, **options.factory)
    input_ids = make_prompts(model.config, batch, grid, options.text_length).to(device)
    # The same modules, not copies: no side has the better memory.
    stock = LlamaForCausalLM(model.config.text_config).eval()
    stock.model, stock.lm_head = model.model.language_model, model.lm_head

    calls = []
    counter = model.model.vision_tower.register_forward_hook(lambda *args: calls.append(1))
    tokens = {}

    def generate(name, network, **inputs):
        clock = Clock(device)
        clock.note()
        output = network.generate(
            **inputs,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        tokens[name] = output[:, -new_tokens:]
        return clock.times[1] - clock.times[0], clock.times[-1] - clock.times[1]

    generate("pixels", model, input_ids=input_ids, **images)
    num_calls = len(calls)
    counter.remove()

    encoded = model.get_image_features(**images)
    embeds = model.get_input_embeddings()(input_ids)
    features = torch.cat(tuple(encoded.pooler_output)).to(embeds)
    embeds = embeds.masked_scatter((input_ids == IMAGE_TOKEN_ID)[..., None], features)
    measured = measure_in_turn(
        {
            "fila": lambda: generate("fila", model, input_ids=input_ids, mm_encoder_outputs={"image": encoded}),
            "stock": lambda: generate("stock", stock, inputs_embeds=embeds),
        },
        options.repeats,
    )
    prefill, decode = (
        {name: Median(pair[part] for pair in pairs) for name, pairs in measured.items()} for part in (0, 1)
    )
    speed = {name: batch * (new_tokens - 1) / seconds for name, seconds in decode.items()}
    return {
        "batch": batch,
        "size": f"{input_ids.shape[1]}+{new_tokens}",
        "parameters": count_parameters(stock),
        "fila_prefill_s": prefill["fila"],
        "stock_prefill_s": prefill["stock"],
        "prefill_ratio": prefill["fila"] / prefill["stock"],
        "fila_tokens_per_s": speed["fila"],
        "stock_tokens_per_s": speed["stock"],
        "decode_ratio": speed["fila"] / speed["stock"],
        "vision_calls": num_calls,
        "same_tokens": all(torch.equal(tokens["stock"], tokens[name]) for name in ("fila", "pixels")),
    }


def main(arguments=None):
    sizes = {"batch_size": 1, "grid": [2, 2], "text_length": 32, "new_tokens": 64}
    parser = make_parser(__doc__, PRESETS, repeats=5, **sizes)
    options = parse(parser, arguments)
    if options.new_tokens < 2:
        parser.error(f"--new-tokens {options.new_tokens}: decoding starts at the second token; use 2 or more")
    report("generate", options, [measure(options)])


if __name__ == "__main__":
    main()
