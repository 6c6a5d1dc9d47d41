"""Training: state, losses, the jitted step, checkpoints and the loop.

Nothing here knows a network library: a network comes in as two pure functions,
``denoise_fn(params, x_t, t, cond)`` and ``encode_fn(params, labels)``.
"""
