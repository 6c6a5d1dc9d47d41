"""``memjax launch``: one plan of files and commands a target; no JAX here."""
