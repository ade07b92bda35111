# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The fine-print benchmark: what it says about its pages is what is drawn and what FilaImageProcessor makes of it, and the
splits share nothing."""

import pickle
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations

import datasets
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

from fila import FilaDataCollator, FilaImageProcessor
from fila.common.arguments import UserError
from fila.common.layout import image_grid_pinpoints
from fila.fineprint import fonts, generate, texts
from fila.fineprint.marks import Block, Fact
from fila.fineprint.pages import Draft, PageOptions, make_page
from fila.fineprint.questions import WORDINGS, choose_facts, list_plain, list_wordings, word_question
from fila.fineprint.tiles import Canvas, corners
from fila.training.data import DataArguments, SampleCollator, load_data_source, make_dataset, read_row
from helpers import GRIDS, ROOT, tiny_processor

NUM_PAGES = 20
TILE = 112
COUNTED = ("exists", "count", "checked")


def options(**changes):
    return PageOptions(**{"tile_size": TILE, "transcribe": True, "max_questions": 12, **changes})


@pytest.fixture(scope="module")
def pages():
    """Pages of each split; none is photographed."""
    return {
        split: [make_page(0, row, options(split=split, photographed=0)) for row in range(NUM_PAGES)]
        for split in fonts.SPLITS
    }


@pytest.fixture(scope="module")
def all_pages(pages):
    return [page for split in fonts.SPLITS for page in pages[split]]


def is_inside(quad, size, slack=1.0):
    return (quad >= -slack).all() and (quad <= np.array(size) + slack).all()


def within(quad, size, slack):
    """A boolean image of the size (width, height): which pixels are in a convex box, or within `slack` pixels of it."""
    y, x = np.mgrid[0.5 : size[1], 0.5 : size[0]]
    sides = np.roll(quad, -1, axis=0) - quad
    distances = [
        ((x - px) * -dy + (y - py) * dx) / max(1e-6, np.hypot(dx, dy)) for (px, py), (dx, dy) in zip(quad, sides)
    ]
    return np.min(distances, axis=0) > -slack


def test_a_page_depends_on_seed_row_and_split_alone():
    first, again = (make_page(7, 3, options()) for _ in range(2))
    make_page(7, 4, options())
    other, other_split = make_page(7, 4, options()), make_page(7, 3, options(split="test"))
    assert first.image.tobytes() == again.image.tobytes()
    assert pickle.dumps(first.samples) == pickle.dumps(again.samples)
    for page in (other, other_split):
        assert page.image.size != first.image.size or page.image.tobytes() != first.image.tobytes()


def test_splits_share_no_family_and_no_text(pages):
    families, values, images = {}, {}, {}
    for split in fonts.SPLITS:
        faces = {text.face for page in pages[split] for block in page.draft.blocks for text in block.texts}
        families[split] = {name for name, own in fonts.find_families(None).items() if faces.intersection(own.values())}
        answers = [(sample.answer.casefold(), sample.kind) for page in pages[split] for sample in page.samples]
        values[split] = {text for text, kind in answers if kind in ("value", "cell", "line", "neighbor", "item")}
        images[split] = {page.image.tobytes() for page in pages[split]}
        assert len(values[split]) > 10 and len(families[split]) > 3 and len(images[split]) == NUM_PAGES
        for name in families[split]:
            assert fonts.split_of_family(name) == split
    pools = {split: texts.split_pools(split, None) for split in fonts.SPLITS}
    for one, other in combinations(fonts.SPLITS, 2):
        for found in (families, values, images):
            assert not found[one] & found[other]
        for kind, pool in pools[one].items():
            lines = ({text.strip().casefold() for text in own} for own in (pool, pools[other][kind]))
            assert len(pool) > 30 and not set.intersection(*lines)


def test_relatives_of_a_family_are_in_its_split():
    for names in (
        ("Fira Mono", "FiraGO"),
        ("Arimo", "Liberation Sans"),
        ("IBM Plex Sans", "IBM Plex Mono"),
        ("Lato", "Carlito"),
    ):
        assert len({fonts.split_of_family(name) for name in names}) == 1


def test_there_are_sixty_families_without_those_of_the_system(monkeypatch, tmp_path):
    monkeypatch.setattr(fonts, "_SYSTEM", tmp_path)
    families = fonts.find_families.__wrapped__(None)
    splits = Counter(map(fonts.split_of_family, families))
    assert len(families) >= 60 and splits["train"] >= 30 and min(splits.values()) >= 5


def test_fonts_draw_every_character_of_the_pages(all_pages):
    shown = {text.face: set() for page in all_pages for block in page.draft.blocks for text in block.texts}
    for page in all_pages:
        for block in page.draft.blocks:
            for text in block.texts:
                shown[text.face].update(text.text)
    for face, characters in shown.items():
        assert characters <= set(map(chr, TTFont(face.path, lazy=True).getBestCmap())), face


def test_text_is_inside_the_page_and_does_not_overlap(all_pages):
    for page in all_pages:
        shown = [text for block in page.draft.blocks for text in block.texts if any(map(str.isalnum, text.text))]
        assert all(is_inside(page.draft.camera.corners([text]), page.image.size) for text in shown)
        boxes = np.array([text.box for text in shown])
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        overlap = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - low).clip(0).prod(axis=-1)
        np.fill_diagonal(overlap, 0)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        assert (overlap < 0.1 * np.minimum(area[:, None], area[None])).all()


def test_nothing_is_hidden_by_what_is_drawn_later(all_pages):
    for page in all_pages:
        for block in page.draft.blocks:
            boxes = np.array([shape.box for shape in block.shapes if shape.method == "rectangle"]).reshape(-1, 4)
            outside = (boxes[:, None, :2] < boxes[None, :, :2]) | (boxes[:, None, 2:] > boxes[None, :, 2:])
            is_covered = ~outside.any(axis=-1)  # the first by the second
            assert not np.triu(is_covered, 1).any(), block.noun


def test_text_is_not_smaller_than_asked_for(all_pages):
    for page in all_pages:
        canvas = Canvas(page.image.size[::-1], TILE)
        for sample in page.samples:
            assert is_inside(sample.box, page.image.size)
            assert sample.text_height * min(1, canvas.scale[1]) >= 8 - 0.05


def test_answers_stand_in_their_boxes(pages):
    """Without an answer's text the page differs in the answer's box and nowhere else."""
    tried = 0
    for page in pages["test"]:
        for block in page.draft.blocks:
            for fact in block.facts:
                mark = fact.marks[0]
                if fact.kind in COUNTED or len(fact.marks) > 1 or tried == 40 or mark not in block.texts:
                    continue
                tried += 1
                assert fact.answer == mark.text or mark.text.startswith(fact.answer)
                drawn, text = page.draft.render(), mark.text
                mark.text = ""
                without = page.draft.render()
                mark.text = text
                before, after = (
                    np.asarray(page.draft.camera.take(image, page.draft.paper), int) for image in (drawn, without)
                )
                change = np.abs(before - after).sum(axis=-1)
                ink = within(page.draft.camera.corners([mark]), page.image.size, 2)
                assert change.max() > 60  # contrast, of three channels
                assert not change[~ink].any()
    assert tried == 40


def test_answers_are_on_the_page(all_pages):
    for page in all_pages:
        shown = page.samples[-1].answer
        lines = shown.splitlines()
        assert page.samples[-1].kind == "page"
        for sample in page.samples:
            if sample.kind not in COUNTED:
                assert sample.answer in shown
            elif sample.kind == "count":
                assert sample.answer.isdigit()
            else:
                assert sample.answer in ("yes", "no")
            if sample.kind == "cell":
                assert any(sample.answer in line for line in lines)


def test_questions_are_unambiguous(all_pages):
    for page in all_pages:
        questions = Counter(sample.question for sample in page.samples)
        assert max(questions.values()) == 1
        keys = Counter()
        for block in page.draft.blocks:
            for fact in block.facts:
                if fact.kind == "value":
                    keys[fact.slots["key"].casefold()] += 1
        assert not keys or max(keys.values()) == 1


def test_every_kind_occurs_in_at_least_twenty_wordings(all_pages):
    assert {sample.kind for page in all_pages for sample in page.samples} == set(WORDINGS)
    assert all(len(set(list_wordings(*patterns))) >= 20 for patterns in WORDINGS.values())


def ask_label(label, shown, kind=None, others=()):
    """Questions about the value "x" of a label, which is of the label's kind or another one, on a page that says `shown`."""
    kind = kind or next(kind for kind, labels in texts.LABELS.items() if label.casefold() in map(str.casefold, labels))
    fact, rng = Fact("value", "x", [], {"key": label, "what": "value"}), random.Random(0)
    fact.plain = list_plain(Block("list of details"), fact, shown, {"x": kind, **dict(zip("yz", others))})
    return {word_question(rng, fact) for _ in range(200)} if fact.plain else set()


