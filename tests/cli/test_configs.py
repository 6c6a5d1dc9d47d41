"""Bundled configurations: found, checked, and their networks built without compiling."""

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from ml_collections import config_flags

from memjax.cli.config import resolve_config_flags
from memjax.cli.config_fields import base_config, fine_tune_config
from memjax.cli.main import COMMANDS
from memjax.data.augmentation import Augmentation
from memjax.data.labels.space import chexpert_label_space
from memjax.runs.config import bundled_configs, check_config, config_folder, find_config, plain
from memjax.runs.fine_tune import check_fine_tune
from memjax.runs.train import check_sections
from memjax.training.run import network_of

RUNS = [name for name in bundled_configs() if not name.startswith(("sweep_", "finetune_"))]
TUNINGS = [
    "finetune_dcr",
    *(f"finetune_dcr:{style}" for style in ("dup_both", "dup_image", "nodup")),
    "finetune_tiny",
    "finetune_tiny:short",
    "finetune_wen",
]
FILMS = ["radiographs_small:augmented", "radiographs_small:short"]
NAMES = [*RUNS, "phantoms_demo:short", "digits:short", *FILMS]
LARGE = ("chexpert", "folder", "tfds")


def load(name):
    """Loads a configuration as the commands do."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, lock_config=True, flag_values=values)
    values(resolve_config_flags(["memjax", f"--config={name}"]))
    return holder.value


def test_the_configurations_are_bundled():
    runs = ["chexpert_cfg", "chexpert_uncond", "digits", "folder", "phantoms_demo"]
    assert [*runs, "radiographs_small", "tfds_cifar10"] == RUNS
    questions = ("capacity", "conditions", "data_size", "duplication", "guidance", "steps")
    sweeps = [f"sweep_{name}" for name in (*questions, "validation")]
    tunings = ["finetune_dcr", "finetune_tiny", "finetune_wen"]
    assert [name for name in bundled_configs() if name not in RUNS] == [*tunings, *sweeps]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_configuration_is_sound(name):
    config = plain(load(name))
    check_config(config)
    check_sections(config)
    assert config.keys() == plain(base_config()).keys()


@pytest.mark.parametrize("name", TUNINGS)
def test_a_fine_tuning_is_sound(name):
    config = plain(load(name))
    check_config(config)
    if not name.startswith("finetune_tiny"):
        with pytest.raises(ValueError, match=r"fine_tune.base is empty"):
            check_fine_tune(config)
        config["fine_tune"]["base"] = "somewhere"
    assert check_fine_tune(config).method == "unet"
    assert config.keys() == plain(fine_tune_config()).keys()
    assert config["fine_tune"].keys() == plain(fine_tune_config().fine_tune).keys()


def test_the_published_fine_tunings_are_as_published():
    """Wen et al. 2024, §5.2, and Somepalli et al. 2023, arXiv 2305.20086, §4."""
    wen, dcr = load("finetune_wen"), load("finetune_dcr:dup_image")
    assert (wen.train.steps, wen.train.batch_size, wen.train.learning_rate) == (20_000, 8, 1e-5)
    tuned = wen.fine_tune
    assert (tuned.memorized, tuned.repeats, tuned.others_ratio) == ("200", 200, 3.0)
    assert (wen.data.size, dcr.data.size, dcr.data.flip) == (512, 256, True)
    assert (dcr.train.steps, dcr.train.batch_size, dcr.train.learning_rate) == (100_000, 16, 5e-6)
    assert (dcr.train.lr_schedule, dcr.train.warmup_steps) == ("constant", 5_000)
    assert (dcr.data.duplicate_fraction, dcr.data.duplicate_factor) == (0.05, 5.0)
    assert dcr.fine_tune.captions == "duplicated"
    assert load("finetune_dcr:dup_both").fine_tune.captions == "first"
    assert load("finetune_dcr:nodup").data.duplicate_fraction == 0
    assert wen.train.cond_dropout == dcr.train.cond_dropout == 0
    with pytest.raises(flags.Error, match="dup_none is unknown"):
        load("finetune_dcr:dup_none")


@pytest.mark.parametrize("name", NAMES)
def test_its_network_predicts_an_image(name):
    """Shapes only: nothing is compiled, so the real sizes can be looked at."""
    config = plain(load(name))
    network = network_of(config, chexpert_label_space())
    x = jnp.zeros((2, *network.module.sample_shape))
    labels = jnp.zeros((2, 17), jnp.int32)

    def forward(key):
        params = network.module.init(key, x, jnp.zeros(2, jnp.int32), labels)["params"]
        cond = network.encode_fn(params, labels)
        return network.eps_fn(params, x, jnp.ones(2, jnp.int32), cond), params

    eps, params = jax.eval_shape(forward, jax.random.key(0))
    assert eps.shape == x.shape
    millions = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    assert (10 < millions < 400) if name.startswith(LARGE) else (millions < 3)


@pytest.mark.parametrize("name", bundled_configs())
def test_a_docstring_gives_reference_command_and_expectation(name):
    text = find_config(name).read_text().split('"""')[1]
    assert "arXiv" in text or "ICLR" in text
    for word in ("Command: memjax ", "Time:", "Expect"):
        assert word in text
    assert text.split("Command: memjax ")[1].split()[0] in COMMANDS


