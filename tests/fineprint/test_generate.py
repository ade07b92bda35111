# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The fine-print benchmark: what it says about its samples is what FilaImageProcessor makes of their pixels."""

import dataclasses
import io
import math
import random
import re
from collections import Counter
from itertools import combinations, product

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

from fila import FilaDataCollator, FilaImageProcessor
from fila.common.arguments import UserError
from fila.fineprint import generate, sources
from fila.fineprint.blocks import Run
from fila.fineprint.documents import KINDS, MORE_SETTINGS, TEMPLATES, mix_template
from fila.fineprint.drawing import FEATURES, make_sample, render
from fila.fineprint.pages import Options, corners, lay_out, locate
from fila.fineprint.sources import FONTS, PHOTOS, SPLITS
from fila.training.data import DataArguments, SampleCollator, load_data_source, make_dataset, read_row
from helpers import GRIDS, tiny_processor

TILE = 112
KIND_NAMES = ["receipt", "form", "letter", "table", "chart", "sign"]
# Kinds, canvases and positions take turns: after so many samples each of their combinations has come once.
ROUND = len(KIND_NAMES) * len(GRIDS) * 2


def options(**changes):
    return Options(**{"output_dir": "unused", "tile_size": TILE, **changes})


@pytest.fixture(scope="module")
def pages():
    """Laid out pages, by split."""
    return {split: [lay_out(options(max_questions=10), split, i) for i in range(2 * ROUND)] for split in SPLITS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A benchmark that the command line made in two processes."""
    output = tmp_path_factory.mktemp("fineprint") / "parent" / "output"
    recipe = output.parent.with_name("recipe.yaml")
    recipe.write_text("num_train: 7\nnum_validation: 2\nnum_test: 9\nnum_proc: 2\ngallery: 3\ntile_size: 112\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "ROWS_PER_FILE", 3)
        generate.main([str(recipe), "--output_dir", str(output), "--num_test", "4"])
    assert [path.name for path in output.parent.iterdir()] == ["output"]
    return output


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Keeps what datasets prepares out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def processor():
    pinpoints = [[rows * TILE, columns * TILE] for rows, columns in GRIDS]
    return FilaImageProcessor(size=TILE, image_grid_pinpoints=pinpoints, do_high_res=False)


def ink_in_tiles(page, run):
    """What a run changes in the processor's tiles, summed over channels: (rows, columns, TILE, TILE)."""
    images = [
        render(dataclasses.replace(page, marks=marks))
        for marks in ([*page.marks, run], [mark for mark in page.marks if mark is not run])
    ]
    with_run, without = (processor()(image, return_tensors="pt") for image in images)
    assert with_run["image_grids"].tolist() == [list(page.placement.grid)]
    change = (with_run["pixel_values"] - without["pixel_values"])[0, 1:].abs().sum(dim=1)
    return change.unflatten(0, page.placement.grid)


def on_canvas(tiles):
    """(rows, columns, TILE, TILE) as one (height, width) canvas."""
    return tiles.transpose(1, 2).flatten(2).flatten(0, 1)


@pytest.mark.parametrize("index", [*range(0, ROUND, 2), *range(1, ROUND, 6)])
def test_position_and_box_are_where_the_processor_puts_the_ink(index):
    page = lay_out(options(), "test", index)
    answer = page.asked[0]
    ink = ink_in_tiles(page, answer)
    shares = ink.sum(dim=(2, 3)) / ink.sum()
    if page.position == "inside":
        assert shares.max() > 0.95
    else:
        assert shares.max() < 0.92

    row = make_sample(options(), "test", index)
    assert row["position"] == page.position
    box = page.placement.to_canvas(np.reshape(row["box"], (4, 2)))
    height, width = on_canvas(ink).shape
    y, x = np.mgrid[0.5:height, 0.5:width]
    # Distance of each pixel from each side of the box, positive inside; resizing and blur smear ink over two pixels.
    sides = np.roll(box, -1, axis=0) - box
    distances = [((x - left) * -dy + (y - top) * dx) / math.hypot(dx, dy) for (left, top), (dx, dy) in zip(box, sides)]
    within = torch.tensor(np.min(distances, axis=0) > -2)
    assert on_canvas(ink)[within].sum() > 0.97 * ink.sum()
    # No side could be moved in by more than 2.5 pixels without losing ink.
    for distance in distances:
        outer = torch.tensor((distance < 2.5) & within.numpy())
        assert on_canvas(ink)[outer].max() > 0.1 * ink.max()


def test_text_height_is_that_of_capitals_on_the_canvas(pages):
    straight = [page for page in pages["test"] if (page.placement.matrix == np.eye(2)).all()][::4]
    assert len(straight) > 10
    for page in straight:
        answer = page.asked[0]
        capitals = dataclasses.replace(answer, text="NNN")  # about as much ink in each of its rows
        empty = dataclasses.replace(page, marks=[mark for mark in page.marks if mark is not answer])
        rows = on_canvas(ink_in_tiles(empty, capitals)).sum(dim=1)
        height = (rows > 0.5 * rows[rows > 0.2 * rows.max()].median()).sum()
        assert abs(height - answer.capital_height / page.placement.unit) <= 1.5


def test_kinds_canvases_and_positions_are_equally_frequent(pages):
    assert list(KINDS) == KIND_NAMES
    for split in SPLITS:
        counts = Counter((page.kind, page.placement.grid, page.position) for page in pages[split])
        assert counts == dict.fromkeys(product(KIND_NAMES, GRIDS, ("inside", "across")), 2)
        for page in pages[split]:
            assert processor().get_image_grid(*page.placement.image_size) == page.placement.grid


def test_text_is_inside_the_image_and_not_smaller_than_asked_for(pages):
    for page in [page for split in SPLITS for page in pages[split]]:
        height, width = page.placement.image_size
        for run in page.runs:
            quad = page.placement.to_image(corners(run.ink))
            assert (quad > 0).all() and (quad < (width, height)).all()
            assert run.capital_height / page.placement.unit >= 8 - 1e-6


def test_texts_and_lines_do_not_overlap(pages):
    for page in [page for split in SPLITS for page in pages[split]]:
        lines = [mark for mark in page.marks if not isinstance(mark, Run) and mark.color == "ink" and not mark.outline]
        for run, line in product(page.runs, lines):
            (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = run.band, line.box
            assert min(right, right_2) - max(left, left_2) < 1 or min(bottom, bottom_2) - max(top, top_2) < 0.5
        for one, other in combinations(page.runs, 2):
            (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = one.ink, other.ink
            # Boxes of ink are whole pixels.
            slack = 1 + 0.1 * min(one.capital_height, other.capital_height)
            assert min(right, right_2) - max(left, left_2) < 1 or min(bottom, bottom_2) - max(top, top_2) < slack


def test_splits_share_nothing(pages):
    def of(split):
        asked = [run for page in pages[split] for run in page.runs if run.question]
        return (
            {run.font for page in pages[split] for run in page.runs},
            {(page.kind, page.template) for page in pages[split]},
            {run.text.casefold() for run in asked},
        )

    for one, other in combinations(SPLITS, 2):
        for mine, theirs in zip(of(one), of(other)):
            assert mine and theirs and not mine & theirs
        assert not set(PHOTOS[one]) & set(PHOTOS[other])
        assert not set(FONTS[one]) & set(FONTS[other])
        for kind in KIND_NAMES:
            assert not set(TEMPLATES[kind][one]) & set(TEMPLATES[kind][other])


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_mixed_templates_are_many_and_in_no_other_split(kind):
    rng = random.Random(0)
    mixed = [mix_template(kind, rng) for _ in range(300)]
    others = [template for split in ("validation", "test") for template in TEMPLATES[kind][split].values()]
    assert len({str(template) for template in mixed}) > 10 * len(TEMPLATES[kind]["train"])
    assert not [template for template in mixed if template in others]
    orders = [{template.get("order", "of one part") for template in templates} for templates in (mixed, others)]
    assert not orders[0] & orders[1] or orders[0] == {"of one part"}
    for template in TEMPLATES[kind]["train"].values():
        assert all(template.keys() == one.keys() for one in mixed)
    for key, values in MORE_SETTINGS[kind].items():  # words that training pages alone have
        words = {value for value in values if isinstance(value, str)}
        if key not in ("meta", "colon"):
            assert not {word.casefold() for word in words} & {str(other[key]).casefold() for other in others}


def test_mixed_templates_change_training_pages_alone():
    for index in range(len(KIND_NAMES)):
        page, mixed = (lay_out(options(mix_templates=mix), "train", index + ROUND) for mix in (False, True))
        assert (page.template in TEMPLATES[page.kind]["train"], mixed.template) == (True, "mixed")
        tests = [lay_out(options(mix_templates=mix), "test", index) for mix in (False, True)]
        assert [run.text for run in tests[0].runs] == [run.text for run in tests[1].runs]


def test_answers_and_questions_are_unambiguous(pages):
    mixed = [lay_out(options(max_questions=10, mix_templates=True), "train", index) for index in range(2 * ROUND)]
    for page in [*mixed, *(page for split in SPLITS for page in pages[split])]:
        for run in page.asked:
            answer = run.text.casefold()
            assert [other for other in page.runs if answer in other.text.casefold()] == [run]
            assert answer not in run.question.casefold()
        questions = [run.question for run in page.runs if run.question]
        assert len(set(questions)) == len(questions)


def test_training_images_have_several_questions_that_give_no_later_answer_away(pages):
    for page in pages["train"]:
        for earlier, later in combinations(page.asked, 2):
            assert later.text.casefold() not in f"{earlier.question} {earlier.text}".casefold()
    counts = [len(page.asked) for page in pages["train"]]
    assert min(counts) == 1 and 4 < max(counts) <= 10
    assert {len(page.asked) for page in pages["validation"] + pages["test"]} == {1}
    assert max(len(lay_out(options(), "train", index).asked) for index in range(ROUND)) == 4


def test_conversation_asks_about_its_page():
    page = lay_out(options(max_questions=10), "train", 2)
    row = make_sample(options(max_questions=10), "train", 2)
    assert len(page.asked) > 2
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * len(page.asked)
    kinds = [[item["type"] for item in message["content"]] for message in row["messages"]]
    assert kinds == [["image", "text"], ["text"], *[["text"], ["text"]] * (len(page.asked) - 1)]
    texts = [message["content"][-1]["text"] for message in row["messages"]]
    assert texts == [text for run in page.asked for text in (run.question, run.text)]
    assert (row["question"], row["answer"]) == (page.asked[0].question, page.asked[0].text)


def test_samples_depend_on_seed_split_and_index_alone(folder, tmp_path, own_cache):
    arguments = "--num_train 5 --num_validation 0 --num_test 1 --gallery 0 --tile_size 112"
    generate.main(["--output_dir", str(tmp_path / "other"), *arguments.split()])

    def rows(path, split):
        loaded = datasets.load_dataset(str(path), split=split)
        return loaded.cast_column("images", datasets.List(datasets.Image(decode=False))).to_list()

    assert rows(folder, "train")[:5] == rows(tmp_path / "other", "train")
    assert rows(folder, "test")[:1] == rows(tmp_path / "other", "test")
    expected = make_sample(options(), "train", 6)
    found = rows(folder, "train")[6]
    assert found["images"] == expected["images"]
    assert found["messages"] == expected["messages"]
    assert make_sample(options(seed=1), "train", 6)["images"] != expected["images"]


def test_folder_is_read_by_datasets(folder, own_cache):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "data", "gallery.png"]
    assert len(list((folder / "data").glob("train-*-of-00003.parquet"))) == 3
    loaded = datasets.load_dataset(str(folder))
    assert {split: len(loaded[split]) for split in loaded} == {"train": 7, "validation": 2, "test": 4}
    assert loaded["test"].features == FEATURES
    row = loaded["test"][2]
    (image,) = row["images"]
    assert list(processor().get_image_grid(*image.size[::-1])) == row["grid"]
    assert row["answer"] == row["messages"][1]["content"][0]["text"]


def test_folder_is_training_data(folder, tmp_path, own_cache):
    source = load_data_source(0, {"path": str(folder), "split": "train"})
    row = read_row(source.dataset[0], source.image_folder)
    assert [item["type"] for item in row["messages"][0]["content"]] == ["image", "text"]

    collator = FilaDataCollator(tiny_processor(tile_size=TILE), max_length=4096)
    training = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    dataset = make_dataset([source], collator, DataArguments(), training)
    assert len(dataset) == 7
    batch = SampleCollator(collator, [source])([dataset[0], dataset[6]])
    assert batch["pixel_values"].shape[0] == 2
    for index, number in enumerate((0, 6)):
        learnt = collator.processor.tokenizer.decode(batch["labels"][index][batch["labels"][index] != -100])
        answers = [message["content"][0]["text"] for message in source.dataset[number]["messages"][1::2]]
        assert all(answer in learnt for answer in answers)


def test_card_counts_what_is_there(folder):
    text = (folder / "README.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    questions = str(sum(len(make_sample(options(), "train", index)["messages"]) // 2 for index in range(7)))
    assert rows == [("train", "7", questions), ("validation", "2", "2"), ("test", "4", "4")]
    assert all(f"`{name}`" in text for name in FEATURES)
    assert "size_categories" not in text  # which the README has for the default options


def test_card_has_the_recipe_that_makes_the_same_pages(folder):
    text = (folder / "README.md").read_text()
    recipe = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    again = Options(**recipe)
    assert (again.tile_size, again.num_train, again.max_text_height) == (112, 7, 12)
    assert make_sample(again, "train", 1) == make_sample(options(), "train", 1)


def test_gallery_shows_boxes_and_cuts(folder):
    colors = Counter(PIL.Image.open(folder / "gallery.png").convert("RGB").get_flattened_data())
    assert colors[255, 0, 0] > 100  # boxes
    assert colors[0, 0, 255] > 100  # cuts


def test_jpeg_is_the_page(pages):
    page = pages["validation"][4]
    row = make_sample(options(), "validation", 4)
    decoded = np.asarray(PIL.Image.open(io.BytesIO(row["images"][0]["bytes"])), dtype=float)
    assert decoded.shape == (*page.placement.image_size, 3)
    assert np.abs(decoded - np.asarray(render(page))).mean() < 8


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 50, 20), "inside"),
        ((70, 110, 99, 120), "inside"),  # the second row
        ((70, 10, 99.5, 20), None),  # too close to the cut
        ((80, 10, 120, 20), "across"),
        ((80, 10, 103, 20), None),  # 20 of 23: the cut only touches it
        ((80, 10, 104, 20), "across"),  # 20 of 24
        ((80, 80, 120, 120), "across"),  # in four tiles
        ((20, 98, 80, 103), "across"),
        ((10, 10, 250, 20), "across"),  # over three tiles
    ],
)
def test_locate(box, expected):
    assert locate(corners(box), 100, (2, 3)) == expected


