from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from vlmprep.demo.corpus import ORIENTATION, _save, make_corpus, num_samples_of
from vlmprep.demo.pictures import Picture


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def whole_samples(folder: Path) -> list[dict[str, Any]]:
    """The usable samples of both files, in one spelling."""
    lines = (folder / "sharegpt.jsonl").read_bytes().splitlines()
    samples = [json.loads(line) for line in lines if line.startswith(b'{"id": "demo-')]
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    for sample in json.loads((folder / "conversations.json").read_text()):
        turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in sample["conversations"]]
        samples.append({"id": sample["id"], "messages": turns, "images": sample["image"]})
    return samples


@pytest.fixture(scope="module")
def samples(demo_corpus):
    return whole_samples(demo_corpus)


def test_same_arguments_write_the_same_bytes(tmp_path):
    make_corpus(tmp_path / "one", num_samples=30, seed=3)
    make_corpus(tmp_path / "two", num_samples=30, seed=3)
    make_corpus(tmp_path / "other", num_samples=30, seed=4)
    one = tree(tmp_path / "one")
    assert len(one) > 30
    assert tree(tmp_path / "two") == one
    assert tree(tmp_path / "other")["sharegpt.jsonl"] != one["sharegpt.jsonl"]


def test_a_sample_does_not_depend_on_how_many_there_are(tmp_path):
    make_corpus(tmp_path / "few", num_samples=10, damaged=False)
    make_corpus(tmp_path / "more", num_samples=20, damaged=False)
    few, more = ({sample["id"]: sample for sample in whole_samples(tmp_path / name)} for name in ("few", "more"))
    assert len(few) == 10
    assert {sample_id: more[sample_id] for sample_id in few} == few
    assert tree(tmp_path / "few" / "media").items() <= tree(tmp_path / "more" / "media").items()


def test_every_usable_sample_stands_in_one_of_the_files(demo_corpus, samples):
    assert sorted(sample["id"] for sample in samples) == [f"demo-{number:05d}" for number in range(200)]
    assert len(json.loads((demo_corpus / "conversations.json").read_text())) == 50
    assert num_samples_of(demo_corpus) == 200
    assert num_samples_of(demo_corpus / "media") is None


def test_meta_names_the_files_and_their_words(demo_corpus):
    meta = json.loads((demo_corpus / "meta.json").read_text())
    assert [entry["file_name"] for entry in meta.values()] == ["sharegpt.jsonl", "conversations.json"]
    first_line = json.loads((demo_corpus / "sharegpt.jsonl").read_bytes().splitlines()[0])
    first_respelled = json.loads((demo_corpus / "conversations.json").read_text())[0]
    for entry, row in zip(meta.values(), (first_line, first_respelled), strict=True):
        assert (demo_corpus / entry["media_dir"] / row[entry["columns"]["images"]][0]).is_file()
        turns = row[entry["columns"]["messages"]]
        roles = [turn[entry["tags"]["role_tag"]] for turn in turns]
        assert {entry["tags"]["user_tag"], entry["tags"]["assistant_tag"]} <= set(roles)
        assert all(turn[entry["tags"]["content_tag"]] for turn in turns)


def test_the_conversations_come_in_every_shape(samples):
    num_images = Counter(len(sample["images"]) for sample in samples)
    num_turns = Counter(sum(m["role"] == "user" for m in sample["messages"]) for sample in samples)
    assert set(num_images) == {0, 1, 2, 4}
    assert set(num_turns) == {1, 2, 3}
    assert min(*num_images.values(), *num_turns.values()) >= 5
    assert sum(sample["messages"][0]["role"] == "system" for sample in samples) >= 5
    later_turns = [m["content"] for sample in samples for m in sample["messages"][2:] if m["role"] == "user"]
    assert any("<image>" in content for content in later_turns)


def test_turns_alternate_and_tags_match_images(samples):
    for sample in samples:
        roles = [message["role"] for message in sample["messages"] if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) != []
        text = "".join(message["content"] for message in sample["messages"] if message["role"] == "user")
        assert text.count("<image>") == len(sample["images"])
        assert all(message["content"].strip() for message in sample["messages"])


def test_no_question_is_asked_twice_about_a_picture(samples):
    for sample in samples:
        asked = [m["content"].replace("<image>\n", "") for m in sample["messages"] if m["role"] == "user"]
        assert len(set(asked)) == len(asked) or not sample["images"], sample["id"]


def test_the_images_decode_and_are_of_many_kinds(demo_corpus, samples):
    kinds: Counter[str] = Counter()
    pixels = []
    for name in (name for sample in samples for name in sample["images"]):
        with Image.open(demo_corpus / name) as image:
            image.load()
            pixels.append(image.height * image.width)
            kinds.update([str(image.format), image.mode, f"orientation {image.getexif().get(ORIENTATION)}"])
    expected = {"JPEG", "PNG", "RGB", "L", "orientation 3", "orientation 6", "orientation 8", "orientation None"}
    assert set(kinds) == expected
    assert min(pixels) < 64 * 64
    assert 500_000 < max(pixels) < 1_400_000


def test_a_turned_jpeg_shows_the_same_picture(tmp_path):
    (tmp_path / "media").mkdir()
    upright = Image.new("RGB", (160, 96), "white")
    upright.paste("red", (0, 0, 48, 32))
    picture = Picture(image=upright, questions=())
    seen = set()
    for seed in range(200):
        name = _save(picture, tmp_path, f"{seed}", Random(seed))
        with Image.open(tmp_path / name) as stored:
            seen.add(stored.getexif().get(ORIENTATION))
            shown = ImageOps.exif_transpose(stored)
        assert shown.size == upright.size
        assert max(ImageStat.Stat(ImageChops.difference(shown, upright)).sum) < 30_000  # JPEG's own loss
    assert seen == {None, 3, 6, 8}


def test_without_damage_every_line_is_whole(tmp_path):
    make_corpus(tmp_path, num_samples=8, damaged=False)
    assert json.loads((tmp_path / "damaged.json").read_text()) == {}
    assert len([json.loads(line) for line in (tmp_path / "sharegpt.jsonl").read_bytes().splitlines()]) == 6
    assert not list((tmp_path / "media").glob("damaged*"))
