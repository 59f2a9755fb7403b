"""Commands that run several stages: what is finished is kept, what is missing is made first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmprep.counting.ledger import Ledger, open_ledger
from vlmprep.pipeline.beforehand import check_source_arguments
from vlmprep.pipeline.estimate import decisive, estimate, ledger_settings
from vlmprep.pipeline.output import output_folder
from vlmprep.pipeline.pack import pack, packing_began
from vlmprep.pipeline.places import is_remote_ledger, local_folder, output_at
from vlmprep.pipeline.plan import check_refusal_budget, make_plan
from vlmprep.pipeline.plan.costs import costing_of
from vlmprep.pipeline.plan.file import Plan, open_plan
from vlmprep.pipeline.recognize import Kind, is_ledger
from vlmprep.pipeline.settings import CountSettings, PackSettings, PlanSettings, refuse_other_settings
from vlmprep.schema.engine import Engine
from vlmprep.schema.errors import StopRun
from vlmprep.schema.family import FamilySettings
from vlmprep.schema.progress import Progress
from vlmprep.shardformat.manifest import Manifest

__all__ = ["PackedRun", "count_settings_of", "run_pack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRun:
    """What `vlmprep pack` made or found."""

    ledger: Ledger
    plan: Plan
    manifest: Manifest


def run_pack(
    arguments: Sequence[str],
    counts: CountSettings | None,
    planning: PlanSettings,
    writing: PackSettings,
    *,
    out: Path | str,
    plan: Path | str | None,
    max_refused: float,
    engine: Engine,
    progress: Progress,
    asked: Collection[str] = (),
    work: Path | None = None,
) -> PackedRun:
    """From sources, or from a ledger, to a pack set.

    Args:
        arguments: SOURCE arguments, or one ledger.
        counts: How to count; None takes what the ledger was made with.
        planning: How to plan.
        writing: How to write.
        out: The pack set, a folder or a URL; ledger and plan go into it where they have no folder of their own.
        plan: A plan of this ledger that is there already.
        max_refused: Share of the rows that may be refused.
        engine: Runs the work.
        progress: Is told how far it is.
        asked: Names of the planning settings that somebody asked for: a plan that is given must have been made with them.
        work: Where the copy of a pack set lies that is written to a store; None: where caches lie.

    Raises:
        StopRun: Any stage cannot go on.
    """
    if counts is not None:
        costing_of(planning.balance, counts.family)  # what would stop the plan stops before hours of counting
    with output_at(out, Kind.PACKSET, work) as (root, copy), output_folder(root, Kind.PACKSET):
        began = packing_began(root)
        if len(arguments) == 1 and (is_remote_ledger(arguments[0]) or is_ledger(Path(arguments[0]))):
            ledger = open_ledger(local_folder(arguments[0]))
            made_with = count_settings_of(ledger)
            counts = counts or made_with
            counts = replace(
                counts,
                count_with_fake=made_with.count_with_fake,
                verify_media=counts.verify_media or made_with.verify_media,
                keep=counts.keep or made_with.keep,
            )
            refuse_other_settings(
                f"the ledger {arguments[0]}", decisive(ledger.settings), decisive(ledger_settings(counts))
            )
        else:
            check_source_arguments(arguments, with_processor=counts is not None, plan=plan)
            assert counts is not None, "just checked"
            counts = replace(counts, count_with_fake=counts.count_with_fake or planning.fake_image == "sample")
            ledger = estimate(arguments, counts, root / "ledger", engine, progress, frozen=began)
        if plan is None:
            made = make_plan(ledger, planning, root / "plan", frozen=began, model_config=counts.family.model_config)
        else:
            made = _plan_of(ledger, local_folder(plan), {name: planning.to_json()[name] for name in asked})
        check_refusal_budget(ledger, made, max_refused)
        manifest = pack(ledger, made, counts, writing, root, engine, progress, max_refused=max_refused, copy=copy)
    return PackedRun(ledger=ledger, plan=made, manifest=manifest)


def count_settings_of(ledger: Ledger) -> CountSettings:
    """The settings that a ledger was made with."""
    processor = dict(ledger.settings["processor"])
    processor["options"] = tuple((name, value) for name, value in processor["options"])
    limits = {name: limit for name, limit in ledger.settings["limits"].items() if name not in processor}
    limits["keep"] = tuple(limits.get("keep", ()))
    return CountSettings(family=FamilySettings(**processor), **limits)


def _plan_of(ledger: Ledger, path: Path, asked: Mapping[str, Any]) -> Plan:
    plan = open_plan(path)
    made_with = plan.summary["settings"]
    refuse_other_settings(f"the plan {path}", {name: made_with[name] for name in asked}, asked)
    if plan.summary["ledger"] != ledger.digest:
        raise StopRun(
            f"the plan {path} was not made from the ledger {ledger.root} as it is now",
            f"Run `vlmprep plan {ledger.root}` again.",
        )
    return plan
