"""A small corpus of drawn pictures with conversations that fit them, in the spellings that real ones come in.

OUT/
  media/               JPEG and PNG files, some rotated by their EXIF tag, some gray
  sharegpt.jsonl       {"id", "messages": [{"role", "content"}], "images": [...]}, and the damaged samples
  conversations.json   other samples as [{"id", "conversations": [{"from", "value"}], "image": [...]}]
  damaged.json         {sample id: what is wrong with it}
  meta.json            names both files with their columns and tags; written last
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from vlmprep.demo.damage import DAMAGE, damaged_line
from vlmprep.demo.pictures import Picture, Question, draw_picture
from vlmprep.demo.prose import TOPICS, Topic

__all__ = ["make_corpus", "num_samples_of"]

ORIENTATION = 0x0112
STORED_TURN = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""How a camera held at an EXIF orientation stores an upright picture."""

SYSTEM_TURNS = (
    "Answer briefly.",
    "You look at pictures and answer questions about them. Say so when you are not sure.",
    "You are a careful reader of charts and pages.",
)
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
META: dict[str, dict[str, Any]] = {
    "sharegpt": {
        "file_name": "sharegpt.jsonl",
        "media_dir": ".",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "conversations": {
        "file_name": "conversations.json",
        "media_dir": ".",
        "columns": {"messages": "conversations", "images": "image"},
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"},
    },
}


def make_corpus(out: Path, *, num_samples: int = 200, seed: int = 0, damaged: bool = True) -> None:
    """Write a corpus; the same arguments write the same bytes.

    Args:
        out: Folder to write into, made if need be.
        num_samples: Usable samples; a quarter of them goes into conversations.json.
        seed: Another seed draws other pictures.
        damaged: Add one sample of every kind of damage.
    """
    (out / "media").mkdir(parents=True, exist_ok=True)
    samples = [_make_sample(out, f"demo-{number:05d}", Random(f"{seed}/{number}")) for number in range(num_samples)]
    respelled = [_respell(sample) for at, sample in enumerate(samples) if at % 4 == 3]
    lines = [_json_line(sample) for at, sample in enumerate(samples) if at % 4 != 3]
    labels = _mix_in_damage(lines, out, Random(f"{seed}/damage")) if damaged else {}

    (out / "sharegpt.jsonl").write_bytes(b"".join(lines))
    _write_json(out / "conversations.json", respelled)
    _write_json(out / "damaged.json", labels)
    _write_json(out / "meta.json", META)


def num_samples_of(root: Path) -> int | None:
    """How many usable samples a corpus has; None where it is not complete."""
    if not (root / "meta.json").exists():
        return None
    num_lines = (root / "sharegpt.jsonl").read_bytes().count(b"\n")
    respelled, damaged = (json.loads((root / f"{name}.json").read_bytes()) for name in ("conversations", "damaged"))
    return num_lines + len(respelled) - len(damaged)


def _make_sample(out: Path, sample_id: str, rng: Random) -> dict[str, Any]:
    num_images = rng.choices([0, 1, 2, 4], [0.22, 0.6, 0.12, 0.06])[0]
    num_turns = rng.choices([1, 2, 3], [0.55, 0.3, 0.15])[0]
    pictures = [draw_picture(rng, num_images) for _ in range(num_images)]
    names = [_save(picture, out, f"{sample_id}-{at}", rng) for at, picture in enumerate(pictures)]
    turns = _picture_turns(pictures, num_turns, rng) if pictures else _text_turns(num_turns, rng)
    messages = [{"role": "system", "content": rng.choice(SYSTEM_TURNS)}] if rng.random() < 0.12 else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.ask})
        messages.append({"role": "assistant", "content": turn.answer})
    return {"id": sample_id, "messages": messages, "images": names}


def _save(picture: Picture, out: Path, stem: str, rng: Random) -> str:
    """Save as JPEG or PNG, an eighth of the JPEGs turned; returns the name as the sample spells it."""
    if picture.is_graphic:
        name = f"media/{stem}.png"
        picture.image.save(out / name)
        return name
    name = f"media/{stem}.jpg"
    image, exif = picture.image, Image.Exif()
    if rng.random() < 0.125:
        exif[ORIENTATION] = rng.choice(list(STORED_TURN))
        image = image.transpose(STORED_TURN[exif[ORIENTATION]])
    image.save(out / name, quality=88, exif=exif)
    return name


def _picture_turns(pictures: list[Picture], num_turns: int, rng: Random) -> list[Question]:
    """Questions about pictures that all come first, or of which the last comes with the last turn."""
    about = [rng.randrange(len(pictures)) for _ in range(num_turns)]
    held_back = int(len(pictures) > 1 and num_turns > 1 and rng.random() < 0.5)
    if held_back:
        about = [*(at % (len(pictures) - 1) for at in about[:-1]), len(pictures) - 1]
    tags = ["<image>\n" * (len(pictures) - held_back), *[""] * (num_turns - 1)]
    tags[-1] += "<image>\n" * held_back
    unasked = [rng.sample(picture.questions, len(picture.questions)) for picture in pictures]
    turns = []
    for tag, at in zip(tags, about, strict=True):
        question = unasked[at].pop()
        where = f"Picture {at + 1}: " if len(pictures) > 1 else ""
        turns.append(Question(ask=f"{tag}{where}{question.ask}", answer=question.answer))
    return turns


def _text_turns(num_turns: int, rng: Random) -> list[Question]:
    return [rng.choice([_ask_to_write, _ask_to_quote, _ask_for_sum])(rng) for _ in range(num_turns)]


def _ask_to_write(rng: Random) -> Question:
    topics = rng.sample(TOPICS, rng.randint(1, 6))
    titles = ", ".join(topic.title.lower() for topic in topics)
    return Question(ask=f"Write a paragraph on each of these: {titles}.", answer="\n\n".join(map(_paragraph, topics)))


def _ask_to_quote(rng: Random) -> Question:
    topic = rng.choice(TOPICS)
    return Question(ask=f"How does this text begin?\n\n{_paragraph(topic)}", answer=topic.sentences[0])


def _ask_for_sum(rng: Random) -> Question:
    one, other = rng.randint(2, 99), rng.randint(2, 99)
    return Question(ask=f"What is {one} + {other}?", answer=f"{one} + {other} = {one + other}.")


def _paragraph(topic: Topic) -> str:
    return " ".join(topic.sentences)


def _respell(sample: dict[str, Any]) -> dict[str, Any]:
    turns = [{"from": SPEAKERS[message["role"]], "value": message["content"]} for message in sample["messages"]]
    return {"id": sample["id"], "conversations": turns, "image": sample["images"]}


def _mix_in_damage(lines: list[bytes], out: Path, rng: Random) -> dict[str, str]:
    """Insert the damaged samples into `lines` at random places.

    Returns:
        Sample id -> what is wrong. A line that cannot be parsed has no id but its row number, counted from 0.
    """
    damaged = {kind: damaged_line(kind, out, rng) for kind in DAMAGE}
    for line in damaged.values():
        lines.insert(rng.randint(0, len(lines)), line)
    unreadable = ("not-json", "not-utf8")
    rows = {kind: str(lines.index(damaged[kind])) for kind in unreadable}
    return {rows.get(kind, f"damaged-{kind}"): reason for kind, reason in DAMAGE.items()}


def _json_line(sample: dict[str, Any]) -> bytes:
    return json.dumps(sample, ensure_ascii=False).encode() + b"\n"


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
