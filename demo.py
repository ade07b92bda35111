# Copyright 2026 The FILA authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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


def draw_views(image_processor, inputs, output, title=None):
    """Saves a picture of the tiles on their canvas, with the padding hatched, and of the global view.

    Args:
        image_processor ([`FilaImageProcessor`]): the processor that made the inputs.
        inputs (`dict`): its output for one image.
        output (`Path`): a PNG file to write.
        title (`str`, *optional*): what stands above, where there are tiles.
    """
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    views = (inputs["pixel_values"][0] * std + mean).clamp(0, 1)
    (rows, columns), (height, width) = inputs["image_grids"][0].tolist(), inputs["image_sizes"][0].tolist()
    tile_size = views.shape[-1]
    if rows == 0:  # not tiled: the global view is all there is
        output.parent.mkdir(parents=True, exist_ok=True)
        plt.imsave(output, views[0].permute(1, 2, 0).numpy())
        return
    canvas_height, canvas_width = rows * tile_size, columns * tile_size
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(3.2 * columns + 3.6, 3.2 * max(rows, 1.2)), width_ratios=[columns, 1], layout="constrained"
    )
    # tile, channel, y, x -> row y, column x, channel
    canvas = views[1 : 1 + rows * columns].unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    left.imshow(canvas.reshape(canvas_height, canvas_width, 3))
    for column in range(1, columns):
        left.axvline(column * tile_size - 0.5, color="red", linewidth=1.5)
    for row in range(1, rows):
        left.axhline(row * tile_size - 0.5, color="red", linewidth=1.5)
    scale = min(canvas_height / height, canvas_width / width)
    pad_y, pad_x = (canvas_height - height * scale) / 2, (canvas_width - width * scale) / 2
    padding = {"hatch": "///", "facecolor": "none", "edgecolor": "gray", "linewidth": 0}
    for corner in ((0, 0), (0, canvas_height - pad_y)):
        left.add_patch(patches.Rectangle(corner, canvas_width, pad_y, **padding))
    for corner in ((0, 0), (canvas_width - pad_x, 0)):
        left.add_patch(patches.Rectangle(corner, pad_x, canvas_height, **padding))
    if title is not None:
        figure.suptitle(title, parse_math=False)
    left.set_title(
        f"image of {height} x {width} on the canvas {canvas_height} x {canvas_width}: {rows} x {columns} tiles"
    )
    right.imshow(views[0].permute(1, 2, 0))
    right.set_title(f"global view, {tile_size} x {tile_size}")
    for axis in (left, right):
        axis.set_axis_off()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)


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
