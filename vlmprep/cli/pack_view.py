"""One pack in the terminal: a line about it, its documents, their text with what is trained on set apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.console import RenderableType
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from vlmprep.cli.tables import quantity, share, visible
from vlmprep.pipeline.inspect.pack import DocumentView, MediumView, PackView, Span

__all__ = ["document_text", "elided", "pack_parts"]

OPEN, CLOSE = "⟦", "⟧"
"""Around what is trained on; they say it without colour too."""
TRAINED, MARK = "green", "bold green"
STYLES = {"text": "", "ids": "", "control": "dim", "media": "cyan"}

HEAD_CHARS, TAIL_CHARS = 900, 500
"""What is left of a document that is shown in short."""


def pack_parts(view: PackView, *, full: bool) -> Iterator[RenderableType]:
    """The parts of a pack, to be printed one below the other.

    Args:
        view: The pack.
        full: Show long documents in full.
    """
    yield heading(view)
    if view.note:
        yield f"[yellow]{escape(view.note)}[/yellow]"
    yield ""
    yield document_table(view.documents)
    yield f"\n[dim]Trained on:[/dim] [{MARK}]{OPEN}[/][{TRAINED}]like this[/][{MARK}]{CLOSE}[/]"
    for document in view.documents:
        yield ""
        yield Rule(Text(document_name(document), style="bold"), align="left", style="dim")
        yield document_text(document.spans if full else elided(document.spans))


def heading(view: PackView) -> str:
    """What is to be known of the pack as a whole."""
    media = Counter(medium.kind for document in view.documents for medium in document.media if not medium.fake)
    facts = [
        f"{quantity(view.num_tokens)} of {quantity(view.pack_size)} tokens ({view.num_tokens / view.pack_size:.2%})",
        f"{share(view.num_visual_tokens, view.num_tokens)} visual",
        f"{share(view.num_label_tokens, view.num_tokens)} trained on",
        f"{sum(document.sample is not None for document in view.documents)} documents",
        ", ".join(f"{count} {kind}s" for kind, count in media.items()) or "no media",
    ]
    where = f"{view.shard}, {quantity(view.num_bytes)} bytes"
    return f"[bold]Pack {view.pack_id}[/bold]  [dim]{where}[/dim]\n" + " · ".join(facts)


def document_table(documents: Sequence[DocumentView]) -> Table:
    """A row per document."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("#", justify="right")
    table.add_column("source, row")
    table.add_column("sample")
    table.add_column("tokens", justify="right")
    table.add_column("trained on", justify="right")
    table.add_column("media")
    for document in documents:
        sample = document.sample
        table.add_row(
            str(document.number) if sample else "",
            escape(visible(f"{sample.source}, row {sample.row}")) if sample else "[dim]fake image[/dim]",
            escape(visible(sample.sample_id)) if sample else "",
            quantity(document.num_tokens),
            quantity(document.num_label_tokens),
            ", ".join(map(medium_name, document.media)),
        )
    return table


def document_name(document: DocumentView) -> str:
    """The title above a document's text."""
    if document.sample is None:
        return "fake image"
    return visible(
        f"{document.number} · {document.sample.source}, row {document.sample.row} · {document.sample.sample_id}"
    )


def medium_name(medium: MediumView) -> str:
    """`image 640x480 (391)`: width, height, placeholder tokens."""
    return f"{medium.name} ({quantity(medium.num_tokens)})"


def document_text(spans: Sequence[Span]) -> Text:
    """Spans as one text; neighbours that are trained on share their marks."""
    text = Text()
    trained = False
    for span in spans:
        if span.trained != trained:
            text.append(CLOSE if trained else OPEN, MARK)
            trained = span.trained
        style = f"{STYLES[span.role]} {TRAINED if trained else ''}".strip()
        text.append(visible(span.text), style)
    if trained:
        text.append(CLOSE, MARK)
    return text


def elided(spans: Sequence[Span]) -> list[Span]:
    """Head and tail of a long document, with a note on what lies between."""
    num_chars = sum(len(span.text) for span in spans)
    if num_chars <= HEAD_CHARS + TAIL_CHARS:
        return list(spans)
    left_out = f"\n… {quantity(num_chars - HEAD_CHARS - TAIL_CHARS)} characters more, --full shows them …\n"
    return [
        *part_of(spans, 0, HEAD_CHARS),
        Span(text=left_out, role="control", trained=False),
        *part_of(spans, num_chars - TAIL_CHARS, num_chars),
    ]


def part_of(spans: Sequence[Span], start: int, end: int) -> Iterator[Span]:
    """The characters from `start` to `end`; control tokens and media are whole or not there."""
    at = 0
    for span in spans:
        text = span.text[max(0, start - at) : max(0, end - at)]
        if text:
            yield replace(span, text=text) if span.role in ("text", "ids") else span
        at += len(span.text)
