"""Readers of data, one file a layout; :mod:`memjax.data.readers.kinds` chooses by name."""
