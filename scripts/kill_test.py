"""Kills real runs of `vlmprep pack`, workers and all, again and again, and holds what comes of them against an undisturbed run.

    python scripts/kill_test.py --rounds 20 --workers 2

Each round packs the drawn corpus into a folder of its own: the whole process group is killed (SIGKILL) after a random
while, three times, then the same command runs to its end. The folder must be the undisturbed one byte for byte, with
nothing else in it, and shards that had a receipt must be the same files as before. `python -m tests.kills.server` kills
at every single moment instead.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.kills.server import differences, kept_shards, tree  # noqa: E402 - the tests lie beside the scripts
from vlmprep.demo.corpus import make_corpus  # noqa: E402
from vlmprep.demo.processor import save_processor  # noqa: E402

KILLS = 3


def command(folder: Path, out: Path, workers: int) -> list[str]:
    """What is run, and run again."""
    words = ["pack", folder / "corpus/meta.json", "--processor", folder / "processor", "--out", out]
    options = ["--pack-size", 1024, "--shard-bytes", 1 << 20, "--max-refused", 1, "--workers", workers, "--quiet"]
    return [sys.executable, "-c", "from vlmprep.cli.main import main; main()", *map(str, words + options)]


def killed_after(words: list[str], seconds: float) -> int:
    """Exit status of a run that is killed, with its workers, if it still runs after a while."""
    run = subprocess.Popen(words, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        return run.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        return run.wait()


def one_round(words: list[str], out: Path, expected: dict[str, str], longest: float) -> str:
    """Kill, resume, compare; says how it went."""
    killed, lost = 0, 0
    for _ in range(KILLS):
        before = kept_shards(out)
        killed += killed_after(words, random.uniform(0, longest)) != 0
        after = kept_shards(out)
        lost += sum(after.get(name) != shard for name, shard in before.items())
    before = kept_shards(out)
    subprocess.run(words, cwd=ROOT, check=True)
    lost += sum(kept_shards(out).get(name) != shard for name, shard in before.items())
    if (wrong := differences(expected, tree(out))) or lost:
        raise SystemExit(f"{out}: {lost} shards were not kept; these files differ: {wrong}")
    return f"killed {killed} times, {len(before)} shards were finished before the last run"


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    random.seed(asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_corpus(folder / "corpus", num_samples=asked.samples)
        save_processor(folder / "processor", "qwen2_5_vl", max_pixels=200_704)
        start = time.monotonic()
        subprocess.run(command(folder, folder / "whole", asked.workers), cwd=ROOT, check=True)
        longest = time.monotonic() - start
        expected = tree(folder / "whole")
        print(f"undisturbed: {longest:.1f} s, {len(kept_shards(folder / 'whole'))} shards, {len(expected)} files")
        for number in range(asked.rounds):
            out = folder / "out"
            print(
                f"round {number}: {one_round(command(folder, out, asked.workers), out, expected, longest)}", flush=True
            )
            shutil.rmtree(out)
    print(f"{asked.rounds} rounds: byte for byte the undisturbed run")


if __name__ == "__main__":
    main()
