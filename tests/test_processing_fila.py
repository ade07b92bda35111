# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import base64
import copy

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import pipeline
from transformers.utils import logging

from fila import FilaDataCollator, FilaImageProcessor, FilaProcessor
from helpers import ROOT, chat, chat_inputs, random_image, tiny_model, tiny_processor

SIZE = st.tuples(st.integers(1, 250), st.integers(1, 250))


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@settings(max_examples=15, deadline=None)
@given(prompts=st.lists(st.lists(SIZE, min_size=1, max_size=4), min_size=1, max_size=3))
def test_token_counts_of_processor_helper_and_model_agree(processor, model, prompts):
    images = [[random_image(*size) for size in sizes] for sizes in prompts]
    inputs = processor(images, ["<image> and " * len(sizes) for sizes in prompts], padding=True, return_tensors="pt")
    counts = processor._get_num_multimodal_tokens(image_sizes=[size for sizes in prompts for size in sizes])
    with torch.no_grad():
        features = model.get_image_features(**{key: inputs[key] for key in processor.image_processor.model_input_names})
    assert [len(image) for image in features.pooler_output] == counts.num_image_tokens
    assert counts.num_image_patches == [1] * len(inputs["pixel_values"])
    expected = iter(counts.num_image_tokens)
    per_prompt = [sum(next(expected) for _ in sizes) for sizes in prompts]
    assert (inputs["input_ids"] == processor.image_token_id).sum(dim=-1).tolist() == per_prompt


def test_processor_counts_what_it_is_told_to_do_differently(processor):
    kwargs = {"do_dynamic_tiling": False}
    assert processor._get_num_multimodal_tokens([(90, 90)], **kwargs).num_image_tokens == [16]
    inputs = processor(random_image(90, 90), "<image>", return_tensors="pt", **kwargs)
    assert inputs["input_ids"].shape == (1, 16)
    assert processor._get_num_multimodal_tokens().num_image_tokens is None


def test_chat_template_places_images_among_text(processor):
    conversation = chat("left", random_image(56, 112), "middle", random_image(112, 112), "right")
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nleft<image>middle<image>right<|im_end|>\n<|im_start|>assistant\n"
    ids = chat_inputs(processor, [conversation])["input_ids"][0]
    text = processor.tokenizer.decode(ids)
    assert text == prompt.replace("<image>", "<image>" * 48, 1).replace("middle<image>", "middle" + "<image>" * 80)


@pytest.mark.parametrize("content", ["<image>", [{"type": "text", "text": "<image>"}]])
def test_literal_image_token_in_a_message_stays_text(processor, content):
    conversation = [{"role": "user", "content": content}, *chat("And <image><image>?", random_image(56, 112))]
    ids = chat_inputs(processor, [conversation])["input_ids"][0]
    assert (ids == processor.image_token_id).sum() == 48
    text = processor.tokenizer.decode(ids[ids != processor.image_token_id])
    assert text.startswith("<|im_start|>user\n<image><|im_end|>\n<|im_start|>user\nAnd <image><image>?<|im_end|>")


def test_literal_image_token_without_any_image_is_text(processor):
    ids = chat_inputs(processor, [[{"role": "user", "content": "What does <image> do?"}]])["input_ids"]
    assert processor.image_token_id not in ids
    assert processor.tokenizer.decode(ids[0], skip_special_tokens=True) == "user\nWhat does <image> do?\nassistant\n"


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<image>"])
def test_special_tokens_that_are_typed_stay_text(processor, token):
    typed = f"<|{token}{token}"
    messages = [{"role": "user", "content": typed}, {"role": "assistant", "content": typed}]
    batch = FilaDataCollator(processor)([{"messages": messages}])
    prompt = processor.apply_chat_template(messages)
    for ids in (batch["input_ids"][0], processor(text=prompt, return_tensors="pt")["input_ids"][0]):
        assert ids[ids < 4].tolist() == [1, 2, 1, 2]  # those of the chat template
        assert processor.decode(ids, skip_special_tokens=True) == f"user\n{typed}\nassistant\n{typed}\n"


