"""Every spelling of a conversation gives the same sample; everything else is refused with words that help."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from vlmprep.schema.conversation import Media, Message, Sample, Text
from vlmprep.schema.errors import RefuseSample
from vlmprep.sources.conversation import RowReader
from vlmprep.sources.spec import SourceSpec

MEDIA = "/data/media"


def reader(columns: dict[str, str] | None = None, tags: dict[str, str] | None = None, **allowed: Any) -> RowReader:
    spec = SourceSpec(name="s", path="/data/s.jsonl", media_dir=MEDIA, columns=columns or {}, tags=tags or {})
    return RowReader(spec=spec, **allowed)


def sample(record: dict[str, Any], **words: Any) -> Sample:
    return reader(**words).sample(4, json.dumps(record).encode())


def refusal(record: dict[str, Any], **words: Any) -> RefuseSample:
    with pytest.raises(RefuseSample) as caught:
        sample(record, **words)
    assert len(caught.value.reason) < 1_500
    return caught.value


def image(name: str) -> Media:
    return Media(kind="image", location=f"{MEDIA}/{name}")


def text(value: str) -> Text:
    return Text(text=value)


def message(content: Any, **more: Any) -> dict[str, Any]:
    """A row of one question and an answer, whose content or switches are given."""
    return {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": content, **more}]}


EXPECTED = (
    Message(role="system", parts=(text("S"),)),
    Message(role="user", parts=(image("a.jpg"), text("look "), image("b.jpg"))),
    Message(role="assistant", parts=(text("A"),)),
)
SPELLINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages with tags": (
        {
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "<image>look <image>"},
                {"role": "assistant", "content": "A"},
            ],
            "images": ["a.jpg", "b.jpg"],
        },
        {},
    ),
    "sharegpt": (
        {
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "human", "value": "<image>look <image>"},
                {"from": "gpt", "value": "A"},
            ],
            "image": ["a.jpg", "b.jpg"],
        },
        {},
    ),
    "openai parts": (
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "S"}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "a.jpg", "detail": "high"}},
                        {"type": "text", "text": "look "},
                        {"type": "image_url", "image_url": "b.jpg"},
                    ],
                },
                {"role": "assistant", "content": "A"},
            ]
        },
        {},
    ),
    "parts that take from the column": (
        {
            "messages": [
                {"role": "system", "content": "S"},
                {
                    "role": "user",
                    "content": [
                        {"type": "image"},
                        {"type": "text", "text": "look "},
                        {"type": "image", "image": "b.jpg"},
                    ],
                },
                {"role": "model", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": ""}]},
            ],
            "images": "a.jpg",
        },
        {},
    ),
    "parts with a path or a url": (
        {
            "messages": [
                {"role": "system", "content": "S"},
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "path": "a.jpg"},
                        {"type": "text", "text": "look "},
                        {"type": "image", "url": f"file://{MEDIA}/b.jpg"},
                    ],
                },
                {"role": "assistant", "content": "A"},
            ]
        },
        {},
    ),
    "a meta file's own words": (
        {
            "talk": [
                {"who": "SYS", "says": "S"},
                {"who": "U", "says": "<image>look <image>"},
                {"who": "A", "says": "A"},
            ],
            "pics": ["a.jpg", "b.jpg"],
            "messages": "not these",
            "images": ["nor", "these"],
        },
        {
            "columns": {"messages": "talk", "images": "pics"},
            "tags": {
                "role_tag": "who",
                "content_tag": "says",
                "user_tag": "U",
                "assistant_tag": "A",
                "system_tag": "SYS",
            },
        },
    ),
    "the usual words where a column is null": (
        {
            "messages": None,
            "conversations": [
                {"from": "system", "value": "S"},
                {"from": "user", "value": "<image>look <image>"},
                {"from": "assistant", "value": "A"},
            ],
            "images": [],
            "image": ["a.jpg", "b.jpg"],
            "videos": None,
            "audio": "",
        },
        {},
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_gives_the_same_conversation(name):
    record, words = SPELLINGS[name]
    found = sample(record, **words)
    assert found.messages == EXPECTED
    assert (found.source, found.row, found.sample_id) == ("s", 4, "4")


def test_tags_in_several_turns_take_the_images_in_order():
    turns = ["<image><image>one", "<image>two", "three<image>", "<video>"]
    messages = [{"role": "user" if at % 2 == 0 else "assistant", "content": turn} for at, turn in enumerate(turns)]
    found = sample({"messages": messages, "images": list("abcd"), "videos": ["v"]})
    assert [medium.location for medium in found.media("image")] == [f"{MEDIA}/{name}" for name in "abcd"]
    assert [medium.location for medium in found.media("video")] == [f"{MEDIA}/v"]
    assert [part.text for m in found.messages for part in m.parts if isinstance(part, Text)] == ["one", "two", "three"]


def test_texts_are_kept_to_the_character():
    strange = "  <images> < image><IMAGE> </image>\n\n\t<image-1> é\ue000 "
    assert sample(message(strange)).messages[1].parts == (text(strange),)


@pytest.mark.parametrize(
    ("content", "images", "says"),
    [
        ("<image><image>", ["a"], "more <image> tags than the 1 images in column 'images'"),
        ("<image>", ["a", "b"], "1 <image> tags, 2 images in column 'images'"),
        ("none", ["a"], "0 <image> tags, 1 images in column 'images'"),
        ("<image>", None, "no column 'images' or 'image' but 'messages'"),
        ("<video>", ["a"], "more <video> tags than the 0 videos"),
        ([{"type": "image"}], None, "more <image> tags than the 0 images"),
        ([{"type": "text", "text": "<image>"}], ["a"], "0 <image> tags, 1 images"),
    ],
)
def test_unequal_numbers_of_tags_and_media_are_refused(content, images, says):
    record = message(content) | ({} if images is None else {"images": images})
    found = refusal(record)
    assert found.code == "tag-mismatch"
    assert says in found.reason


def test_a_wrong_name_for_the_media_column_is_told_with_the_names_there_are():
    record = message("<image>") | {"pictures": ["a"]}
    found = refusal(record, columns={"images": "pics"})
    assert found.code == "tag-mismatch"
    assert "no column 'pics' but 'messages', 'pictures'" in found.reason


def test_a_wrong_name_for_the_message_column_is_told_with_the_names_there_are():
    found = refusal({"id": 1, "dialog": []}, columns={"messages": "talk"})
    assert found.code == "missing-column"
    assert found.reason == "no column 'talk'; the row has 'id', 'dialog'; a meta JSON can name its columns"
    assert "'messages' or 'conversations'; the row has 'a'" in refusal({"a": 1}).reason


def test_a_wrong_name_for_the_role_is_told_with_the_names_there_are():
    found = refusal({"messages": [{"role": "user", "content": "x"}]}, tags={"role_tag": "who"})
    assert found.code == "missing-role"
    assert "'who'; it has 'role', 'content'" in found.reason


@pytest.mark.parametrize("messages", [None, [], {}, "text", 5, ""])
def test_no_messages_are_refused(messages):
    assert refusal({"messages": messages}).code == "no-messages"


@pytest.mark.parametrize("one", [None, "text", 1, [], [{"role": "user"}]])
def test_a_message_that_is_no_object_is_refused(one):
    found = refusal({"messages": [{"role": "user", "content": "x"}, one]})
    assert found.code == "bad-message"
    assert "message 1" in found.reason


@pytest.mark.parametrize(
    "role", ["User", "narrator", "", None, 1, True, [], {}, ["user"], [[[[[[[[]]]]]]]], "x" * 10_000]
)
def test_an_unknown_role_is_refused(role):
    found = refusal({"messages": [{"role": role, "content": "x"}]})
    assert found.code == "unknown-role"
    assert "known are system, developer, user, human" in found.reason


@pytest.mark.parametrize("content", [None, 5, True, {"text": "x"}, 1.5])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_content_that_is_no_content_is_refused(role, content):
    assert refusal({"messages": [{"role": role, "content": content}]}).code == "bad-message"


def test_a_message_without_content_is_told_with_the_names_there_are():
    assert (
        "message 0 has no 'value'; it has 'role', 'text'"
        in refusal({"messages": [{"role": "user", "text": "x"}]}).reason
    )


@pytest.mark.parametrize(
    "part",
    [
        None,
        "text",
        5,
        [],
        {},
        {"type": None},
        {"type": "text"},
        {"type": "text", "text": None},
        {"type": "text", "text": 5},
        {"type": "input_text", "text": "x"},
        {"type": ["image"]},
        {"type": {"image": 1}},
        {"type": "refusal", "refusal": "x" * 10_000},
    ],
)
def test_a_part_that_is_of_no_known_kind_is_refused(part):
    found = refusal(message([part]))
    assert found.code == "bad-message"
    assert "message 1" in found.reason


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": {"url": None}},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url"},
        {"type": "image", "image": {"bytes": "x"}},
        {"type": "image", "image": ["a.jpg"]},
        {"type": "image_url", "image_url": ""},
        {"type": "image_url", "image_url": "a\0b"},
    ],
)
def test_a_medium_that_is_no_path_is_refused(part):
    assert refusal(message([part])).code == "bad-media-path"


@pytest.mark.parametrize("value", [[None], [5], [{"file": "a"}], [["a"]], [""], {"file": "a"}, True])
def test_a_media_column_of_something_else_is_refused(value):
    assert refusal(message("<image>") | {"images": value}).code == "bad-media-path"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_beside_the_content_is_kept_apart(name):
    found = sample(message("x", **{name: " because "}))
    assert found.messages[1] == Message(role="assistant", parts=(text("x"),), reasoning=" because ")
    assert sample(message("x", **{name: None})).messages[1].reasoning is None
    assert sample(message("x", **{name: ""})).messages[1].reasoning is None
    assert sample(message("x", **{name: "t", "thinking": "t"})).messages[1].reasoning == "t"


@pytest.mark.parametrize("thought", [["a"], {"effort": "high"}, 5, True])
def test_a_thought_that_is_no_text_is_refused(thought):
    assert refusal(message("x", reasoning=thought)).code == "bad-message"


def test_two_thoughts_that_differ_are_refused():
    assert "which one" in refusal(message("x", reasoning="a", thinking="b")).reason


@pytest.mark.parametrize("extra", ["tool_calls", "function_call", "reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_others_than_assistants_neither_think_nor_call(role, extra):
    found = refusal({"messages": [{"role": role, "content": "x", extra: [{"name": "f"}]}]})
    assert (found.code, repr(extra) in found.reason) == ("unsupported-message", True)


def test_names_and_ids_are_kept():
    turns = [
        {"role": "user", "content": "x", "name": "bo"},
        {"role": "tool", "content": "y", "name": "f", "tool_call_id": "i"},
    ]
    messages = sample({"messages": turns}).messages
    assert [(found.name, found.call_id) for found in messages] == [("bo", None), ("f", "i")]
    assert refusal({"messages": [{"role": "user", "content": "x", "name": 5}]}).code == "bad-message"
    assert refusal({"messages": [{"role": "tool", "content": "x", "tool_call_id": ["i"]}]}).code == "bad-message"
    assert sample({"messages": [{"role": "user", "content": "x", "name": ""}]}).messages[0].name is None


SWITCHES = ["learn", "loss", "train", "weight", "loss_weight", "loss_scale"]


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize(
    ("value", "learned"), [(True, True), (1, True), (1.0, True), (None, True), (False, False), (0, False), (0.0, False)]
)
def test_a_message_opts_out_by_any_of_the_switches(switch, value, learned):
    assert sample(message("x", **{switch: value})).messages[1].learn is learned


def test_one_switch_that_is_off_is_enough():
    assert sample(message("x", learn=True, weight=0)).messages[1].learn is False
    assert sample(message("x", weight=1, loss=False)).messages[1].learn is False


@pytest.mark.parametrize("value", ["0", "false", 0.5, -1, 2, [], {}, [0]])
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_that_is_neither_on_nor_off_is_refused(switch, value):
    assert refusal(message("x", **{switch: value})).code == "bad-message"


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_nobody_but_an_assistant_can_be_switched_on(role, switch):
    turn = {"role": role, "content": "x"}
    assert refusal({"messages": [{**turn, switch: True}]}).code == "unsupported-message"
    assert sample({"messages": [{**turn, switch: False}]}).messages[0].learn is False


@pytest.mark.parametrize("name", ["train_detail", "training_detail"])
def test_a_switch_for_a_part_of_a_turn_is_refused(name):
    found = refusal(message("x", **{name: [{"begin_offset": 0, "end_offset": 1, "train": False}]}))
    assert (found.code, repr(name) in found.reason) == ("unsupported-message", True)
    assert sample(message("x", **{name: None})).messages


@pytest.mark.parametrize("head", ["data:image/png;base64,", "data:;base64,", "data:image/jpeg;charset=x;base64,"])
def test_an_image_may_come_inside_the_row(head):
    content = bytes(range(256))
    record = message("<image>") | {"images": [head + base64.b64encode(content).decode()]}
    (medium,) = sample(record).media()
    assert medium == Media(kind="image", content=content)


@pytest.mark.parametrize(
    "uri",
    [
        "data:",
        "data:,",
        "data:image/png,abc",
        "data:image/png;base64,a",
        "data:image/png;base64,é",
        "data:x;base64,a b=",
    ],
)
def test_a_broken_data_uri_is_refused(uri):
    assert refusal(message("<image>") | {"images": [uri]}).code == "bad-media-path"


def test_an_empty_data_uri_is_an_empty_medium():
    (medium,) = sample(message("<image>") | {"images": ["data:image/png;base64,"]}).media()
    assert medium.content == b""


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("../x.jpg", "outside-media"),
        ("/etc/hostname", "outside-media"),
        ("file:///etc/hostname", "outside-media"),
        ("file://../x.jpg", "outside-media"),
        ("http://host/x.jpg", "remote-media"),
        ("file://http://host/x.jpg", "remote-media"),
    ],
)
def test_media_paths_are_held_against_the_media_folder(location, code):
    assert refusal(message("<image>") | {"images": [location]}).code == code
    assert refusal(message([{"type": "image_url", "image_url": location}])).code == code


def test_what_is_allowed_is_passed_on():
    web = message("<image>") | {"images": ["https://host/x.jpg"]}
    assert sample(web, allow_remote_media=True).media()[0].location == "https://host/x.jpg"
    outside = message("<image>") | {"images": ["/etc/hostname"]}
    assert sample(outside, allow_outside_media=True).media()[0].location == "/etc/hostname"


def test_a_refusal_carries_the_rows_own_id():
    assert refusal({"id": "mine", "messages": []}).sample_id == "mine"
    assert refusal({"messages": []}).sample_id == "4"


def test_names_of_a_row_do_not_flood_the_reason():
    found = refusal({f"column {number} " + "x" * 10_000: 1 for number in range(500)})
    assert found.code == "missing-column"


def test_a_links_target_counts_in_a_row_too(tmp_path: Path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.jpg").symlink_to("/etc/hostname")
    spec = SourceSpec(name="s", path="s.jsonl", media_dir=str(tmp_path / "media"))
    with pytest.raises(RefuseSample, match="outside"):
        RowReader(spec=spec).sample(0, json.dumps(message("<image>") | {"images": ["a.jpg"]}).encode())


def test_a_system_column_is_the_first_turn():
    found = sample(message("x") | {"system": "Be brief."}).messages
    assert [m.role for m in found] == ["system", "user", "assistant"]
    assert found[0].parts == (text("Be brief."),)
    assert sample(message("x") | {"system": ""}).messages == sample(message("x")).messages
    renamed = sample(message("x") | {"rules": "Be brief."}, columns={"system": "rules"})
    assert renamed.messages == found


def test_a_system_column_beside_a_system_turn_is_refused_unless_they_are_the_same():
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    assert refusal({"messages": turns, "system": "T"}).code == "ambiguous-columns"
    assert sample({"messages": turns, "system": "S"}).messages == sample({"messages": turns}).messages


@pytest.mark.parametrize(("value", "code"), [(5, "bad-message"), (["S"], "bad-message"), ("<image>", "tag-mismatch")])
def test_a_system_column_that_is_no_text_is_refused(value, code):
    assert refusal(message("x") | {"system": value, "images": ["a.jpg"]}).code in (code, "tag-mismatch")
    assert refusal(message("<image>") | {"system": value, "images": ["a.jpg"]}).code == code


@pytest.mark.parametrize(
    "more",
    [
        {"images": ["a.jpg"], "image": ["b.jpg"]},
        {"conversations": [{"from": "human", "value": "another"}]},
    ],
)
def test_columns_that_say_different_things_are_refused(more):
    assert refusal(message("x") | more).code == "ambiguous-columns"


def test_columns_that_say_the_same_are_one():
    same = message("x")
    assert sample(same | {"conversations": same["messages"]}).messages == sample(same).messages
