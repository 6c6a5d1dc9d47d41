"""What the README shows, runs; what it and the pages in the folders name, exists."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memjax.cli.main import COMMANDS
from memjax.core.types import TokenCond
from memjax.runs.config import bundled_configs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "configs/README.md",
    *sorted((ROOT / "launch").glob("*.md")),
    *sorted((ROOT / "memjax").glob("*/README.md")),
]
of_each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT)).removesuffix(".md")
)
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
EXAMPLES = dict(EXAMPLE.findall(README))
PROMPTS, TOKENS, FEATURES = 3, 5, 4


def eps(params, x_t, t, cond):
    """A stand-in for the reader's network: it leans on its condition."""
    pull = jnp.tanh(cond.embeddings.mean((1, 2)) * params["strength"])
    return 0.9 * x_t + pull[:, None, None, None] * jnp.cos(t / 100.0)[:, None, None, None]


class Model(nnx.Module):
    """The same as a module with a layer in it."""

    def __init__(self, rngs: nnx.Rngs):
        self.gate = nnx.Linear(FEATURES, 1, rngs=rngs)

    def __call__(self, x_t, t, cond):
        pull = self.gate(cond.embeddings.mean(1))
        return 0.9 * x_t + pull[:, :, None, None] * jnp.cos(t / 100.0)[:, None, None, None]


def cond_of(seed: int, rows: int) -> TokenCond:
    noise = np.random.default_rng(seed).standard_normal((rows, TOKENS, FEATURES))
    return TokenCond(jnp.asarray(noise, jnp.float32), jnp.ones((rows, TOKENS), bool))


@pytest.fixture(scope="module")
def namespace():
    """What a reader has: a network with its weights, and conditions."""
    return {
        "eps": eps,
        "params": {"strength": jnp.float32(2.0)},
        "model": Model(nnx.Rngs(0)),
        "cond": cond_of(0, PROMPTS),
        "other_cond": cond_of(1, 4),
        "null_cond": TokenCond(jnp.zeros((1, TOKENS, FEATURES)), jnp.ones((1, TOKENS), bool)),
    }


def test_there_are_three_examples_of_ten_lines_at_most():
    assert list(EXAMPLES) == ["plain", "nnx", "mitigate"]
    assert all(len(text.strip().splitlines()) <= 10 for text in EXAMPLES.values())


def test_examples_run_one_after_the_other(namespace, capsys):
    exec(compile(EXAMPLES["plain"], "README plain", "exec"), namespace)
    found = namespace["found"]
    assert found.per_step.shape == (PROMPTS, 4, 1)
    assert found.forward_evals == 4 * (PROMPTS + 1)
    scores, negatives = found.scores(), namespace["negatives"].scores()
    printed = capsys.readouterr().out
    assert str(scores) in printed
    assert str(scores > negatives.max()) in printed  # 1 % of 4 negatives is none of them

    exec(compile(EXAMPLES["nnx"], "README nnx", "exec"), namespace)
    found = namespace["found"]
    assert found.per_step.shape == (PROMPTS, 4, 10)
    first = found.scores("first")
    np.testing.assert_allclose(first, found.per_step[:, :, 0].mean(axis=1), rtol=1e-6)

    exec(compile(EXAMPLES["mitigate"], "README mitigate", "exec"), namespace)
    before, after = namespace["cond"], namespace["repaired"]
    assert after.embeddings.shape == before.embeddings.shape
    assert bool(jnp.any(after.embeddings != before.embeddings))

    def magnitude(cond):
        x, t = jnp.zeros((PROMPTS, 8, 8, 1)), jnp.full(PROMPTS, 500)
        null = jax.tree.map(lambda leaf: jnp.repeat(leaf, PROMPTS, 0), namespace["null_cond"])
        run, params = namespace["eps"], namespace["params"]
        return float(jnp.abs(run(params, x, t, cond) - run(params, x, t, null)).mean())

    assert magnitude(after) < magnitude(before)


def commands_named(text: str) -> set[str]:
    named = set(re.findall(r"`(?:[\w./]*/)?memjax (\w+)", text))
    return named | set(re.findall(r"^(?:[\w./]*/)?memjax (\w+) ", blocks_of(text), re.MULTILINE))


def blocks_of(text: str) -> str:
    """What stands in blocks of shell commands."""
    return "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace(" && ", "\n")


def test_every_command_has_its_row():
    rows = re.findall(r"^\| `memjax (\w+)", README, re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


@of_each_page
def test_every_command_named_exists(page):
    named = commands_named(page.read_text("utf-8")) - {"COMMAND"}
    assert named
    assert named <= set(COMMANDS)


@of_each_page
def test_every_configuration_named_is_bundled(page):
    text = page.read_text("utf-8")
    named = set(re.findall(r"--config=(\w+)", text)) - {"NAME_OR_PATH", "NAME"}
    named |= set(re.findall(r"`((?:chexpert|phantoms|sweep|finetune)_\w+)[`:]", text))
    assert named <= set(bundled_configs())


def test_every_configuration_has_its_row():
    """The pages of experiments leave none out."""
    text = (ROOT / "configs/README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(rows) == bundled_configs()


@of_each_page
def test_every_configuration_flag_named_is_a_field(page):
    from memjax.cli.config_fields import base_config, fine_tune_config

    def holds(config, names):
        for name in names:
            if name not in config:
                return False
            config = config[name]
        return True

    kinds = base_config(), fine_tune_config()  # fine-tuning has no data.augment
    for dotted in re.findall(r"--config\.([\w.]+)", page.read_text("utf-8")):
        assert any(holds(config, dotted.split(".")) for config in kinds), dotted


@of_each_page
def test_every_file_linked_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_images_are_small():
    images = sorted((ROOT / ".github/images").iterdir())
    assert images
    assert all(image.stat().st_size < 200_000 for image in images)


def test_prompt_rows_shown_are_read(tmp_path):
    from memjax.data.labels.space import chexpert_label_space
    from memjax.runs.prompts import read_prompts
    from memjax.training.network import prompt_ids

    text = re.search(r"```json\n(.*?)```", README, re.DOTALL)[1]
    (tmp_path / "p.jsonl").write_text(text)
    rows = read_prompts(str(tmp_path / "p.jsonl"))
    assert [row["id"] for row in rows] == ["a", "b"]
    assert prompt_ids(rows, chexpert_label_space()).shape == (2, 17)
