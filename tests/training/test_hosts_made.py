"""What two processes of two devices each make of a model is what one process makes of it."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.training.host_processes import QUICKLY, prompts, run_commands

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images and repairs of five prompts, in one process of one device and in two of two."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "few.jsonl").write_text("".join(list(prompts())[:5]))
    short = ["train", "--config=phantoms_demo:short", "--workdir=run"]
    common = ["--model=run", "--prompts=few.jsonl", "--generations=2", "--num_steps=4"]
    repair = ["mitigate", *common, "--targets=0.5", "--num_iters=2", "--steps=0", "--baselines="]
    commands = {
        name: [["sample", *common, f"--out=images-{name}"], [*repair, f"--out=repaired-{name}"]]
        for name in ("one", "two")
    }
    run_commands([short, *commands["one"]], folder, "one", **QUICKLY)
    run_commands(commands["two"], folder, "two", 2, 2, **QUICKLY)
    return folder


def test_images_of_several_processes_are_those_of_one(made):
    names = sorted(path.name for path in (made / "pictures-one").iterdir())
    assert len(names) == 5 * 2 + 2
    assert sorted(path.name for path in (made / "pictures-two").iterdir()) == names
    for name in names:
        if name.endswith(".png"):
            one, two = (np.asarray(Image.open(made / f"images-{n}" / name)) for n in ("one", "two"))
            assert np.abs(one.astype(int) - two.astype(int)).max() <= 1  # rounding to bytes


def test_repairs_of_several_processes_are_those_of_one(made):
    one, two = (np.load(made / f"repaired-{n}" / "embeddings.npz") for n in ("one", "two"))
    np.testing.assert_allclose(two["after"], one["after"], atol=2e-5)
    assert np.abs(one["after"] - one["before"]).max() > 0.05  # two updates of Adam at 0.05
    files = [made / f"repaired-{n}" / "mitigated.jsonl" for n in ("one", "two")]
    rows = [file.read_text().splitlines() for file in files]
    ids = [[(json.loads(line)["id"], json.loads(line)["arm"]) for line in text] for text in rows]
    assert ids[0] == ids[1]
    assert not (made / "repaired-two" / "parts").exists()
