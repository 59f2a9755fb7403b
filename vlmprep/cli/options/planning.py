"""What a plan depends on, beside the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

import typer

from vlmprep.pipeline.settings import MAX_PACK_SIZE, PlanSettings

__all__ = ["PlanOptions"]


class Balance(StrEnum):
    """What the planner makes equal."""

    COMPUTE = "compute"
    VT = "vt"
    NONE = "none"


class FakeImage(StrEnum):
    """Where fake images go."""

    PACK = "pack"
    SAMPLE = "sample"
    NONE = "none"


class Overlong(StrEnum):
    """What becomes of samples that are longer than a pack."""

    REFUSE = "refuse"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan depends on, beside the ledger."""

    panel: ClassVar[str] = "Planning"
    pack_size: Annotated[
        int,
        typer.Option(
            "--pack-size", help="Tokens that a pack holds at most, after the shift.", min=2, max=MAX_PACK_SIZE
        ),
    ] = 8192
    balance: Annotated[Balance, typer.Option("--balance", help="What is made equal across packs.")] = Balance.VT
    fill_weight: Annotated[
        float,
        typer.Option(
            "--fill-weight",
            help="Trades fill against balance: nearer to 1, packs are fuller and less equal.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.6
    fake_image: Annotated[
        FakeImage,
        typer.Option(
            "--fake-image",
            help="`pack` puts one fake image into packs without pictures, `sample` into samples without.",
        ),
    ] = FakeImage.PACK
    overlong: Annotated[
        Overlong,
        typer.Option(
            "--overlong",
            help="Samples longer than a pack: `truncate` cuts their end off, never through a medium, and records it.",
        ),
    ] = Overlong.REFUSE
    max_visual_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-visual-tokens",
            help="Visual tokens that a pack holds at most: bounds memory.",
            min=0,
            show_default=False,
        ),
    ] = None
    max_images: Annotated[
        int | None, typer.Option("--max-images", help="Images that a pack holds at most.", min=0, show_default=False)
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost",
            help="Predicted TFLOP of a pack's forward pass at most; with --balance compute.",
            min=0.0,
            show_default=False,
        ),
    ] = None
    document_alignment: Annotated[
        int,
        typer.Option(
            "--document-alignment",
            help="Every document takes a multiple of so many tokens: twice the ranks of context parallelism.",
            min=1,
        ),
    ] = 1
    packing_ratio: Annotated[
        float,
        typer.Option("--packing-ratio", help="Share of --pack-size that packs are planned for.", min=0.0, max=1.0),
    ] = 1.0
    max_packs: Annotated[
        int | None,
        typer.Option("--max-packs", help="Keep so many packs, a fair cut of everything.", min=1, show_default=False),
    ] = None
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weight",
            metavar="SOURCE=W",
            help="How often the rows of a source are used, times its sample_ratio: 0.5 draws half of them, 2.5 takes all twice "
            "and half of them once more; several times.",
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", help="Of every choice between equals.")] = 0

    def settings(self) -> PlanSettings:
        """As settings of a stage."""
        return PlanSettings(
            pack_size=self.pack_size,
            balance=self.balance.value,
            fill_weight=self.fill_weight,
            fake_image=self.fake_image.value,
            overlong=self.overlong.value,
            max_visual_tokens=self.max_visual_tokens,
            max_images=self.max_images,
            max_cost=self.max_cost,
            document_alignment=self.document_alignment,
            packing_ratio=self.packing_ratio,
            max_packs=self.max_packs,
            weights=dict(map(source_weight, self.weights or ())),
            seed=self.seed,
        )


def source_weight(text: str) -> tuple[str, float]:
    """SOURCE=W as a pair.

    Raises:
        typer.BadParameter: It is not of this form.
    """
    name, equals, weight = text.rpartition("=")
    try:
        assert equals
        return name, float(weight)
    except (AssertionError, ValueError):
        raise typer.BadParameter(f"--weight {text!r} is not SOURCE=W") from None
