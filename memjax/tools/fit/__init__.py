"""``memjax fit``: a program compiled for a TPU slice that is not there, and what that says."""
