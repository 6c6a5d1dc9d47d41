"""Is it a copy, can it be told, and the report that says so: similarity, ROC, figures, report."""
