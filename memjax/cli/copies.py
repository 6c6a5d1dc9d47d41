"""memjax copies --generated=DIR --training=DIR --out=DIR

Which generated images copy a training image? No model is needed: any generator's images do. Each
is compared with its nearest training image, and the same rule is tried on images that were never
trained on (--held_out=DIR; without them on training images, each against the others). Writes
DIR/index.html, wall.png, copies.csv (one row a generated image) and copies.json. Files that cannot
be read are named and skipped. A stopped run goes on where it was.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from memjax.cli.flags import force_flag, require, seed_flag

FLAGS = flags.FlagValues()
_GENERATED = flags.DEFINE_string("generated", "", "Folder of generated images.", flag_values=FLAGS)
_TRAINING = flags.DEFINE_string(
    "training", "", "Folder of the images that the generator was trained on.", flag_values=FLAGS
)
_HELD_OUT = flags.DEFINE_string(
    "held_out", "", "Folder of like images that it was not trained on.", flag_values=FLAGS
)
_PATIENTS = flags.DEFINE_string(
    "patients",
    "",
    "CSV table with a column of file names and one of patients (file_name, patient; also "
    "CheXpert's, ChestX-ray14's and MIMIC-CXR's own).",
    flag_values=FLAGS,
)
_FEATURES = flags.DEFINE_list(
    "features",
    [],
    "Weights you have, as NAME=PATH: sscd, sscd_large, xrv, rad_dino, dinov2, inception. Each is "
    "one more way of comparing; nothing is downloaded.",
    flag_values=FLAGS,
)
_SSCD = flags.DEFINE_string(
    "sscd", "", "File of SSCD's weights: the same as --features=sscd=FILE.", flag_values=FLAGS
)
_OUT = flags.DEFINE_string("out", "", "Folder for the page and the tables.", flag_values=FLAGS)
_SEED = seed_flag(FLAGS, 0, "Seed of draws.")
_RESTART = flags.DEFINE_bool(
    "restart", False, "Discard what an unfinished run has kept.", flag_values=FLAGS
)
_FORCE = force_flag(FLAGS)
_PARTS = "copies.parts"


def _progress() -> Callable[[str, int, int], None]:
    """Returns a bar for each thing that is counted, a line for each other."""
    from memjax.runs.outputs import progress_bar

    bars: dict[str, Callable[[int, int], None]] = {}

    def update(what: str, done: int, total: int) -> None:
        if total <= 1:
            print(what, file=sys.stderr, flush=True)
            return
        bars.setdefault(what, progress_bar(what))(done, total)

    return update


def check() -> None:
    """Says mistakes that show before anything is loaded."""
    require(generated=_GENERATED.value, training=_TRAINING.value, out=_OUT.value)


def main() -> int:
    """Runs the command."""
    from memjax.report.pages.copies import PAGE, WALL
    from memjax.report.pages.copies_text import SUMMARY, TABLE
    from memjax.runtime.locks import hold
    from memjax.studies.copies.folders import check_apart

    given = {"generated": _GENERATED.value, "training": _TRAINING.value}
    given |= {"held_out": _HELD_OUT.value} if _HELD_OUT.value else {}
    check_apart([*given.items()])
    for flag, root in given.items():
        check_apart([(flag, root), ("out", _OUT.value)])
    with hold(_OUT.value, (PAGE, WALL, TABLE, SUMMARY), force=_FORCE.value) as out:
        return _compared(given, out)


def _compared(given: dict[str, str], out: Path) -> int:
    from memjax.report.pages.copies import PAGE, copies_files
    from memjax.report.pages.copies_text import printed
    from memjax.runtime.files import write_all
    from memjax.runtime.provenance import provenance
    from memjax.studies.copies import copies
    from memjax.studies.store import Store

    features = [*([f"sscd={_SSCD.value}"] if _SSCD.value else []), *_FEATURES.value]
    parts = out / _PARTS
    found = copies(
        _GENERATED.value,
        _TRAINING.value,
        _HELD_OUT.value or None,
        patients=_PATIENTS.value or None,
        features=features,
        keep=parts,
        restart=_RESTART.value,
        seed=_SEED.value,
        progress=_progress(),
    )
    asked: dict[str, Any] = {flag: part["folder"] for flag, part in found.summary["files"].items()}
    asked |= {"patients": Path(_PATIENTS.value).name}
    asked["features"] = [
        f"{e.partition('=')[0]}={Path(e.partition('=')[2]).name}" for e in features
    ]
    files = copies_files(
        found,
        title="Does it copy? {generated} against {training}".format(**asked),
        made_by=provenance(asked, _SEED.value, None, **asked),
    )
    write_all(out, files)
    Store(parts, {}).remove()
    for sentence in printed(found.summary):
        print(sentence)
    print(f"written: {out / PAGE} (open it in a browser)")
    return 0
