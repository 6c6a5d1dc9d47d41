"""The table of a registry, by hand."""

import dataclasses

from memjax.core.registry import Registry, references


@dataclasses.dataclass(frozen=True)
class Plain:
    """Whatever ``|x|`` is."""


@dataclasses.dataclass(frozen=True)
class Cited:
    """A method with sources.

    References:
        Somebody 2020, arXiv 2001.00001,
        Eq. 3; somebody else 2021.

        A later one.

    Attributes:
        none: Not one of the references.
    """

    cost = "free"
    needs = frozenset({"maps", "images"})


def test_a_row_says_what_it_is_its_needs_its_cost_and_its_references():
    table = Registry("method", {"plain": Plain, "cited": Cited}).table()
    assert table.splitlines() == [
        "| Name | What it is | Needs | Cost | Reference |",
        "| --- | --- | --- | --- | --- |",
        r"| `plain` | Whatever `\|x\|` is | – | – | – |",
        "| `cited` | A method with sources | `images`, `maps` | free | Somebody 2020, arXiv "
        "2001.00001, Eq. 3; somebody else 2021. A later one. |",
    ]
    assert references(Plain) == ""