def test_people_can_ask_about_each_kind_of_label_without_quotes():
    for kind, labels in texts.LABELS.items():
        questions = {question for label in labels for question in ask_label(label, label)}
        assert len({question for question in questions if not re.search("[\"'“«{]", question)}) >= 40, kind
        for label in labels:
            assert ask_label(label, label.upper()) or kind in ("phone", "email", "url"), label  # asked as the only one
    for label, question in {
        "DUE DATE": "When is it due?",
        "Driver": "Who is the driver?",
        "Total": "How much is the total?",
        "Phone": "What is the phone number?",
        "Shop": "Which shop is it?",
        "Opens": "What time does it open?",
        "To": "Where does it go?",
        "Weight": "How heavy is it?",
    }.items():
        assert question in ask_label(label, f"{label}: 3 May\nTomato")


def test_no_plain_question_about_a_label_that_another_text_could_answer():
    assert "When does it expire?" in ask_label("Expires", "Expires 3 May")
    assert not ask_label("Expires", "Expires 3 May. Valid until it expires.")
    both = ask_label("Expires", "Expires 3 May\nValid until 4 May") | ask_label("Opens", "Opens\nDoors open")
    assert not both & {"When does it expire?", "Until when is it valid?", "When does it open?"}
    assert not ask_label("Price", "Price", others=["price"]) and ask_label("Price", "Price", others=["date"])
    assert not ask_label("Start", "Start\nStart date")
    assert not ask_label("Weight", "Weight", kind="company")  # a word that was drawn, as for any value


