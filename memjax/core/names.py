"""Names and numbers of flags and configurations; read without jax, so that help is quick."""

DTYPES = ("float32", "bfloat16", "float16")  # what a network computes in, and weights are kept in
STEPPERS = ("ddim", "ddpm", "dpm-solver++")
SPACINGS = ("leading", "trailing", "linspace", "leading_open", "linspace_open")  # of timesteps
TRAINED, RANDOM, COMPANION = NULLS = ("trained", "random_labels", "companion")
ATTRIBUTIONS = ("grad_norm", "grad_x_input", "integrated")
EMBEDDING, FIRST_STEP, NOISE, SWAP = ARMS = (
    "embedding_optimization",
    "embedding_first_step",
    "embedding_noise",
    "random_condition_change",
)
# Query, key, value and output projections of self- and cross-attention.
ATTENTION = r"attn[12]/to_(q|k|v|out_0)/kernel"
# Heads of attention and columns of the feed-forward layer; their sums meet in the product after.
Rule = tuple[str, tuple[str, ...]]
RULES: tuple[Rule, ...] = (
    (r"attn[12]/to_[qkv]/kernel$", ("-", "tensor")),
    (r"attn[12]/to_out_0/kernel$", ("tensor", "-")),
    (r"ff/net_0_proj/kernel$", ("-", "tensor")),
    (r"ff/net_0_proj/bias$", ("tensor",)),
    (r"ff/net_2/kernel$", ("tensor", "-")),
    (r"(^|/)filter/", ()),  # a record of rows, not of weights
)
FSDP_MIN_SIZE = 2**14
MOST_SEED = 2**32 - 1  # a key takes 32 bits; a larger seed would be another one's
NEAR_DUPLICATE = 0.95  # least cross-correlation of two images that count as one
MOST_COMPILES = 6  # of `memjax fit`, in all
RUN_FILE = "run.json"  # of a run's folder
SQUARES = ("crop", "pad", "stretch")  # how an image becomes square
