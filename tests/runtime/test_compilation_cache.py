"""Compiled programs are kept on accelerators, and nowhere else unasked."""

import jax
import pytest

from memjax.runtime.devices import keep_compiled


@pytest.mark.parametrize(
    ("backend", "environment", "kept"),
    [
        ("gpu", {}, True),
        ("tpu", {}, True),
        ("cpu", {}, False),
        ("gpu", {"MEMJAX_COMPILED": "0"}, False),
        ("gpu", {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}, False),
    ],
)
def test_where_programs_are_kept(monkeypatch, tmp_path, backend, environment, kept):
    asked = {}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    folder = keep_compiled()
    expected = tmp_path / ".cache" / "memjax" / "compiled" if kept else None
    assert folder == expected
    assert asked.get("jax_compilation_cache_dir") == (str(expected) if kept else None)
