"""What was wrong with a data set: counted, named, and refused where asked."""


class Problems:
    """What was wrong with a data set: counts by kind, and the first examples of each.

    Notes are counted beside: what is right but read in a way that one should know of. They are no
    problems, so nothing is refused for them.

    Args:
        examples: How many examples of each kind are kept.
    """

    def __init__(self, examples: int = 5):
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}
        self.notes: dict[str, int] = {}
        self._most = examples

    def __bool__(self) -> bool:
        return bool(self.counts)

    @property
    def total(self) -> int:
        """Number of problems of every kind."""
        return sum(self.counts.values())

    def add(self, kind: str, where: str) -> None:
        """Count one problem of a kind; ``where`` names it."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < self._most:
            kept.append(where)

    def note(self, kind: str) -> None:
        """Count one note of a kind."""
        self.notes[kind] = self.notes.get(kind, 0) + 1

    def noted(self) -> str:
        """``3 turned upright (EXIF orientation), 5 …``; empty where there are no notes."""
        return ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.notes.items()))

    def merge(self, other: "Problems") -> None:
        """Add the counts, examples and notes of ``other``."""
        for kind, count in other.notes.items():
            self.notes[kind] = self.notes.get(kind, 0) + count
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            kept = self.examples.setdefault(kind, [])
            kept.extend(other.examples[kind][: self._most - len(kept)])

    def summary(self) -> str:
        """One sentence per kind, with its examples; "No problems found." where there are none."""
        if not self.counts:
            return "No problems found."
        return " ".join(self._sentence(kind) for kind in sorted(self.counts))

    def _sentence(self, kind: str) -> str:
        count, kept = self.counts[kind], self.examples[kind]
        more = f" and {count - len(kept)} more" if count > len(kept) else ""
        return f"{kind}: {count} ({'; '.join(kept)}{more})."

    def refuse(self) -> None:
        """Raise a ValueError that lists everything, if there is anything."""
        if self.counts:
            raise ValueError(
                f"The data set has {self.total} problems; mend them or read it without strict. "
                f"{self.summary()}"
            )
