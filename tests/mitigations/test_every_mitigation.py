"""What every registered mitigation must do: a new one needs a row in ``CASES`` and no test here."""

import dataclasses
import pathlib
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import memjax.mitigations
from memjax.core.condition import repeat_cond
from memjax.core.guidance import ClassifierFree
from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.mitigations import MITIGATIONS, Chain, Problem, Setup, check_order, parse_chain
from memjax.sampling import sample
from tests.closed_forms import (
    SHAPE,
    TOKENS,
    WIDTH,
    Counting,
    noise,
    null_tokens,
    toy_eps,
    toy_params,
)


class Case(NamedTuple):
    """Fields of a mitigation: where it does nothing, where it does much, and as much otherwise."""

    off: str
    strong: str
    other: str


CASES = {
    "embedding_optimization": Case(
        "num_iters=0",
        "steps=0/2:num_iters=3:target=0:learning_rate=0.1",
        "steps=0/2:num_iters=3:target=0.001:learning_rate=0.05:radius=2",
    ),
    "embedding_first_step": Case(
        "num_iters=0", "num_iters=3:target=0", "num_iters=3:target=0.001:learning_rate=0.1"
    ),
    "embedding_noise": Case("scale=0", "scale=1", "scale=2"),
    "random_condition_change": Case("tokens=0", "tokens=3", "tokens=2"),
    "initial_noise": Case("gamma=0", "gamma=2", "gamma=1:repeats=3:rho=0.2"),
    "guidance_delay": Case("until=0", "until=0.6", "until=0.3:early=-2"),
    "random_word": Case("count=0", "count=4", "count=2"),
    "random_number": Case("count=0", "count=4", "count=2"),
    "word_repetition": Case("count=0", "count=4", "count=2"),
    "random_token": Case("count=0", "count=4", "count=2"),
}
# What a stage may change; a condition is made anew from text or weights.
CHANGES = {
    "text": {"rows", "cond"},
    "params": {"params", "cond"},
    "cond": {"cond"},
    "noise": {"x_T", "own_noise"},
    "guidance": {"guidance"},
}
ORDER = {"text": 0, "params": 1, "cond": 2, "noise": 2, "guidance": 2, "reject": 3}
NEEDS = {"eps_uncond", "maps", "text", "tokens"}
CAPTIONS = ["a red boat at sea", "two old houses", "the tree by the road in snow"]
PROMPTS, EACH, STEPS = len(CAPTIONS), 2, 4
SCHEDULE = ScheduleSpec(num_timesteps=200).build()
ROWS = [{"id": str(i), "caption": text} for i, text in enumerate(CAPTIONS)]
EVERY = pytest.mark.parametrize("name", list(MITIGATIONS))
EVALUATING = [name for name, cls in MITIGATIONS.items() if cls.evaluates]
# The others hand sampling arrays of the same shapes, and cannot make it compile again.
COMPILED = [*EVALUATING, *(n for n, cls in MITIGATIONS.items() if cls.stage == "guidance")]


def _encode(rows):
    """Words to the tokens at their places, modulo how many there are."""
    e = np.zeros((len(rows), TOKENS, WIDTH), np.float32)
    for number, row in enumerate(rows):
        for place, word in enumerate(row["caption"].split()):
            rng = np.random.default_rng(zlib.crc32(word.encode()))
            e[number, place % TOKENS] += rng.normal(size=WIDTH)
    return TokenCond(jnp.asarray(e), jnp.ones((len(rows), TOKENS), bool))


NET = Counting(toy_eps)
PARAMS = jax.tree.map(jnp.asarray, toy_params())
ASKED = Problem(
    ROWS, PARAMS, _encode(ROWS), null_tokens(), noise(0, EACH), ClassifierFree(jnp.float32(3.0))
)


def _setup(chunk=2):
    pools = {"words": ("sun", "moon", "rain"), "pieces": ("ab", "cd", "ef")}
    return Setup(NET, SCHEDULE, {"num_steps": STEPS}, chunk, encode=_encode, **pools)


def _text(name, fields):
    if name not in CASES:
        pytest.fail(
            f"the mitigation {name!r} is registered and has no row in CASES of {__file__}: add its "
            "fields at strength 0, strong ones, and strong ones of other numbers."
        )
    return f"{name}:{getattr(CASES[name], fields)}"


def _apply(text, asked=ASKED, key=0, **setup):
    """Applies mitigations."""
    return parse_chain(MITIGATIONS, text)(asked, _setup(**setup), jax.random.key(key))


@jax.jit
def _sample(params, x_T, cond, null_cond, guidance):
    x_T = jnp.broadcast_to(x_T, (PROMPTS, EACH, *SHAPE)).reshape(-1, *SHAPE)
    args = (params, x_T, repeat_cond(cond, EACH), null_cond, SCHEDULE)
    return sample(NET, *args, guidance=guidance, num_steps=STEPS).x


def _images(problem):
    fields = problem._asdict()
    arrays = (fields[name] for name in ("params", "x_T", "cond", "null_cond", "guidance"))
    return np.asarray(_sample(*arrays))


def _same(one, two):
    """Whether two fields of problems are equal, bit for bit."""
    leaves, others = (jax.tree.leaves(a) for a in (one, two))
    same = jax.tree.structure(one) == jax.tree.structure(two)
    return same and all(np.array_equal(a, b) for a, b in zip(leaves, others, strict=True))


def _changed(done, asked=ASKED):
    return {f for f in Problem._fields if not _same(getattr(done, f), getattr(asked, f))}