def all_facts(count):
    """(draft, all facts that can be asked about it) of so many pages."""
    for row in range(count):
        draft = Draft(random.Random(row), options(split="test"))
        draft.compose()
        if draft.blocks:
            yield draft, choose_facts(draft, 10**6, False)


def test_a_question_has_one_answer_on_its_page():
    rng, plain = random.Random(0), Counter()
    for _, facts in all_facts(100):
        answers = {}
        for fact in facts:
            for _ in range(30):
                answers.setdefault(word_question(rng, fact).casefold().rstrip(".?:"), set()).add(fact.answer)
            plain[fact.kind] += bool(fact.plain)
        assert not {question: found for question, found in answers.items() if len(found) > 1}
    assert min(plain[kind] for kind in ("value", "key", "cell", "row", "heading", "block", "only", "place")) > 3


def test_what_is_said_to_be_alone_is_alone():
    looks = {"percentage": r"\d ?%", "mail": r"\w@\w+\.", "web|URL|link": r"www|https?:"}
    found = Counter()
    for draft, facts in all_facts(120):
        shown = [text for block in draft.blocks for text in block.texts]
        for fact in facts:
            what = fact.slots.get("what", "")
            if fact.kind == "only":
                assert sum(mark.text == fact.answer for mark in shown) == 1
                for name, look in looks.items():
                    if re.search(name, what):
                        others = [
                            text.text for text in shown if text.text != fact.answer and re.search(look, text.text)
                        ]
                        assert not others, (what, fact.answer)
                        found[name] += 1
            elif fact.kind == "place":
                others = [text for text in shown if not any(text is mark for mark in fact.marks)]
                if "letters" in what or "print" in what:
                    assert all(text.capital * 1.3 < fact.marks[0].capital for text in others)
                elif "top" in what:
                    assert all(text.y > mark.y for text in others for mark in fact.marks)
                else:
                    assert all(text.y < mark.y for text in others for mark in fact.marks)
                found[fact.kind] += 1
    assert min(found[name] for name in ("percentage", "mail", "web|URL|link", "place")) > 1


def rows_of(split, count):
    made = generate.Options(tile_size=TILE)
    return [generate.make_row(made, split, row) for row in range(count)]


