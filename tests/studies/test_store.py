"""What a store takes away with it: its own parts, and no file of a user."""

import numpy as np

from memjax.studies.store import Store


def test_it_takes_its_own_away_and_nothing_else(tmp_path):
    store = Store(tmp_path / "parts", {"job": 1})
    with store.held():
        store.start()
        store.keep("000000", {"x": np.zeros(2)})
        store.remove()
    assert not list(tmp_path.iterdir())


def test_files_of_a_user_stay_in_a_folder_of_that_name(tmp_path):
    mine = tmp_path / "parts" / "mine.csv"
    mine.parent.mkdir()
    mine.write_text("theirs")
    store = Store(tmp_path / "parts", {"job": 1})
    with store.held():
        pass
    with store.held():
        store.start()
        store.keep("000000", {"x": np.zeros(2)})
        store.remove()
    assert [p.name for p in mine.parent.iterdir()] == ["mine.csv"]
