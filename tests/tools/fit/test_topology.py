"""Names of slices, and the machine without the TPU compiler."""

import importlib.util

import pytest

from memjax.core.chips import CHIPS
from memjax.tools.fit.collectives import Collective, Shape
from memjax.tools.fit.report import roofline
from memjax.tools.fit.topology import EXAMPLES, parse_topology, prepare_compiler
from tests.commands import memjax

GOOD = {
    "v5e:2x4": ((2, 4), 8, 100e9),  # no axis closes to a ring: one link along each
    "v5e:16x16": ((16, 16), 256, 200e9),
    "v5e:1x1": ((1, 1), 1, 0),
    "v5p:2x2x2": ((2, 2, 2), 8, 300e9),
    "v5p:4x4x4": ((4, 4, 4), 64, 600e9),
    "v5p:8x8x16": ((8, 8, 16), 1024, 600e9),
    "v4:2x2x1": ((2, 2, 1), 4, 100e9),
}
BAD = {
    "v5e": ("v5e", "CHIP:AxB"),
    "v5e:": ("v5e:", "v5e:2x4"),
    "v9:2x2": ("v9:2x2", "v4, v5e, v5p, v6e"),
    "v5e:2by4": ("v5e:2by4", "CHIP:AxB"),
    "v5e:2x2x2": ("3 axes", "expected 2", "v5e:16x16"),
    "v5p:4x4": ("2 axes", "expected 3", "v5p:4x4x4"),
    "v5p:4x0x4": ("at least 1",),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_chips_and_links(name):
    axes, chips, ingress = GOOD[name]
    topology = parse_topology(name)
    assert (topology.axes, topology.chips, topology.ingress) == (axes, chips, ingress)


def test_slices_multiply_the_chips_and_not_the_links():
    one, two = parse_topology("v5p:4x4x4"), parse_topology("v5p:4x4x4", 2)
    assert two.chips == 2 * one.chips
    assert two.ingress == one.ingress


@pytest.mark.parametrize("name", BAD)
def test_an_unknown_name_is_refused_with_examples(name):
    with pytest.raises(ValueError, match="--topology=") as raised:
        parse_topology(name)
    for word in BAD[name]:
        assert word in str(raised.value)


def test_every_example_is_a_name():
    for names in EXAMPLES.values():
        for name in names.split(", "):
            assert parse_topology(name).chip is CHIPS[name.partition(":")[0]]


def test_without_the_compiler_one_sentence_says_how_to_get_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "libtpu" else found(name)
    )
    with pytest.raises(ValueError, match=r"pip install 'memjax\[tpu\]'"):
        prepare_compiler()


MISTAKES = {
    "nothing given": ((), "--config and --topology"),
    "no topology": (("--config=phantoms_demo",), "--topology"),
    "unknown topology": (("--config=phantoms_demo", "--topology=v5e:8"), "v5e:8", "v5e:2x4"),
    "no slices": (
        ("--config=phantoms_demo", "--topology=v5e:2x4", "--slices=0"),
        "--slices=0, expected an integer from 1",
    ),
    "unknown configuration": (("--config=chexpert_cgf", "--topology=v5e:2x4"), "chexpert_cfg"),
    "unknown job": (("--config=phantoms_demo", "--topology=v5e:2x4", "--job=fly"), "fly"),
    "impossible batch": (("--config=phantoms_demo", "--topology=v5e:2x4", "--batch=0"), "batch"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name):
    arguments, *words = MISTAKES[name]
    done = memjax("fit", *arguments)
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.strip()]
    assert line.startswith("memjax: ")
    for word in words:
        assert word in line


def moved(kind, size, *, group=8, crosses=False):
    return Collective(kind, (Shape("f32", (size // 4,)),), group, crosses, 1, True, "")


def test_the_roofline_is_the_longest_of_what_can_overlap():
    topology = parse_topology("v5e:2x4")
    chip = topology.chip
    times = roofline(2 * chip.flops, 3 * chip.bandwidth, [moved("all-gather", 800)], topology)
    assert (times.compute, times.memory) == (2.0, 3.0)
    assert times.links == pytest.approx(700 / 100e9)
    assert times.seconds == 3.0
    assert times.serial == pytest.approx(5.0)
    assert times.bound == "memory"
    assert times.intensity == pytest.approx(chip.ridge * 2 / 3)


def test_what_crosses_slices_takes_the_network():
    topology = parse_topology("v5e:2x4", 2)
    across = moved("all-reduce", 8000, group=2, crosses=True)
    times = roofline(0.0, 1.0, [across], topology)
    assert times.links == 0.0
    assert times.network == 8000 / topology.chip.network
    assert times.bound == "network"
