"""One question, several arms and seeds: plan, runs, measurement, rows, and what was expected."""
