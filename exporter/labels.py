"""Where labels go so that they hide neither marks nor each other. Pure geometry, in points."""

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 3.0  # between a mark and its label
CHARACTER = 0.66  # mean width of a bold character, in font sizes
LINE = 1.25  # height of a line, in font sizes


@dataclass(frozen=True)
class Box:
    """A rectangle by its middle and its lengths."""

    x: float
    y: float
    width: float
    height: float

    def overlap(self, other: "Box") -> float:
        """Return the area that two rectangles share."""
        return _shared(self.x, self.width, other.x, other.width) * _shared(
            self.y, self.height, other.y, other.height
        )

    def outside(self, frame: "Box") -> float:
        """Return the area of this rectangle that lies outside ``frame``."""
        return self.width * self.height - self.overlap(frame)


# Directions from a mark to its label, the best first; the factor says how far.
_AROUND = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
_DISTANCES = (0.0, 8.0, 16.0)


def text_box(text: str, font_size: float) -> tuple[float, float]:
    """Return about how wide and how high a text will be."""
    lines = text.split("\n")
    return max(map(len, lines)) * CHARACTER * font_size, len(lines) * LINE * font_size


def place_labels(
    marks: Sequence[Box], sizes: Sequence[tuple[float, float]], frame: Box
) -> list[tuple[float, float]]:
    """Return the middle of each mark's label: the first place round it that hides the least.

    Greedy, in the given order, so the important ones come first.

    Args:
        marks: what must stay visible.
        sizes: width and height of the label of each mark.
        frame: labels stay inside it.
    """
    placed: list[Box] = []
    for mark, (width, height) in zip(marks, sizes, strict=True):
        best, least = Box(mark.x, mark.y, width, height), float("inf")
        for distance in _DISTANCES:
            for right, up in _AROUND:
                label = Box(
                    mark.x + right * ((mark.width + width) / 2 + GAP + distance),
                    mark.y + up * ((mark.height + height) / 2 + GAP + distance),
                    width,
                    height,
                )
                hidden = sum(label.overlap(other) for other in (*marks, *placed))
                hidden += label.outside(frame)
                if hidden < least - 1e-9:
                    best, least = label, hidden
        placed.append(best)
    return [(label.x, label.y) for label in placed]


def _shared(middle: float, length: float, other_middle: float, other_length: float) -> float:
    start = max(middle - length / 2, other_middle - other_length / 2)
    end = min(middle + length / 2, other_middle + other_length / 2)
    return max(0.0, end - start)
