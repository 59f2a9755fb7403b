"""The commands as a shell sees them: exit codes, where output goes, options from a file, errors without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips import Recipe, clip
from tests.conftest import FamilyProcessorDir, ProcessorDir
from tests.every_family.corpus import write_audio
from tests.runs import chat, picture, write_jsonl

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def vlmprep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process: exit code, stdout, stderr."""
    from vlmprep.cli.main import main

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlmprep", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return command


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    name = picture(tmp_path / "a.png")
    return write_jsonl(
        tmp_path / "rows.jsonl", [chat(f"s{i}", "What is it?", f"It is {i}.", [name]) for i in range(20)]
    )


def test_one_command_goes_from_rows_to_a_pack_set(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    code, out, err = vlmprep(
        "pack", rows, "--processor", processor_dir(), "-o", tmp_path / "set", "--pack-size", 256, "-j", 0
    )
    assert (code, err) == (0, "")
    assert "rows packed" in out
    assert (tmp_path / "set" / "manifest.json").exists()


def test_stages_run_one_by_one_make_the_same_set(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    options = ("--pack-size", 256)
    assert vlmprep("estimate", rows, "--processor", processor_dir(), "-o", tmp_path / "ledger", "-j", 0)[0] == 0
    assert vlmprep("plan", tmp_path / "ledger", "-o", tmp_path / "plan", *options)[0] == 0
    assert vlmprep("pack", tmp_path / "ledger", "--plan", tmp_path / "plan", "-o", tmp_path / "staged", "-j", 0)[0] == 0
    assert vlmprep("pack", rows, "--processor", processor_dir(), "-o", tmp_path / "direct", "-j", 0, *options)[0] == 0
    shards = [(tmp_path / name / "shards" / "000000.tar").read_bytes() for name in ("staged", "direct")]
    assert shards[0] == shards[1]


def test_json_is_one_document_on_stdout(vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    code, out, err = vlmprep(
        "estimate", rows, "--processor", processor_dir(), "-o", tmp_path / "ledger", "-j", 0, "--json"
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["rows"]["all"] == document["rows"]["ok"] == document["totals"]["num_images"] == 20
    code, out, _ = vlmprep("plan", tmp_path / "ledger", "-o", tmp_path / "plan", "--json")
    assert code == 0
    assert json.loads(out)["statistics"]["num_samples"] == 20
    code, out, _ = vlmprep("pack", tmp_path / "ledger", "-o", tmp_path / "set", "-j", 0, "--json")
    assert code == 0
    assert json.loads(out)["manifest"]["num_samples"] == 20


def test_quiet_says_nothing(vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    command = ("pack", rows, "--processor", processor_dir(), "-o", tmp_path / "set", "-j", 0, "--quiet")
    assert vlmprep(*command) == (0, "", "")


def test_a_config_file_gives_options_and_flags_win(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"processor: {processor_dir()}\npack-size: 128\nworkers: 0\nseed: 7\n")
    code, _, err = vlmprep("pack", rows, "-o", tmp_path / "set", "--config", config, "--pack-size", 512)
    assert (code, err) == (0, "")
    settings = json.loads((tmp_path / "set" / "manifest.json").read_text())["settings"]
    assert (settings["pack_size"], settings["seed"]) == (512, 7)


def test_what_a_ledger_or_a_plan_decided_is_not_asked_for_in_vain(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    ledger, plan, out = tmp_path / "ledger", tmp_path / "plan", tmp_path / "set"
    assert vlmprep("estimate", rows, "--processor", processor_dir(), "-o", ledger, "-j", 0)[0] == 0
    assert vlmprep("plan", ledger, "-o", plan, "--pack-size", 256)[0] == 0
    code, _, err = vlmprep("pack", ledger, "--allow-outside-media", "-o", out, "-j", 0)
    assert code == 2
    assert "--allow-outside-media goes with --processor" in " ".join(err.split())
    code, _, err = vlmprep("pack", ledger, "--plan", plan, "--pack-size", 512, "-o", out, "-j", 0)
    assert code == 1
    assert "pack_size was 256, now 512" in err
    assert vlmprep("pack", ledger, "--plan", plan, "--pack-size", 256, "-o", out, "-j", 0)[0] == 0


def test_a_folder_that_vlmprep_made_but_cannot_take_is_named(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    assert vlmprep("pack", rows, "--processor", processor_dir(), "-o", out, "-j", 0)[0] == 0
    for command in ("plan", "pack"):
        code, _, err = vlmprep(command, out, "-o", tmp_path / "other")
        assert code == 1
        assert f"Give {out / 'ledger'}" in err
    code, _, err = vlmprep("pack", out / "ledger", "-o", out / "plan")
    assert code == 1
    assert "is a plan, and a pack set was to go there" in err


@pytest.mark.parametrize("size", ["1", str(2**24 + 1), "1e3"])
def test_a_pack_size_that_no_planner_takes_is_a_usage_error(vlmprep: Any, tmp_path: Path, size: str) -> None:
    code, _, err = vlmprep("plan", tmp_path, "-o", tmp_path / "plan", "--pack-size", size)
    assert code == 2
    assert "--pack-size" in err


@pytest.mark.parametrize(("text", "code"), [("# nothing yet\n", 0), ("pack_size: big\n", 2), ("[1]\n", 2), ("a: [", 2)])
def test_a_config_file_is_read_as_what_it_is(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path, text: str, code: int
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    command = ("pack", rows, "--processor", processor_dir(), "-o", tmp_path / "set", "-j", 0, "--config", config)
    found, _, err = vlmprep(*command)
    assert found == code, err
    assert "Traceback" not in err


@pytest.mark.parametrize(("name", "code"), [("weight", 1), ("weights", 2), ("max-images", 1)])
def test_a_config_file_names_options_as_flags_do(vlmprep: Any, tmp_path: Path, name: str, code: int) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"{name}: {'[rows=2]' if 'weight' in name else 3}\n")
    found, _, err = vlmprep("plan", tmp_path / "nothing", "-o", tmp_path / "plan", "--config", config)
    assert found == code
    assert "nothing" in err if code == 1 else "known are" in err


def test_an_unknown_option_in_a_config_file_is_a_usage_error(vlmprep: Any, rows: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("pack_sise: 128\n")
    code, _, err = vlmprep("pack", rows, "-o", tmp_path / "set", "--config", config)
    assert code == 2
    assert "pack_sise" in err
    assert "pack_size" in err


@pytest.mark.parametrize("arguments", [("pack",), ("pack", "--nonsense"), ("nonsense",), ()])
def test_usage_errors_exit_2(vlmprep: Any, arguments: tuple[str, ...]) -> None:
    assert vlmprep(*arguments)[0] == 2


def test_too_many_refusals_exit_1_with_reasons(vlmprep: Any, processor_dir: ProcessorDir, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "Hi?", "Yes.", ["gone.png"])] * 3 + [b"{"])
    code, out, err = vlmprep("pack", source, "--processor", processor_dir(), "-o", tmp_path / "set", "-j", 0)
    assert (code, out) == (1, "")
    assert "no sample can be packed" in err
    assert "3  missing-media, e.g. rows, row 0" in err
    assert "1  not-json, e.g. rows, row 3" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing.jsonl", "does not exist"),
        ("empty", "holds no file of rows"),
        ("*.nothing", "no file matches"),
        ("a.png", "unknown kind"),
    ],
)
def test_a_wrong_source_exits_1_with_a_sentence(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path, source: str, said: str
) -> None:
    (rows.parent / "empty").mkdir()
    code, _, err = vlmprep(
        "estimate", rows.parent / source, "--processor", processor_dir(), "-o", tmp_path / "ledger", "-j", 0
    )
    assert code == 1
    assert said in err
    assert "Traceback" not in err


def test_a_processor_that_is_none_exits_1_and_says_what_to_give(vlmprep: Any, rows: Path, tmp_path: Path) -> None:
    code, _, err = vlmprep("estimate", rows, "--processor", tmp_path / "nothing", "-o", tmp_path / "ledger", "-j", 0)
    assert code == 1
    assert "cannot be loaded" in err
    assert "save_pretrained" in err


def test_an_output_that_cannot_be_made_exits_1(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = vlmprep("estimate", rows, "--processor", processor_dir(), "-o", tmp_path / "file" / "x", "-j", 0)
    assert code == 1
    assert "cannot be written" in err


def test_ctrl_c_exits_130_and_says_how_to_go_on(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vlmprep.pipeline.estimate.ChunkCounter.__call__", interrupt)
    command = ("estimate", rows, "--processor", processor_dir(), "-o", tmp_path / "ledger", "-j", 0)
    code, _, err = vlmprep(*command)
    assert code == 130
    assert "run the same command again" in err
    monkeypatch.undo()


def test_a_defect_exits_1_without_a_trace(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("never thought of")

    monkeypatch.delenv("VLMPREP_DEBUG", raising=False)
    monkeypatch.setattr("vlmprep.pipeline.estimate.ChunkCounter.__call__", fail)
    code, _, err = vlmprep("estimate", rows, "--processor", processor_dir(), "-o", tmp_path / "ledger", "-j", 0)
    assert code == 1
    assert "never thought of" in err
    assert "Traceback" not in err


def test_the_demo_runs_and_runs_again(vlmprep: Any, tmp_path: Path) -> None:
    code, out, _ = vlmprep("demo", "--out", tmp_path / "demo", "--samples", 40)
    assert code == 0
    assert "Try next" in out
    assert vlmprep("demo", "--out", tmp_path / "demo", "--samples", 40)[0] == 0


def test_the_demo_spoils_no_folder(vlmprep: Any, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    for out in (tmp_path, tmp_path / "precious.txt"):
        code, _, err = vlmprep("demo", "--out", out)
        assert code == 1
        assert "is no demo" in err


def test_help_needs_no_torch() -> None:
    check = "import sys, vlmprep.cli.commands; assert not {'torch', 'transformers', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_what_is_not_there_is_told_before_the_libraries_of_models_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "precious.txt").write_text("mine")
    given = ("--processor", ".", "--out", "out")
    commands = [
        (("estimate", "gone.jsonl", *given), "gone.jsonl does not exist"),
        (("estimate", "rows.jsonl", "--processor", "./gone", "--out", "out"), "there is no such folder"),
        (("estimate", "rows.jsonl", "--processor", ".", "--out", "others"), "it holds precious.txt"),
        (("pack", "gone.jsonl", *given), "gone.jsonl does not exist"),
        (("pack", "rows.jsonl", "--out", "out"), "--processor is missing"),
        (("pack", "rows.jsonl", *given, "--packing-ratio", "0"), "--packing-ratio is 0"),
        (("pack", "rows.jsonl", *given, "--plan", "plan"), "--plan belongs to a ledger"),
        (("plan", "gone", "--out", "out"), "gone is no complete ledger"),
        (("inspect", "gone"), "gone does not exist"),
        (("inspect", "gone", "--pack", "3"), "gone does not exist"),
        (("verify", "gone"), "gone has no manifest.json"),
    ]
    run_all = (
        "import json, sys\n"
        "from vlmprep.cli.main import main\n"
        "for sys.argv[1:] in json.loads(sys.argv[1]):\n"
        "    try:\n        main()\n"
        "    except SystemExit as ended:\n        assert ended.code == 1, ended.code\n"
        "    assert not {'torch', 'transformers', 'numba'} & set(sys.modules), sys.argv\n"
        "    print('----', file=sys.stderr, flush=True)\n"
    )
    words = json.dumps([words for words, _ in commands])
    ended = subprocess.run(
        [sys.executable, "-c", run_all, words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said = [" ".join(part.split()) for part in ended.stderr.split("----")[:-1]]
    assert len(said) == len(commands)
    for part, (words_given, expected) in zip(said, commands, strict=True):
        assert expected in part, words_given
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "rows.jsonl"]


def test_a_processor_is_recorded_where_everybody_finds_it(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(processor_dir().parent)
    command = ("estimate", rows, "--processor", processor_dir().name, "-o", tmp_path / "ledger", "-j", 0)
    assert vlmprep(*command)[0] == 0
    settings = json.loads((tmp_path / "ledger" / "settings.json").read_text())
    assert settings["processor"]["processor"] == str(processor_dir())


def test_balancing_compute_without_a_config_is_refused_before_anything_runs(
    vlmprep: Any, rows: Path, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    code, _, err = vlmprep("pack", rows, "--processor", processor_dir(), "-o", tmp_path / "set", "--balance", "compute")
    assert code == 1
    assert "there is no config.json" in err
    assert "--model-config" in err
    assert not (tmp_path / "set").exists()


def test_settings_of_the_processor_change_what_is_counted(
    vlmprep: Any, processor_dir: ProcessorDir, tmp_path: Path
) -> None:
    name = picture(tmp_path / "a.png", height=600, width=800)
    rows = write_jsonl(tmp_path / "rows.jsonl", [chat("a", "What?", "A square.", [name])])
    tokens: dict[str, int] = {}
    for option in ("max_pixels=50176", 'size={"shortest_edge": 3136, "longest_edge": 50176}', "max_pixels=100352"):
        out = tmp_path / str(len(tokens))
        command = ("estimate", rows, "--processor", processor_dir(), "-o", out, "--processor-option", option, "--json")
        code, printed, _ = vlmprep(*command)
        assert code == 0
        tokens[option] = json.loads(printed)["totals"]["num_visual_tokens"]
    few, same, many = tokens.values()
    assert few == same < many
    code, _, said = vlmprep(*command[:-2], "max_pixels", "--json")
    assert code == 2
    assert "is not NAME=VALUE" in said


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (("--max-clip-frames", 11), "clip-too-long"),
        (("--max-clip-bytes", 12 * 48 * 64 * 3 - 1), "clip-too-large"),
        (("--max-audio-seconds", 0.4), "sound-too-long"),
        ((), None),
    ],
)
def test_limits_on_clips_and_sounds_reach_the_refusal(
    vlmprep: Any,
    family_processor_dir: FamilyProcessorDir,
    tmp_path: Path,
    option: tuple[object, ...],
    code: str | None,
) -> None:
    (tmp_path / "a.mp4").write_bytes(clip(Recipe(num_frames=12, height=48, width=64)))
    write_audio(tmp_path / "a.wav", 0.5, 16_000, np.random.default_rng(0))
    answer = {"role": "assistant", "content": "A gradient."}
    rows = [
        {"messages": [{"role": "user", "content": "<video>What?"}, answer], "videos": ["a.mp4"]},
        {"messages": [{"role": "user", "content": "<audio>What?"}, answer], "audios": ["a.wav"]},
    ]
    source = write_jsonl(tmp_path / "clips.jsonl", rows)
    processor = family_processor_dir("qwen3_omni")
    arguments = ("--processor", processor, "-o", tmp_path / "ledger", "-j", 0, "--json", "--max-refused", 1)
    exit_code, out, _ = vlmprep("estimate", source, *arguments, *option)
    summary = json.loads(out)
    assert exit_code == 0
    assert summary["rows"]["ok"] == (2 if code is None else 1)
    assert code is None or code in out
