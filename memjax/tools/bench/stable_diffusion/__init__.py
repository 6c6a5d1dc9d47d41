"""``memjax bench sd``: Stable Diffusion's network in memjax and in diffusers."""
