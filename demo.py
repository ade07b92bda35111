# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows FILA on one image: prints the geometry, streams the answer, prints the timings and draws what the model saw.

python demo.py assets/receipt.png --prompt "What is the name of the shop?"
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import patches
from matplotlib import pyplot as plt
from PIL import Image, UnidentifiedImageError
from transformers import AutoModel, AutoProcessor, TextStreamer

ROOT = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, default=ROOT / "assets" / "receipt.png", help="an image file")
    parser.add_argument("--prompt", default="What is the name of the shop?", help="the question")
    parser.add_argument("--model", default=str(ROOT), help="model folder or Hub id (default: this repository)")
    parser.add_argument("--output", type=Path, default=Path("demo_output/views.png"), help="where to save the picture")
    parser.add_argument("--max-new-tokens", type=int, default=32, help="length of the answer")
    arguments = parser.parse_args()
    try:
        image = Image.open(arguments.image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        parser.error(f"{arguments.image} is not an image that can be read: {error}")

    processor = AutoProcessor.from_pretrained(arguments.model, trust_remote_code=True)
    model = AutoModel.from_pretrained(arguments.model, trust_remote_code=True, dtype="auto").eval()

    content = [{"type": "image", "image": image}, {"type": "text", "text": arguments.prompt}]
    start = time.perf_counter()
    chat = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **chat)
    preprocess_time = time.perf_counter() - start
    rows, columns = inputs["image_grids"][0].tolist()
    tile_size, high_res_size = (inputs[key].shape[-1] for key in ("pixel_values", "high_res_pixel_values"))
    num_image_tokens = int((inputs["input_ids"] == processor.image_token_id).sum())
    print(f"image          {image.height} x {image.width} pixels (height x width)")
    print(
        f"canvas         {rows * tile_size} x {columns * tile_size}, ConvNeXt's {rows * high_res_size} x {columns * high_res_size}"
    )
    print(f"tiles          {rows} x {columns}, and the global view")
    print(f"tokens         {num_image_tokens} of the image, {inputs['input_ids'].shape[1]} in all")

    times = []
    for register in (
        model.model.vision_tower.register_forward_pre_hook,
        model.model.vision_tower.register_forward_hook,
    ):
        register(lambda *_: times.append(time.perf_counter()))
    print("answer         ", end="", flush=True)
    start = time.perf_counter()
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = model.generate(**inputs, max_new_tokens=arguments.max_new_tokens, streamer=streamer)
    total = time.perf_counter() - start
    num_new_tokens = output.shape[1] - inputs["input_ids"].shape[1]
    encode_time = times[1] - times[0]
    print(
        f"timings        preprocessing {preprocess_time:.2f} s, hybrid encoder {encode_time:.2f} s, "
        f"prefill and {num_new_tokens} new tokens {total - encode_time:.2f} s"
    )
    answer = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    draw_views(processor.image_processor, inputs, arguments.output, f"{arguments.prompt} {answer}")
    print(f"picture        {arguments.output}")
    # Fusion starts as the identity, and no training leaves it there.
    if not any(parameter.any() for parameter in model.model.vision_tower.fusion[0].linear_2.parameters()):
        print(
            "note           the fusion of this model is untrained: it does not see images yet, and the answer is a guess"
        )


if __name__ == "__main__":
    main()
