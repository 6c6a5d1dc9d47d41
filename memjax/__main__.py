"""``python -m memjax``: the same as the ``memjax`` command."""

from memjax.cli.main import run

if __name__ == "__main__":
    run()