def _close(done, other):
    """Whether two problems agree to float rounding."""
    for a, b in zip(*(jax.tree.leaves(p._replace(rows=[])) for p in (done, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert done.rows == other.rows


def test_rows_are_those_of_the_registry():
    assert set(CASES) <= set(MITIGATIONS), "CASES has rows of mitigations that are not registered"


@EVERY
@pytest.mark.parametrize("fields", Case._fields)
def test_a_mitigation_is_read_back_from_its_text(name, fields):
    mitigation = MITIGATIONS.parse(_text(name, fields))
    assert MITIGATIONS.parse(MITIGATIONS.text(mitigation)) == mitigation
    assert MITIGATIONS.text(MITIGATIONS.parse(name)) == name
    assert len({mitigation, MITIGATIONS.parse(_text(name, fields))}) == 1  # hashes by value


@EVERY
def test_strength_zero_is_the_identity_bit_for_bit(name):
    done = _apply(_text(name, "off"))
    assert _changed(done) == set()
    np.testing.assert_array_equal(_images(done), _images(ASKED))


@EVERY
def test_strength_changes_what_the_stage_says_and_the_images(name):
    text = _text(name, "strong")
    stage = MITIGATIONS[name].stage
    changed = _changed(_apply(text))
    assert changed
    assert changed <= CHANGES[stage], f"{name} is of the stage {stage}"
    assert np.abs(_images(_apply(text)) - _images(ASKED)).max() > 1e-3


@EVERY
def test_results_are_finite_and_keep_their_shapes(name):
    done = _apply(_text(name, "strong"))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(done._replace(rows=[])))
    assert np.isfinite(_images(done)).all()
    shapes = [jax.tree.map(jnp.shape, p.cond) for p in (done, ASKED)]
    assert shapes[0] == shapes[1]
    assert done.size == PROMPTS == len(done.rows)
    assert done.x_T.shape == ((PROMPTS, *ASKED.x_T.shape) if done.own_noise else ASKED.x_T.shape)


@EVERY
def test_the_key_decides(name):
    text = _text(name, "strong")
    assert _changed(_apply(text, key=5), _apply(text, key=5)) == set()


@EVERY
def test_chunks_change_nothing(name):
    text = _text(name, "strong")
    done = [_apply(text, chunk=chunk) for chunk in (1, 2)]
    if not MITIGATIONS[name].evaluates:
        assert _changed(*done) == set()
    _close(*done)


@pytest.mark.parametrize("name", EVALUATING)
def test_what_evaluates_the_network_looks_at_each_prompt_alone(name):
    text = _text(name, "strong")
    together = _apply(text, ASKED.take([2, 0]))
    for place, number in enumerate((2, 0)):
        _close(together.take([place]), _apply(text, ASKED.take([number])))


@pytest.mark.parametrize("name", COMPILED)
def test_new_numbers_do_not_compile_again(name):
    _images(_apply(_text(name, "strong")))
    traces = NET.traces
    _images(_apply(_text(name, "other")))
    assert NET.traces == traces


@EVERY
def test_without_a_null_condition_it_works_or_is_refused_by_name(name):
    text = _text(name, "strong")
    bare = ASKED._replace(null_cond=None, guidance=None)
    if "eps_uncond" in MITIGATIONS[name].needs:
        said = f"{MITIGATIONS[name].__name__} needs an unconditional prediction"
        with pytest.raises(ValueError, match=said):
            _apply(text, bare)
        return
    done = _apply(text, bare)
    assert _changed(done, bare) <= CHANGES[MITIGATIONS[name].stage]
    assert np.isfinite(_images(done)).all()


STAGES = list(dict.fromkeys(cls.stage for cls in MITIGATIONS.values()))


@pytest.mark.parametrize("second", STAGES)
@pytest.mark.parametrize("first", STAGES)
def test_two_stages_compose_or_are_refused(first, second):
    # The last one registered of each stage; twice the same is allowed.
    of_stage = {cls.stage: name for name, cls in MITIGATIONS.items()}
    text = "+".join(_text(of_stage[stage], "strong") for stage in (first, second))
    if ORDER[second] < ORDER[first]:
        with pytest.raises(ValueError, match=f"changes the {second}, from which the {first}"):
            parse_chain(MITIGATIONS, text)
        return
    done = _apply(text)
    assert _changed(done) <= CHANGES[first] | CHANGES[second]
    for stage in (first, second):
        assert _changed(done) & CHANGES[stage]
    assert np.isfinite(_images(done)).all()


def test_three_stages_are_checked_pair_by_pair():
    guidance, cond, text = (
        MITIGATIONS.parse(name) for name in ("guidance_delay", "embedding_noise", "random_word")
    )
    check_order([text, cond, guidance])
    check_order([text, guidance, cond])
    with pytest.raises(ValueError, match=r"RandomWords changes the text.*put it first"):
        check_order([cond, guidance, text])
    assert Chain("", ())(ASKED, _setup(), None) is ASKED


@EVERY
def test_the_docstring_says_what_it_is_where_it_is_from_and_what_it_costs(name):
    cls = MITIGATIONS[name]
    first, _, rest = cls.__doc__.partition("\n")
    assert first.strip().endswith(".")
    assert "References:" in rest
    assert cls.cost
    assert cls.stage in ORDER
    assert cls.needs <= NEEDS
    described = "".join(base.__doc__ or "" for base in cls.__mro__)
    for field in dataclasses.fields(cls):
        assert f"        {field.name}: " in described, f"{field.name} is not described"


def test_the_readme_holds_the_table_of_the_registry():
    readme = pathlib.Path(memjax.mitigations.__file__).with_name("README.md").read_text("utf-8")
    table = MITIGATIONS.table()
    assert table.count("\n") == len(MITIGATIONS) + 1
    assert table in readme, (
        "memjax/mitigations/README.md: its table is not the registry's; put this there:\n" + table
    )
