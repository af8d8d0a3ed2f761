"""A text screen: cells with colours, a cursor, and the changes that each viewer has not seen."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

Cell = tuple[int, int, int]
"""Character code, foreground, background; colours are indexes of PALETTE."""

PALETTE: Final = (
    (0, 0, 0),
    (170, 0, 0),
    (0, 170, 0),
    (170, 85, 0),
    (40, 80, 200),
    (170, 0, 170),
    (0, 170, 170),
    (190, 190, 190),
    (85, 85, 85),
    (255, 85, 85),
    (85, 255, 85),
    (255, 255, 85),
    (85, 85, 255),
    (255, 85, 255),
    (85, 255, 255),
    (255, 255, 255),
)
"""Red, green and blue of each colour."""
BLACK: Final = 0
GREY: Final = 7
GREEN: Final = 10
WHITE: Final = 15

COLUMNS: Final = 80
ROWS: Final = 30


class ScreenDamage:
    """What changed since the last update of one viewer.

    A tile is a pair of cells, 16 by 16 pixels: the unit of the encoder.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.tiles: set[tuple[int, int]] = set()
        """Column and row of each changed tile."""
        self.scrolled = 0
        """Number of rows by which the content moved up. It precedes the changes of `tiles`."""
        self.resized = False
        self.changed = asyncio.Event()
        self._size = (columns, rows)
        self.touch_all()

    def touch(self, column: int, row: int) -> None:
        self.tiles.add((column // 2, row))
        self.changed.set()

    def touch_all(self) -> None:
        columns, rows = self._size
        self.scrolled = 0
        self.tiles = {(column, row) for row in range(rows) for column in range(columns // 2)}
        self.changed.set()

    def scroll(self) -> None:
        columns, rows = self._size
        self.scrolled += 1
        # Changes that the viewer has not received move up with the content.
        self.tiles = {(column, row - 1) for column, row in self.tiles if row}
        self.tiles |= {(column, rows - 1) for column in range(columns // 2)}
        self.changed.set()

    def resize(self, columns: int, rows: int) -> None:
        self._size = (columns, rows)
        self.resized = True
        self.touch_all()

    def take(self) -> tuple[int, set[tuple[int, int]]]:
        """Return the scrolled rows and the changed tiles, and start anew."""
        taken = self.scrolled, self.tiles
        self.scrolled, self.tiles = 0, set()
        return taken


class TextScreen:
    def __init__(self, columns: int = COLUMNS, rows: int = ROWS) -> None:
        """`columns` is even: a tile has two."""
        self.columns = columns
        self.rows = rows
        self._blank: Cell = (0x20, GREY, BLACK)
        self._cells = [[self._blank] * columns for _ in range(rows)]
        self._column = self._row = 0
        self._cursor_is_visible = True
        self._damages: set[ScreenDamage] = set()

    @contextmanager
    def watched(self) -> Iterator[ScreenDamage]:
        """Collect the changes for one viewer; at first, all of the screen."""
        damage = ScreenDamage(self.columns, self.rows)
        self._damages.add(damage)
        try:
            yield damage
        finally:
            self._damages.discard(damage)

    def row(self, row: int, first: int, stop: int) -> list[Cell]:
        """Return the cells of a row from column `first` to before `stop`, with the cursor."""
        cells = self._cells[row][first:stop]
        at = self._column - first
        if self._cursor_is_visible and row == self._row and 0 <= at < len(cells):
            code, foreground, background = cells[at]
            cells[at] = (code, background, foreground)
        return cells

    def lines(self) -> list[str]:
        """Return the text of the rows, without trailing blanks."""
        return ["".join(chr(code) for code, _, _ in row).rstrip() for row in self._cells]

    def write(self, text: str, colour: int = GREY) -> None:
        self._touch_cursor()
        for character in text:
            if character == "\n":
                self._break_line()
            else:
                self._cells[self._row][self._column] = (ord(character), colour, BLACK)
                self._touch(self._column, self._row)
                self._column += 1
                if self._column == self.columns:
                    self._break_line()
        self._touch_cursor()

    def erase(self) -> None:
        """Remove the character before the cursor, also at the start of a wrapped row."""
        self._touch_cursor()
        if self._column:
            self._column -= 1
        elif self._row:
            self._column, self._row = self.columns - 1, self._row - 1
        self._cells[self._row][self._column] = self._blank
        self._touch_cursor()

    def clear(self) -> None:
        self._cells = [[self._blank] * self.columns for _ in range(self.rows)]
        self._column = self._row = 0
        for damage in self._damages:
            damage.touch_all()

    def resize(self, columns: int, rows: int) -> None:
        """Change the size and keep the last rows. `columns` is even."""
        remaining = [row[:columns] for row in self._cells[: self._row + 1][-rows:]]
        self._cells = [row + [self._blank] * (columns - len(row)) for row in remaining]
        self._row = len(remaining) - 1
        self._cells += [[self._blank] * columns for _ in range(rows - len(remaining))]
        self._column = min(self._column, columns - 1)
        self.columns, self.rows = columns, rows
        for damage in self._damages:
            damage.resize(columns, rows)

    def blink(self) -> None:
        """Show the cursor if it is hidden, else hide it."""
        self._cursor_is_visible = not self._cursor_is_visible
        self._touch_cursor()

    def _break_line(self) -> None:
        self._column = 0
        if self._row < self.rows - 1:
            self._row += 1
            return
        del self._cells[0]
        self._cells.append([self._blank] * self.columns)
        for damage in self._damages:
            damage.scroll()

    def _touch_cursor(self) -> None:
        self._touch(self._column, self._row)

    def _touch(self, column: int, row: int) -> None:
        for damage in self._damages:
            damage.touch(column, row)
