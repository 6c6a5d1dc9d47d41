"""The methods against plain torch loops over the same toy network, float32.

The loops are written from the formulas: DDIM, classifier-free guidance, a norm per image,
``torch.autograd`` for tokens, ``torch.optim.AdamW`` for the embedding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.core.schedules import ScheduleSpec
from memjax.core.types import TokenCond
from memjax.detectors import NoiseMagnitude, detect
from memjax.explain import explain_tokens
from memjax.mitigations import collect_states, first_step_states, optimize_embedding
from tests.closed_forms import DIM, SHAPE, TOKENS, WIDTH, noise, tokens, toy_eps, toy_params

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

SPEC = ScheduleSpec("scaled_linear", 1000, 0.00085, 0.012)
SCALE, STEPS, PROMPTS, GENERATIONS = 7.5, 50, 3, 2
PARAMS = toy_params()
COND, X_T = tokens(1, PROMPTS, padded=1), noise(0, GENERATIONS)
NULL = TokenCond(jnp.asarray(tokens(8, 1).embeddings), jnp.ones((1, TOKENS), bool))
GRID = {"num_steps": STEPS, "steps_offset": 1}
SAMPLING = {**GRID, "set_alpha_to_one": False, "guidance_scale": SCALE}


def _torch(array):
    return torch.from_numpy(np.array(array))


def _network(x, t, embeddings, mask):
    """:func:`tests.closed_forms.toy_eps` in torch."""
    mix, token, gate, out = (_torch(leaf) for leaf in PARAMS)
    flat = x.reshape(len(x), -1)
    time = torch.sin(torch.full((len(x), 1), float(t)) / 300.0) * gate
    pooled = torch.einsum("bld,ldk->bk", embeddings * mask[..., None], token)
    return (torch.tanh(flat @ mix + pooled + time) @ out).reshape(x.shape)


def _rows(cond, index, count):
    return tuple(_torch(leaf)[index : index + 1].expand(count, *leaf.shape[1:]) for leaf in cond)


def _scheduler():
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=SPEC.beta_start,
        beta_end=SPEC.beta_end,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


def _torch_trajectory(prompt):
    """Yields step, t, x_t, ε_u and ε_c of one prompt; last, the image alone."""
    scheduler, x = _scheduler(), _torch(X_T)
    cond, null = _rows(COND, prompt, GENERATIONS), _rows(NULL, 0, GENERATIONS)
    visited = []
    for t in scheduler.timesteps:
        eps_c, eps_u = _network(x, t, *cond), _network(x, t, *null)
        visited.append((int(t), x, eps_u, eps_c))
        x = scheduler.step(eps_u + SCALE * (eps_c - eps_u), t, x).prev_sample
    return visited, x


@pytest.fixture(scope="module")
def trajectories():
    return [_torch_trajectory(p) for p in range(PROMPTS)]


def test_magnitudes_of_the_whole_guided_trajectory(trajectories):
    found = detect(toy_eps, PARAMS, X_T, COND, NULL, SPEC.build(), **SAMPLING)
    for p, (visited, image) in enumerate(trajectories):
        want = torch.stack([(c - u).reshape(GENERATIONS, -1).norm(dim=1) for _, _, u, c in visited])
        np.testing.assert_allclose(found.per_step[p], want.numpy().T, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.images[p], image.numpy(), rtol=1e-3, atol=1e-3)
    assert found.per_step.std(axis=-1).min() > 0.05  # the curve is no constant


def test_first_step_mode(trajectories):
    found = detect(toy_eps, PARAMS, X_T, COND, NULL, SPEC.build(), steps="first", **SAMPLING)
    for p, (visited, _) in enumerate(trajectories):
        _, _, u, c = visited[0]
        want = (c - u).reshape(GENERATIONS, -1).norm(dim=1)
        np.testing.assert_allclose(found.per_step[p, :, 0], want.numpy(), rtol=1e-4)


def test_token_significance(trajectories):
    steps = (0, 10, 49)
    got = explain_tokens(toy_eps, PARAMS, X_T, COND, NULL, SPEC.build(), steps=steps, **SAMPLING)
    for p, (visited, _) in enumerate(trajectories):
        for place, step in enumerate(steps):
            t, x, eps_u, _ = visited[step]
            embeddings, mask = _rows(COND, p, GENERATIONS)
            embeddings = embeddings.clone().requires_grad_()
            delta = _network(x, t, embeddings, mask) - eps_u
            delta.reshape(GENERATIONS, -1).norm(dim=1).sum().backward()
            want = embeddings.grad.norm(dim=-1).numpy()
            np.testing.assert_allclose(got[p, :, place], want, rtol=1e-3, atol=1e-5)


def _adamw(states, *, iters, lr, decay, target):
    """``torch.optim.AdamW`` a prompt; rows that may not move are put back after each update."""
    out = []
    for p in range(PROMPTS):
        start, mask = (_torch(leaf)[p : p + 1] for leaf in COND)
        e = start.clone().requires_grad_()
        optimizer = torch.optim.AdamW([e], lr=lr, weight_decay=decay)
        frozen = ~mask.clone()
        frozen[:, 0] = True
        losses = []
        for i in range(iters + 1):
            norms = []
            for x, t, null in zip(states.x_t[p], states.t[p], states.null[p], strict=True):
                delta = _network(_torch(x)[None], int(t), e, mask) - _torch(null)[None]
                norms.append(delta.reshape(1, -1).norm(dim=1))
            loss = torch.stack(norms).mean()
            losses.append(float(loss.detach()))
            if losses[-1] <= target[p] or i == iters:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                e[frozen] = start[frozen]
        out.append((e.detach().numpy()[0], losses))
    return out


@pytest.mark.parametrize("first", [True, False], ids=["first_step", "trajectory_states"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_embedding_optimisation(first, decay):
    args = (toy_eps, PARAMS, X_T)
    if first:
        states = first_step_states(*args, jnp.array(981), COND, NULL)
    else:
        states = collect_states(*args, COND, NULL, SPEC.build(), steps=(5, 25), **SAMPLING)
    start = _adamw(states, iters=0, lr=0.05, decay=decay, target=np.zeros(PROMPTS))
    target = np.array([0.0, 0.95 * start[1][1][0], 10 * start[2][1][0]], np.float32)
    settings = {"lr": 0.05, "decay": decay, "target": target}
    want = _adamw(states, iters=10, **settings)
    got = jax.jit(
        lambda s, c: optimize_embedding(
            NoiseMagnitude(),
            toy_eps,
            PARAMS,
            s,
            c,
            num_iters=10,
            learning_rate=0.05,
            weight_decay=decay,
            target=target,
        )
    )(states, COND)
    for p, (embedding, losses) in enumerate(want):
        assert int(got.iterations[p]) == len(losses) - 1
        np.testing.assert_allclose(got.losses[: len(losses), p], losses, rtol=1e-4)
        np.testing.assert_allclose(got.cond.embeddings[p], embedding, atol=1e-4)
        np.testing.assert_allclose(got.loss[p], losses[-1], rtol=1e-4)
    assert [len(losses) - 1 for _, losses in want][2] == 0
    assert 0 < len(want[1][1]) - 1 < 10


def test_shapes_of_the_toy():
    assert (int(np.prod(SHAPE)), COND.embeddings.shape[-1]) == (DIM, WIDTH)
