"""``memjax mitigate``: what is asked for, chunk by chunk, and what is recorded of it."""
