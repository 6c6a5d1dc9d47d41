"""From the flags of ``memjax explain`` to its files."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from memjax.cli.explain import (
    _ATTRIBUTION,
    _CHUNK,
    _EVERY,
    _EXPLANATION,
    _FORCE,
    _INITIAL,
    _MODEL,
    _NOISE,
    _NULL,
    _OUT,
    _PROMPTS,
    _RESTART,
    _SAMPLING,
)
from memjax.cli.flags import one_line
from memjax.core.types import Array, Cond
from memjax.detectors import null_or_refuse
from memjax.explain import EXPLANATIONS, TokenSignificance
from memjax.explain.words import Word, normal, shares, token_weights, words_of
from memjax.report.charts.curves import token_bars
from memjax.report.pages.tokens import Explained, render_token_page
from memjax.runs.model import Model, with_remat
from memjax.runs.outputs import model_provenance, progress_bar, safe_names
from memjax.runs.prompts import (
    check_rows,
    encoder,
    initial_noise,
    read_prompts,
    warn_truncated,
    write_rows,
)
from memjax.runtime.batching import certainly_fits, usual_size
from memjax.runtime.files import write_bytes
from memjax.runtime.json import text_bytes
from memjax.runtime.locks import hold
from memjax.sampling import STATIC_ARGUMENTS, SamplingOptions
from memjax.studies.rows import measure_rows
from memjax.studies.store import Store, content_digest, text_digest

_PAGE, _ROWS = "words.html", "tokens.jsonl"
_PRINTED = 20  # prompts; the page has them all


@partial(jax.jit, static_argnames=(*STATIC_ARGUMENTS, "steps", "explanation"))
def _explain(explanation, **arguments):
    return explanation(**arguments)


@dataclasses.dataclass(frozen=True)
class TokenProgram:
    """Token significance of any number of prompts; a ``RowProgram``."""

    static: Mapping[str, Any]
    traced: Mapping[str, Any]

    def __call__(self, cond: Cond, compiled: Any = None) -> Float[Array, "p g s l"]:
        return compiled(cond=cond, **self.traced)

    def trace(self, cond: Cond) -> jax.stages.Traced:
        return _explain.trace(cond=cond, **self.static, **self.traced)


def run() -> int:
    """Runs the command."""
    if _EXPLANATION.value == "help":
        print(EXPLANATIONS.help())
        return 0
    defaults = {"token_significance": {"attribution": _ATTRIBUTION.value}}
    explanation = EXPLANATIONS.parse(_EXPLANATION.value, defaults)
    rows = read_prompts(_PROMPTS.value)
    stems = safe_names([row["id"] for row in rows])
    writes = [_PAGE, _ROWS, *(f"{stem}.png" for stem in stems)]
    reads = (_MODEL.value, _PROMPTS.value, _INITIAL.value)
    with hold(_OUT.value, writes, reads=reads, force=_FORCE.value) as folder:
        return _explain_all(rows, stems, explanation, folder)


def _explain_all(
    rows: list[dict], stems: Sequence[str], explanation: TokenSignificance, folder: Path
) -> int:
    model = _NULL.apply(_MODEL.load(), _NOISE.seed.value, _MODEL.dtype.value)
    options = _SAMPLING.options(model).repeatable()
    steps = tuple(range(0, options.num_steps, _EVERY.value))
    cut = check_rows(model, rows)
    program = _program(model, rows, options, steps, explanation)
    warn_truncated(cut)
    made = model_provenance(
        model,
        _NOISE.seed.value,
        sampling=vars(options),
        attribution=explanation.attribution,
        **_other(explanation),
        steps=steps,
        initial_noise=Path(_INITIAL.value).name if _INITIAL.value else None,
    )
    store = Store(folder / "explain.parts", _job(model, rows, program))
    with store.held():
        store.check(_RESTART.value)
        every = _weights(model, program, rows, store)
        out, shown = [], []
        for i, weights in enumerate(every):
            entry, page = _explained(model, rows[i], weights, None if cut is None else cut[i])
            write_bytes(folder / f"{stems[i]}.png", _bars(page.words))
            out.append({**rows[i], **entry, "picture": f"{stems[i]}.png", "provenance": made})
            shown.append(page)
            if i < _PRINTED:
                _print_top(page)
        _write(folder, out, shown, made, f"Which words drive the copying: {model.name}")
        store.remove()
    print(f"{len(rows)} prompts explained: {folder / _PAGE}")
    return 0


def _write(
    folder: Path, out: list[dict], shown: list[Explained], made: Mapping[str, Any], title: str
) -> None:
    write_rows(folder / _ROWS, out)
    html = render_token_page(
        shown, title=title, attribution=made["attribution"], facts=_facts(made)
    )
    write_bytes(folder / _PAGE, text_bytes(html))


def _print_top(page: Explained) -> None:
    top = sorted(page.words, key=lambda w: -w.weight)[:3]
    said = ", ".join(f"{one_line(w.text, 30)} ({w.weight:.3g})" for w in top)
    tqdm.write(f"{one_line(page.name, 40)}: {said}")


def _other(explanation: TokenSignificance) -> dict[str, str]:
    """Returns the detector that is explained, where it is not the magnitude."""
    usual = explanation.detector == TokenSignificance.detector
    return {} if usual else {"detector": explanation.detector}


def _program(
    model: Model,
    rows: list[dict],
    options: SamplingOptions,
    steps: tuple[int, ...],
    explanation: TokenSignificance,
) -> TokenProgram:
    bundle, settings = model.bundle, options.static()
    noise = initial_noise(_INITIAL.value, bundle, _NOISE.generations.value, _NOISE.seed.value)
    traced = {
        "params": bundle.params,
        "x_T": noise,
        "null_cond": null_or_refuse(bundle.null_cond),
        "schedule": bundle.schedule,
        "guidance_scale": settings.pop("guidance_scale"),
    }
    static = {
        **settings,
        "eps_fn": bundle.eps_fn,
        "steps": steps,
        "explanation": explanation,
    }
    program = TokenProgram(static, traced)
    if not certainly_fits(program.trace(bundle.encode(rows[:1]))):  # recompute rather than keep
        static["eps_fn"] = with_remat(bundle).eps_fn
    return program


def _weights(model: Model, program: TokenProgram, rows: list[dict], store: Store) -> np.ndarray:
    """Returns the mean significance of each row's tokens over generations and steps."""

    def values_of(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if not np.isfinite(weights).all():
            raise ValueError(
                f"the gradients of {rows[int(numbers[0])]['id']} and those after it are not "
                "finite: compute in --dtype=float32, or look at the model's weights."
            )
        return np.asarray(weights, np.float32).mean(axis=(1, 2), keepdims=True)

    return measure_rows(
        program,
        encoder(model, rows),
        len(rows),
        store,
        values_of,
        size=_CHUNK.value,
        most=usual_size(_NOISE.generations.value),
        progress=partial(progress_bar, "explaining"),
        say=print,
    )[:, 0, 0]


def _job(model: Model, rows: list[dict], program: TokenProgram) -> dict[str, Any]:
    """Returns everything that decides the weights; how many are computed at once does not."""
    static = {name: str(value) for name, value in program.static.items() if name != "eps_fn"}
    return {
        **static,
        "dtype": model.dtype,
        "numbers": content_digest(program.traced),
        "prompts": text_digest([[row.get("labels"), row.get("caption")] for row in rows]),
    }


def _explained(
    model: Model, row: Mapping[str, Any], weights: np.ndarray, cut: int | None
) -> tuple[dict[str, Any], Explained]:
    """Returns what the row's output holds, and what the page shows."""
    is_text = model.pipeline is not None
    caption = normal(row["caption"]) if is_text else None
    tokens = token_weights(model.bundle.describe(row), [float(w) for w in weights], text=is_text)
    words, parts = words_of(tokens, caption), shares(tokens)
    entry = {
        "tokens": [token._asdict() for token in tokens],
        "words": [{"word": w.text, "weight": w.weight, "tokens": w.tokens} for w in words],
        "shares": parts,
    }
    page = Explained(row["id"], caption, words, parts, cut or 0)
    return entry if cut is None else {"tokens_cut": cut, **entry}, page


def _bars(words: Sequence[Word]) -> bytes:
    """Draws the words; burned-in markers of radiographs stand out."""
    shown = words or [Word("(no word)", 0.0, ())]
    names = [one_line(w.text, 26) for w in shown]
    marked = [name for name in names if name.startswith("Marker")]
    return token_bars(names, [w.weight for w in shown], highlight=marked)


def _facts(made: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the provenance as names and texts for the page."""
    sampling = ", ".join(f"{name} {value}" for name, value in made["sampling"].items())
    return {
        "model": made["model"],
        "steps": ", ".join(str(s) for s in made["steps"]),
        "attribution": made["attribution"],
        "sampling": sampling,
        "seed": str(made["seed"]),
        "versions": ", ".join(f"{name} {v}" for name, v in made["versions"].items()),
        "utc": made["utc"],
    }
