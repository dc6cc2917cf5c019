"""What a page is made of: sections of words, facts, tables and pictures, without a word of HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Words:
    """A paragraph; `loud` for what must not be overlooked."""

    kind: ClassVar[str] = "words"
    text: str
    loud: bool = False


@dataclass(frozen=True)
class Facts:
    """Terms, each with what is to be said of it."""

    kind: ClassVar[str] = "facts"
    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Figures:
    """The few numbers to see first: label, value, and what the number is in small print."""

    kind: ClassVar[str] = "figures"
    entries: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Command:
    """A command line to copy."""

    kind: ClassVar[str] = "command"
    text: str


@dataclass(frozen=True)
class Cell:
    """A cell whose text is not what it is sorted by, or that links to another part of the page."""

    text: str
    key: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under their columns; those in `words` hold text, the others numbers; a `folded` one opens on a click.

    The first column names the row.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    words: Sequence[str] = ()
    folded: bool = False

    @property
    def cells(self) -> Iterator[list[tuple[Cell, bool]]]:
        """Every row, its cells each with whether it holds text."""
        for row in self.rows:
            whole = (one if isinstance(one, Cell) else Cell(one) for one in row)
            yield [(cell, name in self.words) for cell, name in zip(whole, self.columns, strict=True)]


@dataclass(frozen=True)
class Picture:
    """A picture: its name in files and links, its title, what it shows in numbers, and how it is drawn.

    `height` is in inches. A `folded` one opens on a click.
    """

    kind: ClassVar[str] = "picture"
    name: str
    title: str
    description: str
    height: float
    draw: Callable[[Figure], None]
    folded: bool = False


Block: TypeAlias = Words | Facts | Figures | Command | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it."""

    anchor: str
    heading: str
    blocks: Sequence[Block]
    sections: Sequence[Section] = field(default=())

    def pictures(self) -> Iterator[Picture]:
        """Its pictures, then those of its sections, in order."""
        yield from (block for block in self.blocks if isinstance(block, Picture))
        for section in self.sections:
            yield from section.pictures()


@dataclass(frozen=True)
class Page:
    """A title, what is said under it, and sections."""

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]

    def pictures(self) -> Iterator[Picture]:
        """Every picture of the page, in order."""
        for section in self.sections:
            yield from section.pictures()
