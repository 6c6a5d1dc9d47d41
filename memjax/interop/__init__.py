"""Foreign checkpoints: published weights that the user already has, read without torch."""
