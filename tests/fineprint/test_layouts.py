# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages of free layout: what their samples say is what is drawn, and the splits share nothing."""

import pickle
from collections import Counter

import numpy as np
import PIL.Image
import pytest

from fila.common.arguments import UserError
from fila.fineprint.layouts import fonts, generate, texts
from fila.fineprint.layouts.pages import PageOptions, get_canvas, make_page
from fila.fineprint.layouts.questions import WORDINGS, list_wordings

NUM_PAGES = 20
COUNTED = ("exists", "count", "checked")


def options(**changes):
    return PageOptions(**{"tile_size": 112, "transcribe": True, "max_questions": 12, **changes})


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
        samples = [sample for page in pages[split] for sample in page.samples]
        values[split] = {
            sample.answer for sample in samples if sample.kind in ("value", "cell", "price", "before", "after")
        }
        images[split] = {page.image.tobytes() for page in pages[split]}
        assert len(values[split]) > 10 and len(families[split]) > 3 and len(images[split]) == NUM_PAGES
        for name in families[split]:
            assert fonts.split_of_family(name) == split
    for found in (families, values, images):
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            assert not found[one] & found[other]
    pools = [texts.split_pools(split, None) for split in fonts.SPLITS]
    assert all(len(pool) > 30 for own in pools for pool in own.values())
    assert not any(set(pools[0][kind]) & set(pools[2][kind]) for kind in pools[0])


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
    for page in all_pages:
        for block in page.draft.blocks:
            for text in block.texts:
                assert fonts.drawable(text.face).issuperset(text.text), (text.face, text.text)


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


def test_text_is_not_smaller_than_asked_for(all_pages):
    for page in all_pages:
        _, (_, _, height, _) = get_canvas(page.image.size[::-1], 112)
        unit = max(1, page.image.height / height)
        for sample in page.samples:
            assert is_inside(sample.box, page.image.size)
            assert sample.text_height / unit >= 8 - 0.05


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
                if fact.kind in ("value", "price", "chart"):
                    keys[fact.slots["key"].casefold()] += 1
        assert not keys or max(keys.values()) == 1


def test_every_kind_occurs_in_at_least_twenty_wordings(all_pages):
    assert {sample.kind for page in all_pages for sample in page.samples} == set(WORDINGS)
    assert all(len(set(list_wordings(kind))) >= 20 for kind in WORDINGS)


def test_rows_say_where_the_answer_lies():
    rows = [generate.make_row(0, row, options(split="test")) for row in range(16)]
    assert {row["position"] for row in rows} >= {"inside", "across"}
    assert len({row["kind"] for row in rows}) > 5
    for row in rows:
        assert [message["content"][-1]["text"] for message in row["messages"]] == [row["question"], row["answer"]]
    train = generate.make_row(0, 0, options())
    assert len(train["messages"]) > 4 and train["messages"][0]["content"][0]["type"] == "image"


def test_the_command_writes_what_load_dataset_reads(tmp_path):
    from datasets import load_dataset

    arguments = ["--tile_size", "112", "--split", "test", "--output_dir"]
    generate.main([*arguments, str(tmp_path / "data"), "--num_pages", "5"])
    dataset = load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))["test"]
    assert len(dataset) == 5 and isinstance(dataset[0]["images"][0], PIL.Image.Image)
    options = PageOptions(split="test", tile_size=112)
    assert dataset["question"][:] == [generate.make_row(0, row, options)["question"] for row in range(5)]
    generate.main([*arguments, str(tmp_path / "preview"), "--preview", "2"])
    assert PIL.Image.open(tmp_path / "preview" / "preview.png").width > 600


def test_wrong_options_are_explained():
    with pytest.raises(UserError, match="choose one of train, validation, test"):
        generate.main(["--split", "dev"])
    with pytest.raises(UserError, match="min_text_height=90"):
        generate.main(["--min_text_height", "90"])
