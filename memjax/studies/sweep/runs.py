"""The runs of a sweep: trained once each, resumed where they stopped, shared by their arms."""

from pathlib import Path

from memjax.runs.model import with_defaults
from memjax.runs.train import train_run
from memjax.runtime.json import dumps, loads, read_summary
from memjax.studies.sweep.plan import Arm, data_root, identity
from memjax.training.run import RUN_FILE, Run, open_run, read_run_file


def run_folder(workdir: Path, arm: Arm) -> Path:
    """Returns the folder of an arm's run."""
    return workdir / "runs" / arm.run


def ensure_run(workdir: Path, arm: Arm) -> Path:
    """Trains an arm's run, or goes on with it; a finished one is left alone."""
    folder = run_folder(workdir, arm)
    config = loads(dumps(arm.config))
    config["data"]["root"] = data_root(config, workdir)
    if not _finished(folder, arm):
        train_run(config, folder)
    return folder


def _finished(folder: Path, arm: Arm) -> bool:
    if not (folder / RUN_FILE).is_file():
        return False
    trained = read_run_file(folder)["config"]
    same = identity(trained) == identity(arm.config)
    done = read_summary(folder / "training.json").get("steps")
    return same and done == arm.config["train"]["steps"]


def open_arm(workdir: Path, arm: Arm) -> Run:
    """Opens an arm's run at its checkpoint, to be sampled and measured as the arm says."""
    run = open_run(run_folder(workdir, arm), step=arm.step)
    config = {
        **with_defaults(run.config),
        "sampling": arm.config["sampling"],
        "audit": arm.config["audit"],
    }
    return run._replace(config=config)
