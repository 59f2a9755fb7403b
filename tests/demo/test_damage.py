"""Every damaged sample is broken in the way that damaged.json says, and in no other."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from vlmprep.demo.damage import DAMAGE


@pytest.fixture(scope="module")
def lines(demo_corpus):
    return (demo_corpus / "sharegpt.jsonl").read_bytes().splitlines()


@pytest.fixture(scope="module")
def broken(lines):
    found = [
        json.loads(line)
        for line in lines
        if line.startswith(b'{"id": "damaged-') and line.endswith(b"]}") and b"\xff" not in line
    ]
    return {sample["id"].removeprefix("damaged-"): sample for sample in found}


@pytest.fixture(scope="module")
def image_path(demo_corpus, broken):
    return lambda kind: demo_corpus / broken[kind]["images"][0]


def test_each_kind_comes_once(demo_corpus, broken, lines):
    labels = json.loads((demo_corpus / "damaged.json").read_text())
    assert list(labels.values()) == list(DAMAGE.values())
    rows = [int(key) for key in labels if key.isdigit()]
    assert {lines[row].split(b'"')[3] for row in rows} == {b"damaged-not-json", b"damaged-not-utf8"}
    assert {f"damaged-{kind}" for kind in broken} == {key for key in labels if not key.isdigit()}
    assert len(lines) == 150 + len(DAMAGE)


def test_two_lines_cannot_be_parsed(lines):
    (cut,) = [line for line in lines if b"damaged-not-json" in line]
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut.decode())
    (bad,) = [line for line in lines if b"damaged-not-utf8" in line]
    with pytest.raises(UnicodeDecodeError):
        bad.decode()
    json.loads(bad.decode(errors="replace"))


def test_a_truncated_image_has_a_header_but_not_its_pixels(image_path):
    with Image.open(image_path("truncated-image")) as opened:
        assert opened.size > (32, 32)
        with pytest.raises(OSError, match="truncated"):
            opened.load()


def test_files_that_are_no_images(image_path):
    assert not image_path("missing-image").exists()
    assert image_path("empty-image").read_bytes() == b""
    assert image_path("text-as-image").read_text()
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(image_path("text-as-image"))


def test_a_bomb_is_small_and_claims_to_be_huge(image_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 89_478_485)  # Pillow's own, which stages in this process take away
    assert image_path("bomb-image").stat().st_size < 1000
    with pytest.raises(Image.DecompressionBombError, match="3600000000 pixels"):
        Image.open(image_path("bomb-image"))


def test_a_path_leaves_the_folder(demo_corpus, image_path):
    assert not image_path("escaping-path").resolve().is_relative_to(demo_corpus.resolve())


@pytest.mark.parametrize(("kind", "num_tags", "num_images"), [("more-tags", 2, 1), ("more-images", 1, 2)])
def test_tags_and_images_disagree(broken, kind, num_tags, num_images):
    sample = broken[kind]
    assert sample["messages"][0]["content"].count("<image>") == num_tags
    assert len(sample["images"]) == num_images


def test_conversations_without_an_answer(broken):
    assert [message["role"] for message in broken["no-answer"]["messages"]] == ["user"]
    assert broken["empty-answer"]["messages"][1] == {"role": "assistant", "content": ""}


def test_control_tokens_stand_in_the_text(broken):
    text = broken["control-tokens"]["messages"][0]["content"]
    assert all(token in text for token in ("<|im_start|>", "<|im_end|>", "<|image_pad|>"))


@pytest.mark.parametrize("kind", ["more-tags", "more-images", "no-answer", "empty-answer", "control-tokens"])
def test_nothing_else_is_wrong_with_them(image_path, kind):
    with Image.open(image_path(kind)) as opened:
        opened.load()