@settings(max_examples=150, deadline=None)
@given(
    grid=st.sampled_from(GRIDS),
    center=st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)),
    size=st.tuples(st.floats(3, 150), st.floats(3, 40)),
    angle=st.floats(-30, 30),
)
def test_locate_agrees_with_points_of_the_text(grid, center, size, angle):
    tile, steps = 100, 60
    turn = np.radians(angle)
    along, across = size[0] * np.array([np.cos(turn), np.sin(turn)]), size[1] * np.array([-np.sin(turn), np.cos(turn)])
    start = np.array([center[0] * grid[1], center[1] * grid[0]]) * tile - (along + across) / 2
    position = locate(np.array([start, start + along, start + along + across, start + across]), tile, grid)
    shares = (np.arange(steps) + 0.5) / steps
    points = start + shares[:, None, None] * along + shares[:, None] * across
    # What hangs over the edge of the canvas belongs to the tile at the edge.
    tiles = np.clip(points // tile, 0, np.array([grid[1], grid[0]]) - 1).reshape(-1, 2)
    largest = np.unique(tiles, axis=0, return_counts=True)[1].max() / len(tiles)
    if position == "inside":
        assert largest == 1
    elif position == "across":
        assert largest < 0.85 + 0.03
    else:
        assert largest > 0.85 - 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--kinds receipt poem", "kinds=.*'poem'.* is not possible: choose one or more of receipt, form"),
        ("--tile_size 100", "tile_size=100 is not possible: it must be a multiple of 14"),
        ("--min_text_height 30", "Text of 30.0 to .* pixels does not go with tile_size=112"),
        ("--num_test -1", "num_test=-1 is not possible: it must be 0 or more"),
        ("--max_questions 0", "max_questions=0 is not possible: it must be 1 or more"),
        ("--max_image_scale 0.5", "max_image_scale=0.5 is not possible"),
        ("--num_train 0 --num_validation 0 --num_test 0", "there is nothing to make"),
        ("--tile_size 56 --kinds letter --num_train 1", "Found no letter with text of 8 to 9.33333 pixels"),
        (
            "--tile_size 56 --kinds letter --num_train 2 --num_proc 2",
            "Found no letter with text of 8 to 9.33333 pixels",
        ),
    ],
)
def test_bad_options_are_sentences_and_leave_nothing(arguments, message, tmp_path):
    with pytest.raises(UserError, match=f"^.*{message}"):
        generate.main(["--output_dir", str(tmp_path / "output"), "--tile_size", "112", *arguments.split()])
    assert list(tmp_path.iterdir()) == []


def test_output_is_all_or_nothing(tmp_path, monkeypatch):
    output = tmp_path / "output"
    arguments = ["--output_dir", str(output), "--tile_size", "112", "--num_train", "2", "--num_validation", "0"]
    arguments += ["--num_test", "1"]

    def fail(options, samples):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(generate, "make_card", fail)
        with pytest.raises(UserError, match="output cannot be written: No space left on device"):
            generate.main(arguments)
    assert list(tmp_path.iterdir()) == []

    generate.main(arguments)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="output exists already. Choose another one, or remove it"):
        generate.main(arguments)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [output]


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"package 'skimage', which is not installed.*\[fineprint\]"):
        sources.load_photo.__wrapped__("chelsea.png")
