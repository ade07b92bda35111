# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows FILA on one image: prints the geometry, streams the answer, prints the timings and draws what the model saw.

    python demo.py assets/receipt.png --prompt "How much is the total?"

Without an image, it takes the receipt, and asks about three pages that other programs typeset, too.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import TextStreamer

from fila.common.arguments import UserError, run_command
from fila.common.layout import ROOT
from fila.common.views import draw_captions, draw_views
from fila.evaluation.answer import generate_answers, load_model, prepare_inputs
from fila.image_processing_fila import load_image

FOREIGN = ROOT / "fineprint" / "foreign"
FOREIGN_QUESTIONS = {  # chosen before any model was asked
    "pages/xterm-gitlog.png": "Who wrote commit c2290ad4?",
    "pages/matplotlib-panels.png": "What is the heading of panel (b)?",
    "pages/weasyprint-prices.png": "How large is the deposit?",
}


def open_image(path):
    """`PIL.Image`: the image as the processor sees it. Raises a `UserError` if it cannot be read."""
    if not path.exists():
        raise UserError(f"There is no image {path}.")
    try:
        return load_image(path)
    except Exception as error:  # each of Pillow's formats has exceptions of its own
        raise UserError(f"{path} is not an image that can be read: {error or type(error).__name__}") from error


def print_geometry(model, inputs):
    """Prints how one image was tiled, and its tokens."""
    (height, width), (rows, columns) = inputs["image_sizes"][0].tolist(), inputs["image_grids"][0].tolist()
    view_sizes = [inputs[key].shape[-1] for key in ("pixel_values", "high_res_pixel_values") if key in inputs]
    canvases = [f"{max(rows, 1) * size} x {max(columns, 1) * size}" for size in view_sizes]
    num_image_tokens = int((inputs["input_ids"] == model.config.image_token_id).sum())
    print(f"image          {height} x {width} pixels (height x width)")
    print(f"canvas         {', ConvNeXt sees '.join(canvases)}")
    print(f"tiles          {f'{rows} x {columns}, and the global view' if rows else 'none, the global view alone'}")
    print(f"tokens         {num_image_tokens} of the image, {inputs['input_ids'].shape[1]} in all")


def stream_answer(model, processor, inputs, max_new_tokens):
    """Prints the answer as it comes.

    Returns:
        `tuple[torch.Tensor, float, float]`: the new tokens, and the seconds of the hybrid encoder and of the decoder.
    """

    def note_time(*_):
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        times.append(time.perf_counter())

    times = []
    encoder = model.model.vision_tower
    hooks = [encoder.register_forward_pre_hook(note_time), encoder.register_forward_hook(note_time)]
    print("answer         ", end="", flush=True)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    note_time()
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, streamer=streamer)
    note_time()
    for hook in hooks:
        hook.remove()
    start, encoder_start, encoder_end, end = times
    encoder_time = encoder_end - encoder_start
    return output[0, inputs["input_ids"].shape[1] :], encoder_time, end - start - encoder_time


def make_conversation(image, question):
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]


def ask_foreign_pages(model, processor, max_new_tokens):
    """Asks about pages that other programs typeset, and prints the answers and the right ones. Returns a picture of both."""
    images, captions = [], []
    for row in json.loads((FOREIGN / "questions.json").read_text(encoding="utf-8")):
        question, name = row["messages"][0]["content"], row["image"]
        if FOREIGN_QUESTIONS.get(name) == question:
            image = open_image(FOREIGN / name)
            inputs = prepare_inputs(processor, [make_conversation(image, question)])
            (answer,) = generate_answers(model, processor, inputs, max_new_tokens=max_new_tokens)
            is_right = answer.casefold() in map(str.casefold, row["answers"])
            verdict = "right" if is_right else f"wrong; right is: {row['answers'][0]}"
            print(f"foreign page   {name}: {question} {answer}   ({verdict})", flush=True)
            images.append(image)
            captions.append(f"{question}\n{answer}\n({verdict})")
    return draw_captions(images, captions)


def get_fusion_maps(model, inputs):
    """What the fusion modules changed of one image. Raises a `UserError` if the model's fusion has no such maps."""
    try:
        (maps,) = model.get_fusion_maps(
            **{key: inputs[key] for key in inputs if key not in ("input_ids", "attention_mask")}
        )
    except ValueError as error:
        raise UserError(f"--fusion-maps: {error}") from error
    return maps


def save_picture(picture, path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"The picture {path} cannot be written: {error}") from error
    print(f"picture        {path}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, help="an image file (default: assets/receipt.png)")
    parser.add_argument("--prompt", default="How much is the total?", help="the question")
    parser.add_argument("--model", default=str(ROOT), help="model folder or Hub id (default: this repository)")
    parser.add_argument("--output", type=Path, default=Path("demo_output/views.png"), help="where to save the picture")
    parser.add_argument(
        "--fusion-maps", action="store_true", help="add what each fusion module changed to the picture, as heat maps"
    )
    parser.add_argument("--max-new-tokens", type=int, default=32, help="length of the answer")
    arguments = parser.parse_args(arguments)
    if arguments.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {arguments.max_new_tokens} is too small: give 1 or more.")
    image = open_image(arguments.image or ROOT / "assets" / "receipt.png")

    print(f"model          loading {arguments.model}", flush=True)
    model, processor = load_model(arguments.model)
    if model.config.model_type != "fila":
        raise UserError(f"{arguments.model} is a {model.config.model_type}, not a FILA.")
    start = time.perf_counter()
    inputs = prepare_inputs(processor, [make_conversation(image, arguments.prompt)])
    preprocess_time = time.perf_counter() - start
    print_geometry(model, inputs)
    inputs = inputs.to(model.device, dtype=model.dtype)
    new_tokens, encoder_time, decoder_time = stream_answer(model, processor, inputs, arguments.max_new_tokens)
    print(
        f"timings        preprocessing {preprocess_time:.2f} s, hybrid encoder {encoder_time:.2f} s, "
        f"prefill and {len(new_tokens)} new tokens {decoder_time:.2f} s"
    )
    maps = get_fusion_maps(model, inputs) if arguments.fusion_maps else None
    save_picture(draw_views(processor, inputs, maps), arguments.output)
    if arguments.image is None:
        picture = ask_foreign_pages(model, processor, arguments.max_new_tokens)
        save_picture(picture, arguments.output.with_name("foreign.png"))
    # CVFM and cross-attention start as the identity, and no training leaves them there.
    starts = [
        module.weight
        for module in model.model.vision_tower.fusion.modules()
        if type(module).__name__ == "FilaZeroLinear"
    ]
    if starts and not any(weight.any() for weight in starts):
        print("note           the fusion of this model is untrained, so the answer is a guess")


if __name__ == "__main__":
    run_command(main)
