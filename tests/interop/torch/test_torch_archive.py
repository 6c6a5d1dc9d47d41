"""The restricted reader on archives made by hand: right ones are read, hostile ones refused."""

import os

import ml_dtypes
import numpy as np
import pytest

from memjax.interop.torch import pickle_data
from memjax.interop.torch.archive import read_torch
from tests.interop.torch.archives import (
    assert_one_sentence,
    built,
    called,
    integer,
    integers,
    many,
    mapping,
    name,
    numbers,
    storage,
    tensor,
    text,
    vector,
    write_old,
    write_zip,
)

ONE = {"w": vector(6)}
CONV = name("torch.nn.modules.conv", "Conv2d")


def test_state_dict(tmp_path):
    brain = np.array([1.5, -2.25], ml_dtypes.bfloat16)
    state = {
        "plain": tensor(storage(6), 0, integers(2, 3), integers(3, 1)),
        "turned": tensor(storage(6), 0, integers(3, 2), integers(1, 3)),
        "cut": tensor(storage(6), 1, integers(2), integers(2)),
        "number": tensor(storage(6), 5, b")", b")"),
        "empty": tensor(storage(6), 0, integers(0, 4), integers(4, 1)),
        "brain": tensor(storage(2, "1", "BFloat16Storage"), 0, integers(2), integers(1)),
    }
    path = write_zip(tmp_path / "w.pt", mapping(state), {"0": numbers(6), "1": brain.tobytes()})
    arrays = read_torch(path)
    np.testing.assert_array_equal(arrays["plain"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["turned"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(arrays["cut"], [1, 3])
    assert (arrays["number"].shape, float(arrays["number"])) == ((), 5.0)
    assert arrays["empty"].shape == (0, 4)
    assert arrays["brain"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(arrays["brain"], brain)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_weights_inside_a_checkpoint(tmp_path, wrapper):
    value = mapping({"epoch": integer(3), wrapper: mapping(ONE), "optimizer": mapping(ONE)})
    assert set(read_torch(write_zip(tmp_path / "w.pt", value))) == {"w"}


def test_a_whole_module_gives_the_names_of_its_state_dict(tmp_path):
    parameter = called(name("torch._utils", "_rebuild_parameter"), vector(6), b"\x88", mapping({}))
    findings = called(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"))
    inner = mapping({"_parameters": mapping({"weight": parameter}), "_buffers": mapping({})})
    outer = mapping(
        {
            "_parameters": mapping({}),
            "_modules": mapping({"conv0": built(CONV, inner)}),
            "_buffers": mapping({"threshold": vector(6)}),
            "pathologies": findings + mapping({}) + b"b",
            "training": b"\x89",
        }
    )
    value = built(name("torchxrayvision.models", "DenseNet"), outer)
    arrays = read_torch(write_zip(tmp_path / "w.pt", value))
    assert set(arrays) == {"conv0.weight", "threshold"}
    scripted = built(
        name("__torch__.net", "Net"),
        mapping({"conv": built(name("__torch__.conv", "Conv"), mapping(ONE))}),
    )
    assert set(read_torch(write_zip(tmp_path / "w.pt", scripted))) == {"conv.w"}


def test_old_format_with_a_class_by_reference(tmp_path):
    kind = many(text("module"), CONV, text("conv.py"), text("class Conv2d: ...")) + b"Q"
    value = built(kind, mapping({"_parameters": mapping({"a": vector(6), "b": vector(2, "1")})}))
    path = write_old(tmp_path / "w.pt", value, {"0": numbers(6), "1": numbers(2)})
    arrays = read_torch(path)
    np.testing.assert_array_equal(arrays["a"], np.arange(6))
    np.testing.assert_array_equal(arrays["b"], [0, 1])


def test_big_endian_archive(tmp_path):
    data = np.arange(6, dtype=">f4").tobytes()
    others = {"archive/byteorder": b"big"}
    path = write_zip(tmp_path / "w.pt", mapping(ONE), {"0": data}, others=others)
    np.testing.assert_array_equal(read_torch(path)["w"], np.arange(6))


def window(offset, shape, strides, size=6):
    return mapping({"w": tensor(storage(size), offset, shape, strides)})


def references(identifier: bytes) -> bytes:
    return mapping({"w": tensor(identifier + b"Q", 0, integers(6), integers(1))})


DEEP = CONV + b")\x81q\x00" + mapping({"_modules": mapping({"inner": b"h\x00"})}) + b"b"
# 2^60 leaves that share their parts: a tuple of two equal tuples, and modules of two equal modules.
LAUGH = b")" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(100, 160))
MAZE = mapping({"w": vector(6)})
for memo in range(100, 160):
    MAZE = b"}" + text("a") + MAZE + b"q%cs" % memo + text("b") + b"h%cs" % memo
TOUCH = text("touch executed")
HOSTILE = {
    "calls the shell": (called(name("os", "system"), TOUCH), r"names os\.system, which is neither"),
    "calls posix": (called(name("posix", "system"), TOUCH), r"names posix\.system"),
    "evaluates": (called(name("builtins", "eval"), text("1")), r"names builtins\.eval"),
    "clears the screen": (text("a\n\x1b[2J") + text("b") + b"\x93", r"names a\?\?\[2J\.b"),
    "has a long name": (name("x" * 10_000, "f"), "names x{390}"),
    "laughs in a key": (b"}" + LAUGH + b"N" + b"s", "neither a text nor a whole number"),
    "laughs in a dict": (
        called(name("collections", "OrderedDict"), b"]" + many(LAUGH, b"N") + b"a"),
        "neither a text nor a whole number",
    ),
    "laughs in a shape": (window(0, LAUGH, integers(1)), "which is none"),
    "laughs in a storage": (references(many(*[LAUGH] * 5)), "not a storage"),
    "laughs in a storage's name": (
        references(many(text("storage"), name("torch", "FloatStorage"), LAUGH, LAUGH, LAUGH)),
        r"storage \(tuple, tuple\) of type",
    ),
    "is a maze": (MAZE, "nests its modules"),
    "names by stack": (text("os") + text("system") + b"\x93", r"names os\.system"),
    "reaches through torch": (name("torch.hub", "load"), r"names torch\.hub\.load"),
    "hides in a module's name": (name("torch.nnx", "f"), r"names torch\.nnx\.f"),
    "calls a layer": (called(CONV, TOUCH), r"calls torch\.nn\.modules\.conv\.Conv2d"),
    "calls a storage type": (called(name("torch", "FloatStorage")), r"calls torch\.FloatStorage"),
    "calls a text": (called(text("os.system"), TOUCH), "broken pickle"),
    "uses inst": (b"(" + TOUCH + b"ios\nsystem\n", "pickle operation INST"),
    "uses obj": (b"(" + CONV + TOUCH + b"o", "pickle operation OBJ"),
    "uses an extension": (b"\x82\x01", "pickle operation EXT1"),
    "sets a state on a list": (b"]" + mapping({}) + b"b", "broken pickle"),
    "sets a state on a name": (CONV + mapping({"f": b"N"}) + b"b", "broken pickle"),
    "fills a tuple": (b")" + text("a") + text("b") + b"s", "broken pickle"),
    "uses an unhashable key": (b"}" + b"]" + b"N" + b"s", "broken pickle"),
    "pops too much": (b"R", "broken pickle"),
    "misses its mark": (integer(1) + b"t", "broken pickle"),
    "recalls what was never kept": (b"h\x07", "broken pickle"),
    "has a far memo": (b"Nr\xff\xff\xff\x7f", "no named weights"),
    "holds no weights": (mapping({"a": integer(3)}), "no named weights"),
    "contains itself": (DEEP, "nests its modules"),
    "starts beyond the end": (window(4, integers(3), integers(1)), "offset 4"),
    "strides beyond the end": (window(0, integers(2, 2), integers(5, 1)), r"strides \(5, 1\)"),
    "strides backwards": (window(5, integers(3), integers(-1)), "which is none"),
    "starts before the beginning": (window(-1, integers(3), integers(1)), "offset -1"),
    "has a negative length": (window(0, integers(-2, -3), integers(1, 1)), "which is none"),
    "repeats one number": (window(0, integers(2**30), integers(0)), "storage of 6 numbers"),
    "repeats rows": (window(0, integers(2**20, 6), integers(0, 1)), "storage of 6 numbers"),
    "is astronomic": (window(0, integers(2**70), integers(1)), "which is none"),
    "is astronomic and empty": (window(0, integers(2**70, 0), integers(1, 1)), "which is none"),
    "has too many axes": (window(0, integers(*[1] * 40), integers(*[1] * 40)), "which is none"),
    "forgets a stride": (window(0, integers(2, 3), integers(1)), "which is none"),
    "has a text for a length": (window(0, many(text("6")), integers(1)), "which is none"),
    "has a flag for a length": (window(0, many(b"\x88"), integers(1)), "which is none"),
    "overstates its storage": (window(0, integers(9), integers(1), 9), "36 bytes and holds 24"),
    "understates its storage": (window(0, integers(5), integers(1), 5), "20 bytes and holds 24"),
    "has a negative storage": (window(0, integers(0), integers(1), -6), "with -6 numbers"),
    "has an unknown storage type": (
        mapping({"w": tensor(storage(6, "0", "QUInt8Storage"), 0, integers(6), integers(1))}),
        r"names torch\.QUInt8Storage",
    ),
    "has a storage of a layer's type": (
        references(many(text("storage"), CONV, text("0"), text("cpu"), integer(6))),
        "storage '0' of type",
    ),
    "lacks the storage": (mapping({"w": vector(6, "7")}), r"no member 'archive/data/7'"),
    "climbs out by a key": (mapping({"w": vector(6, "../../x")}), "no member"),
    "refers elsewhere": (references(text("http://x")), "not a storage"),
    "describes a storage twice": (
        mapping({"v": vector(6), "w": tensor(storage(3), 0, integers(3), integers(1))}),
        "in two ways",
    ),
    "multiplies one storage": (
        mapping({f"w{k}": vector(6) for k in range(9)}),
        "more tensors than its storages",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused_in_one_sentence(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    value, message = HOSTILE[case]
    path = write_zip(tmp_path / "w.pt", value)
    with pytest.raises(ValueError, match=message) as caught:
        read_torch(path)
    assert_one_sentence(caught.value, path)
    assert os.listdir(tmp_path) == ["w.pt"]  # nothing ran, nothing was unpacked


def test_a_pickle_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_data, "MAX_OPERATIONS", 20)
    with pytest.raises(ValueError, match="more than 20 operations"):
        read_torch(write_zip(tmp_path / "w.pt", mapping(ONE)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"There is no weights file .*nothing\.pt"):
        read_torch(tmp_path / "nothing.pt")