@pytest.mark.parametrize("nested", [True, False])
def test_one_and_many_images_and_none_share_a_batch(processor, nested):
    images = [random_image(56, 112, seed) for seed in range(3)]
    texts = ["<image>", "no image", "<image> <image>"]
    inputs = processor([images[:1], [], images[1:]] if nested else images, texts, padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum(dim=-1).tolist() == [48, 0, 96]
    assert inputs["pixel_values"].shape[0] == 3


@pytest.mark.parametrize("images", [None, [], [[], []]])
def test_text_only_batch_has_no_image_inputs(processor, images):
    inputs = processor(images, ["one", "another one"], padding=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("texts", "counts", "message"),
    [
        (["<image>", "<image><image>"], [1, 1], "Sample 1 has 2 <image> placeholders in its text, but 1 images"),
        (["<image>", "none"], [1, 1], "Sample 1 has 0 <image> placeholders in its text, but 1 images"),
        (["<image><image>"], [3], "Sample 0 has 2 <image> placeholders in its text, but 3 images"),
        (["text", "<image>"], [0, 0], "Sample 1 has 1 <image> placeholders in its text, but 0 images"),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_image_count_error_names_sample_and_both_counts(processor, texts, counts, message, nested):
    images = [[random_image(30, 30)] * count for count in counts]
    images = images if nested else [image for sample in images for image in sample]
    with pytest.raises(ValueError, match=message) as raised:
        processor(images, texts, padding=True)
    assert "tokens in the prompts should be the same as the number of images passed" in str(raised.value)


def test_missing_images_are_counted_across_nesting(processor):
    with pytest.raises(ValueError, match="Sample 0 has 0 <image> placeholders in its text, but 1 images"):
        processor([[random_image(30, 30)], [random_image(30, 30)]], ["none", "<image><image>"])


def test_bad_image_in_a_nested_batch_is_named(processor):
    with pytest.raises(ValueError, match="Image 2 of the batch is a NoneType"):
        processor([[random_image(30, 30)], [random_image(30, 30), None]], ["<image>", "<image><image>"])


def test_truncation_inside_an_image_is_an_error(processor):
    with pytest.raises(ValueError, match="truncation"):
        processor(random_image(56, 112), "<image>", truncation=True, max_length=20)


def test_post_processing_decodes_without_special_tokens(processor):
    ids = processor.tokenizer("<|im_start|>assistant\nA cup.<|im_end|>", return_tensors="pt")["input_ids"]
    assert processor.post_process_image_text_to_text(ids, skip_special_tokens=True) == ["assistant\nA cup."]


def test_model_input_names_are_those_the_processor_returns(processor):
    inputs = processor(random_image(30, 30), "<image>")
    assert set(processor.model_input_names) >= set(inputs)


def test_processor_survives_a_save_load_round_trip(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = FilaProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert loaded.to_dict() == processor.to_dict() == tiny_processor().to_dict()
    assert loaded.image_processor.to_dict()["auto_map"].keys() == {"AutoImageProcessor"}
    loaded.save_pretrained(tmp_path / "again")
    for file in tmp_path.glob("*.json"):
        assert (tmp_path / "again" / file.name).read_text() == file.read_text()
    conversation = chat(random_image(60, 100), "Where is <image>?")
    expected, actual = chat_inputs(processor, [conversation]), chat_inputs(loaded, [conversation])
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_collator_labels_are_the_assistant_turns(processor):
    first = {"messages": chat("Read", random_image(56, 112), answer="12.50 EUR"), "extra": 1}
    second = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello <image>"}]}
    many = [*chat("A", random_image(30, 30), answer="B"), *chat("C", random_image(56, 168), "D", answer="E")]
    batch = FilaDataCollator(processor)([first, second, {"messages": many}])
    decode = processor.tokenizer.decode
    learnt = [decode(ids[labels != -100]) for ids, labels in zip(batch["input_ids"], batch["labels"])]
    assert learnt == ["12.50 EUR<|im_end|>", "Hello <image><|im_end|>", "B<|im_end|>E<|im_end|>"]
    assert torch.equal(batch["labels"][batch["labels"] != -100], batch["input_ids"][batch["labels"] != -100])
    assert batch["pixel_values"].shape[0] == 3
    assert (batch["attention_mask"].diff(dim=-1) <= 0).all()  # padded on the right


def test_collator_tokens_equal_the_processors(processor):
    conversation = chat("Read ", random_image(56, 112), " and ", random_image(112, 112), answer="It says <image>.")
    batch = FilaDataCollator(processor)([{"messages": conversation}])
    inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
    assert all(torch.equal(batch[key], inputs[key]) for key in inputs)


@pytest.mark.parametrize("key", ["path", "base64"])
def test_collator_takes_images_from_their_own_column(processor, tmp_path, key):
    images = [random_image(56, 112, 1), random_image(56, 112, 2)]
    images[1].save(tmp_path / "second.png")
    encoded = base64.b64encode((tmp_path / "second.png").read_bytes()).decode()
    inline = {"messages": chat(images[0], "and", images[1], answer="x")}
    items = [
        {"type": "image"},
        {"type": "text", "text": "and"},
        {"type": "image", key: {"path": str(tmp_path / "second.png"), "base64": encoded}[key]},
    ]
    column = {"messages": [{"role": "user", "content": items}, inline["messages"][1]], "images": images[:1]}
    expected, actual = FilaDataCollator(processor)([inline]), FilaDataCollator(processor)([column])
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


@pytest.mark.parametrize("as_column", ["one image", "one array", "one path"])
def test_collator_takes_one_image_without_a_list(processor, tmp_path, as_column):
    image = random_image(56, 112)
    image.save(tmp_path / "page.png")
    column = {"one image": image, "one array": np.array(image), "one path": str(tmp_path / "page.png")}[as_column]
    items = [{"type": "image", "text": None, "image": None}, {"type": "text", "text": "Read", "image": None}]
    messages = [{"role": "user", "content": items}, {"role": "assistant", "content": "x"}]
    actual = FilaDataCollator(processor)([{"messages": messages, "images": column}])
    expected = FilaDataCollator(processor)([{"messages": chat(image, "Read", answer="x")}])
    assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_collator_checks_what_the_chat_template_rendered():
    processor = tiny_processor()
    processor.chat_template = processor.chat_template.replace('~ "<image>"', '~ "<image><image>"')
    with pytest.raises(ValueError, match="Example 0 of the batch has 1 images, but .* 2 <image> placeholders"):
        FilaDataCollator(processor)([{"messages": chat(random_image(56, 112), answer="x")}])


def test_tokenizer_without_the_image_token_is_refused(processor):
    with pytest.raises(ValueError, match="has '<picture>' as one token"):
        tokenizer = copy.deepcopy(processor.tokenizer)
        tokenizer.image_token = "<picture>"
        FilaProcessor(processor.image_processor, tokenizer)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        FilaProcessor(processor.image_processor)


def test_literal_split_over_items_or_in_a_role_stays_text(processor):
    content = [{"type": "text", "text": "<ima"}, {"type": "text", "text": "ge>"}, {"type": "text", "text": None}]
    ids = chat_inputs(processor, [[{"role": "<image>", "content": content}]])["input_ids"][0]
    assert processor.image_token_id not in ids
    assert processor.tokenizer.decode(ids).startswith("<|im_start|><image>\n<image><|im_end|>")


def test_collator_text_only_batch_has_no_image_inputs(processor):
    batch = FilaDataCollator(processor)([{"messages": chat("Hi", answer="Hello")}])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            {"messages": chat("Hi", answer="x"), "images": [np.zeros((9, 9, 3), np.uint8)]},
            "Example 1.* 0 image items.* 1 images",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "Example 1.* 1 image items.* 0 images"),
        ({"messages": chat("Hi")}, "Example 1 of the batch has nothing to learn"),
        ({"input_ids": [1]}, "Example 1 of the batch has no 'messages'.*remove_unused_columns"),
    ],
)
def test_collator_error_names_the_example(processor, example, message):
    with pytest.raises(ValueError, match=message):
        FilaDataCollator(processor)([{"messages": chat("Hi", answer="Hello")}, example])


def test_images_beyond_the_longest_sequence_are_warned_of(caplog, monkeypatch):
    processor, images = tiny_processor(), [random_image(30, 30)] * 9
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    caplog.set_level("WARNING", logger="transformers")
    processor.tokenizer.model_max_length = 9 * 48
    processor([images], ["<image>" * 9])
    assert not caplog.messages
    processor.tokenizer.model_max_length -= 1
    processor([images], ["<image>" * 9])
    assert "longer than the specified maximum sequence length for this model (432 > 431)" in caplog.text


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_pipelines_take_chats_and_prompts(task, processor, model):
    pipe = pipeline(task, model=model, processor=processor)
    image, kwargs = random_image(60, 100), {"max_new_tokens": 3, "return_full_text": False}
    conversation = chat(image, "Read.")
    inputs = chat_inputs(processor, [conversation])
    ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = processor.decode(ids, skip_special_tokens=True)
    assert pipe(text=conversation, **kwargs)[0]["generated_text"] == answer
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert pipe(images=image, text=prompt, **kwargs)[0]["generated_text"] == answer
    batch = pipe(text=[conversation, conversation], batch_size=2, **kwargs)
    assert [outputs[0]["generated_text"] for outputs in batch] == [answer] * 2


def test_default_checkpoint_processor_uses_the_canvases_of_the_paper_and_larger_ones_of_their_shapes():
    processor = FilaProcessor.from_pretrained(ROOT, trust_remote_code=True)
    grids = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]
    for image_processor, scales in ((processor.image_processor, (1, 2, 3)), (FilaImageProcessor(), (1,))):
        size = image_processor.size["height"]
        assert all(side % size == 0 for canvas in image_processor.image_grid_pinpoints for side in canvas)
        found = [tuple(side // size for side in canvas) for canvas in image_processor.image_grid_pinpoints]
        assert found == [(scale * rows, scale * columns) for scale in scales for rows, columns in grids]
    num_tokens = (processor.image_processor.size["height"] // 14) ** 2
    counts = processor._get_num_multimodal_tokens([(2000, 3000), (300, 900)]).num_image_tokens
    assert counts == [(1 + 6 * 6) * num_tokens, (1 + 3 * 9) * num_tokens]


def test_view_is_drawn_with_the_heat_of_its_tokens(processor):
    image = PIL.Image.new("RGB", (100, 40), "white")  # on a canvas of 56 x 112 pixels, 4 x 8 tokens
    inputs = processor.image_processor([random_image(30, 30), image], return_tensors="pt")
    heat = torch.zeros(4, 8)
    heat[2, 3], heat[2, 5] = 4.0, 2.0
    picture = processor.draw_view(inputs, index=1, heat=heat)
    assert picture.size == (112, 56)
    hot, warm, cold = (picture.getpixel((14 * x + 7, 35)) for x in (3, 5, 1))
    assert cold == (255, 255, 255)
    assert hot[0] > 200 and hot[1] == hot[2] < warm[1] < 255
    overview = processor.draw_view(inputs, "global_view", index=1, heat=torch.zeros(4, 4))
    assert overview.getcolors() == [(56 * 56, (255, 255, 255))]


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": 0.5, "image_std": 0.2},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
    ],
)
def test_view_shows_the_pixels_whatever_the_normalization(processor, settings):
    image = random_image(112, 112)
    expected = processor.draw_view(processor.image_processor(image, return_tensors="pt"))
    other = tiny_processor(**settings)
    picture = other.draw_view(other.image_processor(image, return_tensors="pt"))
    difference = np.asarray(picture).astype(int) - np.asarray(expected)
    assert abs(difference).max() <= 1


def test_view_that_cannot_be_drawn_is_named(processor):
    inputs = processor.image_processor(random_image(30, 30), do_dynamic_tiling=False, return_tensors="pt")
    with pytest.raises(
        ValueError, match="view='canvas' cannot be drawn. Allowed: 'global_view': the image is not tiled"
    ):
        processor.draw_view(inputs)
    with pytest.raises(ValueError, match="view='tiles' cannot be drawn"):
        processor.draw_view(inputs, "tiles")
