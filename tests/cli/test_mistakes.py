"""A user's mistake ends with exit code 2 and one sentence, and changes no file."""

import json
import shutil

import numpy as np
import pytest

from tests.commands import memjax, with_dropout, write_prompts

RUN = ("--model={run}", "--prompts={good}")
DETECT = ("detect", *RUN, "--out={out}.jsonl")
TRAIN = ("train", "--config=phantoms_demo:short", "--workdir={out}")


def prompts_flag(name):
    return ("detect", "--model={run}", "--prompts={" + name + "}", "--out={out}.jsonl")


# Found while the flags are read: no run is needed.
EARLY = {
    "unknown command": (("trian",), "no command 'trian'", "Did you mean 'train'?", "doctor"),
    "unknown flag": (("detect", "--promts=x"), "promts", "Did you mean", "prompts"),
    "flag without a value": (("detect", "--model"), "model"),
    "a word instead of a flag": (("train", "phantoms_demo"), "'phantoms_demo'", "--flag=value"),
    "not a number": (("detect", "--generations=four"), "generations", "four"),
    "too few generations": (("detect", "--generations=0"), "generations", "0"),
    "unknown null": (("detect", "--null=zero"), "zero", "trained", "random_labels", "companion"),
    "unknown mitigation": (("mitigate", "--method=luck"), "luck", "embedding_optimization"),
    "unknown configuration": (
        ("train", "--config=phantom_demo", "--workdir={out}"),
        "'phantom_demo'",
        "Did you mean 'phantoms_demo'?",
        "chexpert_cfg",
    ),
    "configuration file that is not there": (
        ("train", "--config=/nowhere/mine.py", "--workdir={out}"),
        "/nowhere/mine.py",
    ),
    "unknown argument of a configuration": (
        ("train", "--config=phantoms_demo:tiny", "--workdir={out}"),
        "phantoms_demo:tiny",
        "short",
    ),
    "unknown field": ((*TRAIN, "--config.train.step=3"), "'step'", "did you mean 'steps'"),
    "unknown section": ((*TRAIN, "--config.trian.steps=3"), "'trian'", "did you mean 'train'"),
    "field of another type": ((*TRAIN, "--config.train.steps=many"), "train.steps", "many"),
    "impossible numbers": (
        (*TRAIN, "--config.train.cond_dropout=1.5", "--config.train.batch_size=0"),
        "train.cond_dropout=1.5 (expected 0 to 1)",
        "train.batch_size=0",
    ),
    "steps outside the trajectory": (
        (*TRAIN, "--config.audit.options.mitigate_steps=(0, 8)"),
        "mitigate_steps=(0, 8)",
        "sampling.num_steps-1=7",
    ),
    "unknown kind of data": ((*TRAIN, "--config.data.kind=mimik"), "'mimik'", "mimic"),
    "no root": ((*TRAIN, "--config.data.kind=chexpert"), "data.root", "train.csv"),
    "root without tables": (
        (*TRAIN, "--config.data.kind=chexpert", "--config.data.root={empty_folder}"),
        "train.csv",
        "{empty_folder}",
    ),
    "unknown schedule": ((*TRAIN, "--config.diffusion.name=cosin"), "'cosin'", "cosine"),
    "unknown prediction": ((*TRAIN, "--config.diffusion.prediction=x0"), "'x0'", "eps"),
    "unknown rate schedule": ((*TRAIN, "--config.train.lr_schedule=step"), "'step'", "cosine"),
    "unknown stepper": ((*TRAIN, "--config.sampling.stepper=euler"), "'euler'", "ddim"),
    "unknown spacing": ((*TRAIN, "--config.sampling.spacing=wide"), "'wide'", "leading"),
    "unknown detector": ((*TRAIN, "--config.audit.options.default=last"), "'last'", "first_k"),
    "unknown arm": ((*TRAIN, "--config.audit.options.arms=('luck',)"), "luck", "embedding_noise"),
    "unknown type of numbers": ((*TRAIN, "--config.model.dtype=float16"), "'float16'", "bfloat16"),
    "size the levels cannot halve": ((*TRAIN, "--config.data.size=30"), "30", "divisible by 4"),
    "channels that do not fit": (
        (*TRAIN, "--config.model.block_out_channels=(10, 20)"),
        "block_out_channels[0] is 10",
        "norm_num_groups=8",
    ),
    "train without a workdir": (("train", "--config=phantoms_demo"), "--workdir"),
    "demo without a workdir": (("demo", "--workdir="), "--workdir"),
    "devices that are not there": (
        (*TRAIN, "--config.parallel.tensor=3"),
        "tensor=3",
        "product",
    ),
    "workdir is a file": (
        ("train", "--config=phantoms_demo:short", "--workdir={file}"),
        "{file}",
        "is a file",
    ),
    "no model": (("detect", "--prompts={good}", "--out={out}"), "--model must be given"),
    "nothing given": (("mitigate",), "--model and --prompts and --out must be given"),
    "a folder that is no run": (
        ("detect", "--model={empty_folder}", "--prompts={good}", "--out={out}"),
        "{empty_folder} is not a memjax run",
        "run.json",
    ),
    "a run without a checkpoint": (
        ("audit", "--model={bare}"),
        "{bare} holds no good checkpoint",
        "saved at least once",
    ),
    "run.json cut short": (("audit", "--model={cut}"), "run.json is damaged", "memjax train"),
    "run.json of another shape": (("audit", "--model={odd}"), "run.json is damaged"),
    "run.json without a section": (("audit", "--model={lacking}"), "damaged", "'model'"),
    "prompts file that is not there": (prompts_flag("absent"), "{absent} is not a file"),
    "prompts file is a folder": (prompts_flag("empty_folder"), "is not a file"),
    "empty prompts": (prompts_flag("empty"), "{empty} holds no prompt", '"labels"'),
    "not JSON": (prompts_flag("cut_row"), "{cut_row} line 2 is not JSON", "column"),
    "not UTF-8": (prompts_flag("latin"), "{latin} is not UTF-8"),
    "a row that is a list": (prompts_flag("list_row"), "line 1", "neither 'labels' nor 'caption'"),
    "a row without labels": (prompts_flag("bare_row"), "line 1", "neither 'labels' nor 'caption'"),
    "an id twice": (prompts_flag("twice"), "two prompts with id 'a'", "unique"),
    "prompts overwritten by scores": (
        ("detect", "--model={run}", "--prompts={good}", "--out={good}"),
        "{good} is also read",
    ),
    "scores into a folder": (
        ("detect", "--model={run}", "--prompts={good}", "--out={empty_folder}"),
        "{empty_folder} is a folder",
    ),
}