def test_a_row_is_a_conversation_about_its_page():
    page = make_page(0, 0, PageOptions(tile_size=TILE))
    (row,) = rows_of("train", 1)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * len(page.samples)
    kinds = [[item["type"] for item in message["content"]] for message in row["messages"]]
    assert kinds == [["image", "text"], ["text"], *[["text"], ["text"]] * (len(page.samples) - 1)]
    said = [message["content"][-1]["text"] for message in row["messages"]]
    assert said == [text for sample in page.samples for text in (sample.question, sample.answer)]
    assert row["answers"] == said[1:2]


def test_position_and_height_are_those_on_the_tiles_of_the_processor():
    """The answer's box, drawn black on white, falls into one tile of the processor, or is torn by a cut."""
    processor = FilaImageProcessor(size=TILE, image_grid_pinpoints=image_grid_pinpoints(TILE), do_high_res=False)
    rows = rows_of("test", 24)
    assert {row["position"] for row in rows} >= {"inside", "across"} and len({row["kind"] for row in rows}) > 5
    for number, row in enumerate(rows):
        image = make_page(0, number, PageOptions(tile_size=TILE, split="test")).image
        quad = np.reshape(row["box"], (4, 2))
        marked, empty = (PIL.Image.new("RGB", image.size, "white") for _ in range(2))
        PIL.ImageDraw.Draw(marked).polygon([tuple(point) for point in quad], "black")
        marked, empty = (processor(image, return_tensors="pt") for image in (marked, empty))
        assert marked["image_grids"].tolist() == [row["grid"]]
        ink = (empty["pixel_values"] - marked["pixel_values"])[0, 1:].sum(dim=(1, 2, 3))
        share = float(ink.max() / ink.sum())
        if row["position"] == "inside":
            assert share > 0.95
        elif row["position"] == "across":
            assert share < 0.92
        assert len(row["messages"]) == 2 and row["text_height"] >= 7.9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A benchmark that the command line made in two processes, from a recipe."""
    output = tmp_path_factory.mktemp("fineprint") / "parent" / "output"
    recipe = output.parent.with_name("recipe.yaml")
    recipe.write_text(f"num_train: 7\nnum_validation: 2\nnum_test: 9\nnum_proc: 2\ntile_size: {TILE}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "ROWS_PER_FILE", 3)
        generate.main([str(recipe), "--output_dir", str(output), "--num_test", "4"])
    assert [path.name for path in output.parent.iterdir()] == ["output"]
    return output


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Keeps what datasets prepares out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_folder_is_read_by_datasets(folder, own_cache):
    assert len(list((folder / "data").glob("train-*-of-00003.parquet"))) == 3
    loaded = datasets.load_dataset(str(folder))
    assert {split: len(loaded[split]) for split in loaded} == {"train": 7, "validation": 2, "test": 4}
    assert loaded["test"].features == generate.FEATURES
    for number, row in enumerate(rows_of("train", 7)):  # whatever the processes
        assert loaded["train"][number]["messages"] == row["messages"]
    (image,) = loaded["test"][2]["images"]
    assert list(Canvas(image.size[::-1], TILE).grid) == loaded["test"][2]["grid"]


def test_the_readme_explains_every_column_and_kind():
    text = (ROOT / "fineprint" / "README.md").read_text()
    assert all(f"`{name}`" in text for name in generate.FEATURES)
    kinds = re.search(r"`kind` \| .*?: (.*?) \|", text)[1]
    assert all(re.search(rf"\b{kind}\b", kinds) for kind in WORDINGS) and f"{len(WORDINGS)} kinds" in " ".join(
        text.split()
    )


def test_the_recipe_in_the_folder_makes_the_same_pages(folder, tmp_path, own_cache):
    generate.main([str(folder / "recipe.yaml"), "--output_dir", str(tmp_path / "again")])

    def rows(path):
        loaded = datasets.load_dataset(str(path), split="train+test")
        return loaded.cast_column("images", datasets.List(datasets.Image(decode=False))).to_list()

    assert rows(folder) == rows(tmp_path / "again")


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


def test_a_pack_makes_pages_where_neither_fonts_nor_faker_are_installed(tmp_path, monkeypatch):
    """And the same in each process."""
    found = fonts.find_families(None)
    some = {name: found[name] for split in fonts.SPLITS for name in list(filter(_in(split), found))[:2]}
    with monkeypatch.context() as patch:
        patch.setattr(fonts, "find_families", lambda assets: some)
        generate.main(["--pack", "true", "--output_dir", str(tmp_path / "pack")])
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.[ot]tf")) < 1_000_000

    def read(families):
        return {
            name: {style: (face.path.split("/")[-1], face.weight) for style, face in faces.items()}
            for name, faces in families.items()
        }

    assert read(fonts.find_families(tmp_path / "pack")) == read(some)
    script = f"""