def test_the_real_configurations_are_of_real_size():
    guided, free = (plain(load(name)) for name in ("chexpert_cfg", "chexpert_uncond"))
    assert guided["data"]["size"] == free["data"]["size"] == 128
    assert 0 < guided["train"]["cond_dropout"] < 1
    assert free["train"]["cond_dropout"] == 1
    guided["train"]["cond_dropout"] = 1.0
    assert guided == free


def test_short_is_a_smaller_version():
    whole, short = (load(name) for name in ("phantoms_demo", "phantoms_demo:short"))
    assert short.train.steps < whole.train.steps
    assert short.data.phantoms.num_images < whole.data.phantoms.num_images


def test_augmented_films_differ_in_nothing_else():
    usual, moved = (plain(load(f"radiographs_small{arg}")) for arg in ("", ":augmented"))
    assert not Augmentation(**usual["data"]["augment"])
    assert Augmentation(**moved["data"]["augment"])
    assert not moved["data"]["augment"]["flip"]  # the heart stays on its side
    usual["data"]["augment"] = moved["data"]["augment"]
    assert usual == moved
    assert usual["model"]["refine_channels"]


@pytest.mark.parametrize("form", ["--config=X", "-config=X", "--config X", "-config X"])
@pytest.mark.parametrize("suffix", ["", ":short"])
def test_names_become_paths_in_every_form(form, suffix):
    argv = ["memjax", *form.replace("X", f"phantoms_demo{suffix}").split(), "--config.seed=3"]
    path = config_folder() / "phantoms_demo.py"
    assert resolve_config_flags(argv) == ["memjax", f"--config={path}{suffix}", "--config.seed=3"]


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    own = tmp_path / "mine.py"
    own.write_text("from memjax.cli.config_fields import base_config as get_config\n")
    assert find_config(str(own)) == own
    assert plain(load(own)) == plain(base_config())
    monkeypatch.chdir(tmp_path)
    assert find_config("mine.py").resolve() == own
    assert find_config("phantoms_demo.py") == config_folder() / "phantoms_demo.py"


def test_a_default_stands_in_where_no_configuration_is_named():
    given = resolve_config_flags(["memjax demo", "--workdir=x"], "phantoms_demo")
    assert given[1] == f"--config={config_folder() / 'phantoms_demo.py'}"
    overridden = resolve_config_flags(["memjax demo", "--config=chexpert_cfg"], "phantoms_demo")
    assert overridden == ["memjax demo", f"--config={config_folder() / 'chexpert_cfg.py'}"]


def test_all_impossible_values_are_named_at_once():
    config = plain(base_config())
    config["train"].update(batch_size=0, ema_decay=1.5)
    config["sampling"]["num_steps"] = 2000
    config["audit"]["options"].update(mitigate_steps=[0, 2000], first_k=0)
    with pytest.raises(ValueError, match="impossible values") as caught:
        check_config(config)
    for name in (
        "train.batch_size=0",
        "train.ema_decay=1.5",
        "sampling.num_steps=2000",
        "audit.options.mitigate_steps=(0, 2000)",
        "audit.options.first_k=0",
    ):
        assert name in str(caught.value)