# Found once the run is open.
LATE = {
    "unknown finding": (
        prompts_flag("finding"),
        "prompt a",
        "'Cardiomegly'",
        "did you mean 'Cardiomegaly'",
    ),
    "unknown value": (prompts_flag("value"), "Edema", "'positiv'", "did you mean 'positive'"),
    "unknown marker": (prompts_flag("marker"), "Marker 1", "'??'"),
    "unknown word of a caption": (
        prompts_flag("caption"),
        "prompt b",
        "'no edma'",
        "did you mean 'Edema'",
    ),
    "labels that are no mapping": (prompts_flag("labels"), "prompt a", "['Edema']"),
    "unknown finding among the negatives": (
        (*DETECT, "--negatives={finding}"),
        "did you mean 'Cardiomegaly'",
    ),
    "a window that is too long": ((*DETECT, "--steps=9"), "steps=9", "0..8"),
    "an empty window": ((*DETECT, "--steps=0"), "steps=0", "non-empty"),
    "a window by another name": ((*DETECT, "--steps=latest"), "'latest'", "first"),
    "more steps than there are": ((*DETECT, "--num_steps=5000"), "5000", "1000"),
    "noise that is not there": ((*DETECT, "--initial_noise={absent}"), "{absent} is not a file"),
    "noise of another shape": (
        (*DETECT, "--initial_noise={shape}"),
        "(4, 16, 16, 1)",
        "(4, 32, 32, 1)",
        "[generations, height, width, channels]",
    ),
    "noise for other generations": (
        (*DETECT, "--initial_noise={noise}", "--generations=2"),
        "(4, 32, 32, 1)",
        "(2, 32, 32, 1)",
        "--generations",
    ),
    "noise of another type": ((*DETECT, "--initial_noise={double}"), "float64", "float32"),
    "noise that is not finite": ((*DETECT, "--initial_noise={infinite}"), "finite"),
    "noise that is pickled": ((*DETECT, "--initial_noise={pickle}"), "cannot be read as .npy"),
    "noise that is no array": ((*DETECT, "--initial_noise={good}"), "cannot be read as .npy"),
    "companion not named": ((*DETECT, "--null=companion"), "--companion must be given"),
    "companion of an audit not named": (
        ("audit", "--model={run}", "--workdir={out}", "--null=companion"),
        "--companion must be given",
    ),
    "companion of another kind of null": (
        (*DETECT, "--companion={empty_folder}"),
        "--companion={empty_folder}",
        "--null=companion",
    ),
    "companion that is no run": (
        (*DETECT, "--null=companion", "--companion={empty_folder}"),
        "is not a memjax run",
    ),
    "sample into a file": (("sample", *RUN, "--out={file}"), "--out={file} is a file"),
    "explain into a file": (("explain", *RUN, "--out={file}"), "--out={file} is a file"),
    "mitigate into a file": (("mitigate", *RUN, "--out={file}"), "--out={file} is a file"),
    "audit into a file": (("audit", "--model={run}", "--workdir={file}"), "{file} is a file"),
    "unknown stepper on the command line": (
        ("sample", *RUN, "--out={out}", "--stepper=euler"),
        "'euler'",
        "ddim",
    ),
    "step indices that are words": (
        ("mitigate", *RUN, "--out={out}", "--steps=first"),
        "--steps=first",
    ),
    "two targets": (
        ("mitigate", *RUN, "--out={out}", "--target=1", "--target_rms=1"),
        "--target and --target_rms",
    ),
}
REFUSED = ("without a null condition", "condition dropout > 0", "random_labels", "companion")
COMMANDS_THAT_REFUSE = ("detect", "explain", "mitigate")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files with something wrong in them, by name."""
    root = tmp_path_factory.mktemp("mistakes")
    good = {"id": "a", "labels": {"Edema": "positive"}}
    rows = {
        "good": [good],
        "empty": [],
        "list_row": [["Edema"]],
        "bare_row": [{"id": "a", "words": "edema"}],
        "twice": [good, good],
        "finding": [{"id": "a", "labels": {"Cardiomegly": "positive"}}],
        "value": [{"id": "a", "labels": {"Edema": "positiv"}}],
        "marker": [{"id": "a", "labels": {"markers": ["??"]}}],
        "caption": [{"id": "b", "caption": "Frontal AP view, male: no edma"}],
        "labels": [{"id": "a", "labels": ["Edema"]}],
    }
    files = {n: write_prompts(root / f"{n}.jsonl", *r) for n, r in rows.items()}
    files["cut_row"] = root / "cut_row.jsonl"
    files["cut_row"].write_text(json.dumps(good) + '\n{"id": "b", "labels":\n')
    files["latin"] = root / "latin.jsonl"
    files["latin"].write_bytes('{"caption": "Ödem"}\n'.encode("latin-1"))
    noise = np.zeros((4, 32, 32, 1), np.float32)
    arrays = {"noise": noise, "shape": noise[:, :16, :16], "double": noise.astype(np.float64)}
    arrays |= {"infinite": noise + np.inf, "pickle": np.array([{}], dtype=object)}
    for name, array in arrays.items():
        files[name] = root / f"{name}.npy"
        np.save(files[name], array, allow_pickle=True)
    files["file"], files["empty_folder"] = root / "file", root / "empty_folder"
    files["file"].write_text("keep me")
    files["empty_folder"].mkdir()
    sections = ("data", "model", "diffusion", "train", "sampling", "audit")
    whole = {
        "format": 1,
        "config": {name: {} for name in sections},
        "label_space": [["Edema", ["blank", "positive"]]],
    }
    text = json.dumps(whole)
    lacking = {**whole, "config": {k: {} for k in sections if k != "model"}}
    for name, record in {
        "bare": text,
        "cut": text[:-20],
        "odd": json.dumps({**whole, "label_space": [3]}),
        "lacking": json.dumps(lacking),
    }.items():
        files[name] = root / name
        files[name].mkdir()
        (files[name] / "run.json").write_text(record)
    files |= {"absent": root / "absent.jsonl", "out": root / "out"}
    files["run"] = files["bare"]
    return {name: str(path) for name, path in files.items()}


def snapshot(folder):
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def assert_refused(done, words, place):
    assert done.code == 2, done
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert len(lines) == 1, done.err
    assert lines[0].startswith("memjax: ")
    assert "Traceback" not in done.err
    for word in words:
        assert word.format(**place) in done.err


@pytest.mark.parametrize("name", EARLY)
def test_a_mistake_is_one_sentence(name, place, tmp_path):
    arguments, *words = EARLY[name]
    paths = {**place, "out": str(tmp_path / "out")}
    root = (tmp_path / place["file"]).parent
    before = snapshot(root)
    assert_refused(memjax(*(a.format(**paths) for a in arguments)), words, paths)
    assert snapshot(root) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
@pytest.mark.parametrize("name", LATE)
def test_a_mistake_about_a_run_is_one_sentence(name, place, run, tmp_path):
    arguments, *words = LATE[name]
    paths = {**place, "run": str(run), "out": str(tmp_path / "out")}
    before = snapshot(run)
    assert_refused(memjax(*(a.format(**paths) for a in arguments)), words, paths)
    assert snapshot(run) == before
    assert not snapshot(tmp_path)
    with open(place["file"]) as file:
        assert file.read() == "keep me"


@pytest.mark.thorough
@pytest.mark.parametrize("cond_dropout", [0.0, 1.0])
def test_guidance_is_refused_where_no_null_condition_was_trained(
    cond_dropout, run, place, tmp_path
):
    bare = with_dropout(run, tmp_path / "bare", cond_dropout)
    for command in COMMANDS_THAT_REFUSE:
        flags = [f"--prompts={place['good']}", f"--out={tmp_path / 'out'}"]
        done = memjax(command, f"--model={bare}", *flags)
        assert_refused(done, REFUSED, place)
        assert not snapshot(tmp_path / "out")


@pytest.mark.thorough
def test_a_changed_configuration_is_refused_and_run_json_kept(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report*", "prompts"))
    before = (copy / "run.json").read_bytes()
    flags = ("train", "--config=phantoms_demo:short", f"--workdir={copy}")
    done = memjax(*flags, "--config.train.learning_rate=1e-4")
    assert done.code == 2
    last = done.err.strip().splitlines()[-1]
    for word in ("memjax: ", "train.learning_rate: 0.003 -> 0.0001", "another workdir"):
        assert word in last
    assert "Traceback" not in done.err
    assert (copy / "run.json").read_bytes() == before
    resized = memjax(*flags, "--config.model.block_out_channels=(16, 32)")
    assert resized.code == 2
    assert "does not fit this run" in resized.err
    assert (copy / "run.json").read_bytes() == before


@pytest.mark.thorough
def test_an_unknown_protected_label_is_refused(run, prompts, tmp_path):
    done = memjax(
        "mitigate",
        f"--model={run}",
        f"--prompts={prompts}",
        f"--out={tmp_path / 'out'}",
        "--generations=2",
        "--protect=Cardiomegly",
    )
    assert done.code == 2
    assert "did you mean 'cardiomegaly'" in done.err
    assert not snapshot(tmp_path)


def test_a_stopped_reader_is_no_mistake(monkeypatch):
    """`memjax doctor | head -1` closes the pipe early."""
    import memjax.cli.main as entry

    def broken(name, arguments):
        raise BrokenPipeError

    monkeypatch.setattr(entry, "_run_command", broken)
    assert entry.main(["doctor"]) == 0


def test_a_bug_keeps_its_traceback(monkeypatch):
    import memjax.cli.main as entry

    def bug(name, arguments):
        raise AssertionError("not the user's fault")

    monkeypatch.setattr(entry, "_run_command", bug)
    with pytest.raises(AssertionError):
        entry.main(["doctor"])


@pytest.mark.parametrize(
    ("name", "code", "how"),
    [("detect", 75, "to go on"), ("sample", 130, "from the beginning")],
)
def test_the_keyboard_stops_politely(monkeypatch, capsys, name, code, how):
    import memjax.cli.main as entry

    def stopped(name, arguments, own_process):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_run_command", stopped)
    assert entry.main([name]) == code
    said = capsys.readouterr().err
    assert said.startswith("memjax: stopped by SIGINT; ")
    assert said.endswith(f"{how}.\n")


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("MEMJAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="must be given"):
        memjax("detect")
