"""What was wrong with a data set: counted, named, and refused where asked."""

from collections.abc import Mapping, Sequence

_LONGEST = 300  # letters of an example


class Problems:
    """What was wrong with a data set: counts by kind, and the first examples of each.

    Three tallies stand beside the problems, and nothing is refused for them: ``notes`` (what is
    right but read in a way that one should know of), ``unread`` (files that are no images, with
    examples of their own) and ``bits`` (how many images have so many bits a channel).

    Args:
        examples: How many examples of each kind are kept.
    """

    def __init__(self, examples: int = 5):
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}
        self.notes: dict[str, int] = {}
        self.bits: dict[str, int] = {}
        self.unread: dict[str, int] = {}
        self.unread_examples: dict[str, list[str]] = {}
        self._most = examples

    def __bool__(self) -> bool:
        return bool(self.counts)

    @property
    def total(self) -> int:
        """Number of problems of every kind."""
        return sum(self.counts.values())

    def add(self, kind: str, where: str) -> None:
        """Count one problem of a kind; ``where`` names it."""
        self._tally(self.counts, self.examples, kind, 1, [where])

    def pass_over(self, kind: str, where: str) -> None:
        """Count one file that is not read, and need not be; ``where`` names it."""
        self._tally(self.unread, self.unread_examples, kind, 1, [where])

    def note(self, kind: str) -> None:
        """Count one note of a kind."""
        self.notes[kind] = self.notes.get(kind, 0) + 1

    def decoded(self, bits: str, notes: Sequence[str]) -> None:
        """Count one image that was decoded: its bits a channel, and what reading changed."""
        self.bits[bits] = self.bits.get(bits, 0) + 1
        for note in notes:
            self.note(note)

    def noted(self) -> str:
        """``3 turned upright (EXIF orientation), 5 …``; empty where there are no notes."""
        return ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.notes.items()))

    def passed_over(self) -> str:
        """``2 .json (a.json; b.json), 1 …``; empty where every file was read."""
        return ", ".join(
            f"{count:,} {kind} ({_named(count, self.unread_examples[kind])})"
            for kind, count in sorted(self.unread.items())
        )

    def merge(self, other: "Problems") -> None:
        """Add the counts and examples of ``other``."""
        for mine, theirs in ((self.notes, other.notes), (self.bits, other.bits)):
            for kind, count in theirs.items():
                mine[kind] = mine.get(kind, 0) + count
        for kind, count in other.counts.items():
            self._tally(self.counts, self.examples, kind, count, other.examples[kind])
        for kind, count in other.unread.items():
            places = other.unread_examples[kind]
            self._tally(self.unread, self.unread_examples, kind, count, places)

    def _tally(
        self,
        counts: dict[str, int],
        examples: dict[str, list[str]],
        kind: str,
        count: int,
        places: Sequence[str],
    ) -> None:
        counts[kind] = counts.get(kind, 0) + count
        kept = examples.setdefault(kind, [])
        for place in places[: self._most - len(kept)]:
            said = place if place.isprintable() else place.encode("unicode_escape").decode()
            kept.append(said if len(said) <= _LONGEST else f"{said[:_LONGEST]} …")

    def summary(self) -> str:
        """One sentence per kind, with its examples; "No problems found." where there are none."""
        if not self.counts:
            return "No problems found."
        return " ".join(
            f"{kind}: {count} ({_named(count, self.examples[kind])})."
            for kind, count in sorted(self.counts.items())
        )

    def refuse(self) -> None:
        """Raise a ValueError that lists everything, if there is anything."""
        if self.counts:
            raise ValueError(
                f"The data set has {self.total} problems; mend them or read it without strict. "
                f"{self.summary()}"
            )


def _named(count: int, kept: Sequence[str]) -> str:
    return "; ".join(kept) + (f" and {count - len(kept)} more" if count > len(kept) else "")


def bit_depths(bits: Mapping[str, int]) -> dict[str, int]:
    """Images by bits a channel, fewest bits first."""
    return dict(sorted(bits.items(), key=lambda item: (not item[0].isdigit(), len(item[0]), item)))
