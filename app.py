# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""A web app that shows how FILA sees an image and chats about it. It runs as a Hugging Face Space as it is.

    python app.py
    FILA_MODEL=org/fila-8b python app.py

The model is a folder or Hub id in the environment variable `FILA_MODEL`; without it, `MODEL`. Its code is run.
This file needs nothing else of the repository.
"""

import os
from pathlib import Path
from threading import Event, Thread

import gradio as gr
import PIL.Image
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer

FOLDER = Path(__file__).resolve().parent
MODEL = str(FOLDER)  # in a Space, the id that publish.py was given
TILED, LOW_RESOLUTION = "dynamic tiling", "low resolution"
MAX_IMAGES = 8  # in a conversation
MAX_PIXELS = 100_000_000  # of an image
MAX_NEW_TOKENS = 256
ERROR = "This did not work"  # title of messages that the model does not see
PAGES = FOLDER / "fineprint" / "foreign" / "pages"
EXAMPLES = [  # of different programs, shapes, colors and languages
    (FOLDER / "assets" / "receipt.png", "How much is the total?"),
    (PAGES / "xterm-gitlog.png", "Who wrote commit c2290ad4?"),
    (PAGES / "matplotlib-panels.png", "What is the heading of panel (b)?"),
    (PAGES / "weasyprint-prices.png", "How large is the deposit?"),
]


def load_model(name):
    """`tuple[PreTrainedModel, ProcessorMixin]`: a FILA on the accelerator, or in float32 on the CPU."""
    device = torch.accelerator.current_accelerator(check_available=True)
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
    dtype = "auto" if device else "float32"
    model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=True, dtype=dtype)
    if hasattr(processor, "for_model"):  # which the code of older models lacks
        processor = processor.for_model(model.config)
    return model.eval().to(device or "cpu"), processor


def open_image(path):
    """`PIL.Image`: an uploaded file; of an animation, the first frame. Raises `ValueError` if it cannot be read."""
    name = Path(path).name
    try:
        image = PIL.Image.open(path)
        if image.width * image.height > MAX_PIXELS:
            raise PIL.Image.DecompressionBombError  # as Pillow does for twice its own limit
        image.load()
        return image
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} has more than {MAX_PIXELS / 1e6:.0f} megapixels. Make it smaller: the model sees less than that anyway."
        ) from error
    except Exception as error:  # each image format has exceptions of its own
        raise ValueError(f"{name} is not an image that can be read: {error}") from error


class App:
    """The functions behind the page. Nothing of a user is kept here."""

    def __init__(self, model, processor):
        self.model, self.processor = model, processor
        self.has_maps = model.config.fusion_type in ("cvfm", "cross_attention")

    def encode(self, path, mode, **kwargs):
        """Image inputs of one file."""
        try:
            image = open_image(path)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return self.processor.image_processor(image, do_dynamic_tiling=mode == TILED, return_tensors="pt", **kwargs)

    def show(self, path, mode):
        """Views, a sentence and the fusion maps of an image."""
        if path is None:
            return None, "", None
        inputs = self.encode(path, mode)
        (height, width), (rows, columns) = inputs["image_sizes"][0].tolist(), inputs["image_grids"][0].tolist()
        setting = {"do_dynamic_tiling": mode == TILED}
        num_tokens = self.processor.image_processor.get_number_of_image_tokens(height, width, setting)
        place = f"{rows} x {columns} tiles and the global view" if rows else "the global view alone"
        sentence = f"Image of {height} x {width} pixels (height x width): {place}, **{num_tokens} tokens**."
        views = [(self.processor.draw_view(inputs, view), view) for view in list_views(inputs)]
        if not self.has_maps:
            return views, sentence, None
        (maps,) = self.model.get_fusion_maps(**inputs.to(self.model.device, self.model.dtype))
        return views, sentence, maps

    def show_fusion(self, path, mode, maps, number):
        """The views with the heat map of one fusion module over them."""
        if path is None or maps is None:
            return None
        draw, inputs = self.processor.draw_view, self.encode(path, mode, do_high_res=False)
        return [(draw(inputs, view, heat=maps[view][number - 1]), view) for view in list_views(inputs)]

    def prepare(self, message, history, mode):
        """Model inputs of a conversation. Raises `ValueError` for one that cannot be answered."""
        content = [*({"path": path} for path in message["files"]), message["text"]]
        conversation = read_conversation([*history, {"role": "user", "content": content}])
        inputs = self.processor.apply_chat_template(
            conversation,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"do_dynamic_tiling": mode == TILED},
        )
        length, longest = inputs["input_ids"].shape[1], self.model.config.text_config.max_position_embeddings
        if length + MAX_NEW_TOKENS > longest:
            raise ValueError(
                f"The conversation takes {length} tokens, and the model reads {longest - MAX_NEW_TOKENS}. Start a new one, "
                f"choose {LOW_RESOLUTION!r}, or ask with fewer images."
            )
        return inputs.to(self.model.device, self.model.dtype)

    def answer(self, message, history, mode):
        """Yields the answer as it grows, or a message with the title `ERROR`."""
        try:
            inputs = self.prepare(message, history, mode)
        except Exception as error:  # each image format has exceptions of its own
            yield gr.ChatMessage(str(error), metadata={"title": ERROR})
            return
        is_left, problems = Event(), []
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

        def generate():
            try:
                self.model.generate(
                    **inputs,
                    max_new_tokens=MAX_NEW_TOKENS,
                    do_sample=False,
                    streamer=streamer,
                    stopping_criteria=[
                        lambda ids, scores, **kwargs: torch.full((len(ids),), is_left.is_set(), device=ids.device)
                    ],
                )
            except Exception as error:  # such as no memory left: the user hears of it, and the app goes on
                problems.append(error)
                streamer.end()

        thread = Thread(target=generate)
        thread.start()
        text = ""
        try:
            for piece in streamer:
                text += piece
                yield text
        finally:  # also when the user stops the answer or leaves
            is_left.set()
            thread.join()
        if problems:
            yield gr.ChatMessage(str(problems[0]), metadata={"title": ERROR})


def list_views(inputs):
    return ["canvas", "global_view"] if inputs["image_grids"].any() else ["global_view"]


def read_conversation(history):
    """`list[dict]`: Gradio's messages as those of a chat template, without questions that ended in an error. Raises
    `ValueError` for a file that is not an image, or too many of them."""
    turns = []
    for turn in history:
        if (turn.get("metadata") or {}).get("title") == ERROR:
            turns.pop()
            continue
        items = [turn["content"]] if isinstance(turn["content"], str) else turn["content"]
        turns.append((turn["role"], [{"text": item} if isinstance(item, str) else item for item in items]))
    num_images = sum("text" not in item for _, items in turns for item in items)
    if num_images > MAX_IMAGES:
        raise ValueError(f"The conversation has {num_images} images; {MAX_IMAGES} are possible. Start a new one.")
    conversation = []
    for role, items in turns:
        content = []
        for item in items:
            if "text" in item:
                content.append({"type": "text", "text": item["text"]})
            else:
                content.append({"type": "image", "image": open_image(item.get("path") or item["file"]["path"])})
        conversation.append({"role": role, "content": content})
    return conversation


def build_page(app):
    """`gr.Blocks`: the page."""
    is_cvfm = app.model.config.fusion_type == "cvfm"
    layers = app.model.config.fusion_layers if is_cvfm else [app.model.config.num_vision_layers]
    with gr.Blocks(title="FILA") as page:
        gr.Markdown(
            "# FILA reads fine print\nAdd an image and ask about it. The picture beside the chat shows how FILA cuts it."
        )
        path, maps = gr.State(), gr.State()
        with gr.Row():
            with gr.Column():
                mode = gr.Radio([TILED, LOW_RESOLUTION], value=TILED, label="Resolution")
                textbox = gr.MultimodalTextbox(
                    file_types=["image"],
                    file_count="multiple",
                    sources=["upload"],
                    max_plain_text_length=1_000_000,  # a longer text that is pasted becomes a file
                    placeholder="Add an image and ask about it",
                )
                gr.ChatInterface(
                    app.answer,
                    multimodal=True,
                    textbox=textbox,
                    chatbot=gr.Chatbot(height=480, label="Answers"),
                    additional_inputs=[mode],
                    examples=[[{"text": question, "files": [str(path)]}] for path, question in EXAMPLES],
                    cache_examples=False,
                    run_examples_on_click=False,
                )
            with gr.Column():
                views = gr.Gallery(
                    label="What the ViT gets: tiles with cuts and padding, global view",
                    columns=2,
                    height=340,
                    object_fit="contain",
                )
                sentence = gr.Markdown()
                number = gr.Slider(
                    1,
                    max(len(layers), 2),  # Gradio has no slider over one value
                    value=1,
                    step=1,
                    label=f"Fusion module, after ViT layers {layers}",
                    visible=is_cvfm,
                )
                heat = gr.Gallery(
                    label="How FILA sees: how much the ConvNeXt changed each token",
                    visible=app.has_maps,
                    columns=2,
                    height=340,
                    object_fit="contain",
                )

        # A message that was sent leaves an empty box; its image stays in view.
        def newest(message, old):
            return message["files"][-1] if message and message["files"] else old

        textbox.change(newest, [textbox, path], path, show_progress="hidden", concurrency_limit=None)
        heat_inputs = [path, mode, maps, number]
        for changed in (path.change, mode.change):
            changed(app.show, [path, mode], [views, sentence, maps]).then(app.show_fusion, heat_inputs, heat)
        number.change(app.show_fusion, heat_inputs, heat, show_progress="hidden")
    return page


def main():
    app = App(*load_model(os.environ.get("FILA_MODEL", MODEL)))
    build_page(app).queue(max_size=32).launch(max_file_size="50mb")


if __name__ == "__main__":
    main()