import hashlib, sys
sys.modules.update(dict.fromkeys(("faker", "wonderwords", "fontTools", "matplotlib")))
from fila.fineprint import fonts
from fila.fineprint.pages import PageOptions, make_page
fonts._SYSTEM = fonts._PACKAGED = None
made = [make_page(0, 1, PageOptions(split=split, tile_size=112, assets={str(tmp_path / "pack")!r})) for split in fonts.SPLITS]
print(*[hashlib.sha256(page.image.tobytes()).hexdigest() for page in made])
"""
    printed = {subprocess.check_output([sys.executable, "-c", script], cwd=tmp_path) for _ in range(2)}
    assert len(printed) == 1


def _in(split):
    return lambda name: fonts.split_of_family(name) == split


def test_preview_shows_boxes_and_cuts(tmp_path):
    generate.main(["--tile_size", "112", "--preview", "4", "--output_dir", str(tmp_path / "preview")])
    colors = Counter(PIL.Image.open(tmp_path / "preview" / "preview.png").convert("RGB").get_flattened_data())
    assert colors[255, 0, 0] > 100  # boxes
    assert colors[0, 0, 255] > 100  # cuts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--split dev", "split='dev' is not possible: choose one of train, validation, test"),
        ("--min_text_height 90", "min_text_height=90.0 is not possible: it must be from 4 to 16"),
        ("--tile_size 50", "tile_size=50 is not possible: it must be from 56 to 1344"),
        ("--num_test -1", "num_test=-1 is not possible: it must be 0 or more"),
        ("--assets nowhere", "assets='nowhere' is not possible: it must be a folder that --pack has written"),
        ("--max_questions 0", "max_questions=0 is not possible: it must be from 1"),
        ("--num_train 0 --num_validation 0 --num_test 0", "there is nothing to make"),
    ],
)
def test_bad_options_are_sentences_and_leave_nothing(arguments, message, tmp_path):
    with pytest.raises(UserError, match=f"^.*{message}"):
        generate.main(["--output_dir", str(tmp_path / "output"), "--tile_size", "112", *arguments.split()])
    assert list(tmp_path.iterdir()) == []


def test_output_is_all_or_nothing(tmp_path, monkeypatch):
    arguments = ["--output_dir", str(tmp_path / "output"), "--tile_size", "112", "--preview", "1"]

    def fail(options, path):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(generate, "draw_preview", fail)
        with pytest.raises(UserError, match="output cannot be written: No space left on device"):
            generate.main(arguments)
    assert list(tmp_path.iterdir()) == []
    generate.main(arguments)
    before = (tmp_path / "output" / "preview.png").read_bytes()
    with pytest.raises(UserError, match="output exists already. Choose another one, or remove it"):
        generate.main(arguments)
    assert (tmp_path / "output" / "preview.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_missing_package_is_named(monkeypatch, tmp_path):
    texts.split_pools.cache_clear()
    texts.make_pools.cache_clear()
    monkeypatch.setitem(sys.modules, "faker", None)
    with pytest.raises(UserError, match=r"faker.*\[fineprint\]"):
        generate.main(["--preview", "1", "--output_dir", str(tmp_path / "output")])


def make_canvas(rows, columns, tile):
    """The canvas of an image that is as large as so many tiles."""
    size = rows * tile, columns * tile
    return Canvas(size, tile, FilaImageProcessor(size=tile, patch_size=10, image_grid_pinpoints=[size]))


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
    assert make_canvas(2, 3, 100).locate(corners(box)) == expected


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
    quad = np.array([start, start + along, start + along + across, start + across])
    position = make_canvas(*grid, tile).locate(quad)
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
