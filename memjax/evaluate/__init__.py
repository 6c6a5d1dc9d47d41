"""Is it a copy, and can it be told: similarity, statistics, features, whole distributions."""
