"""Tables as spreadsheets and programs write them: the same rows, whatever the dress."""

import gzip
import os
import tracemalloc

import pytest

from memjax.data.readers.tables import cells_of, read_lines, read_table

PLAIN = "Path,Sex,Note\na/1.jpg,Male,x\nb/2.jpg,Female,\n"
ROWS = [{"Path": "a/1.jpg", "Sex": "Male"}, {"Path": "b/2.jpg", "Sex": "Female"}]


def read(path, expected=("Path", "Sex"), **options):
    options = {"open_ended": True, **options}
    return read_table(str(path), expected, whose="the test's", where="a table", **options)


DRESSES = {
    "comma": PLAIN.encode(),
    "byte order mark": PLAIN.encode("utf-8-sig"),
    "two byte order marks": b"\xef\xbb\xbf" + PLAIN.encode("utf-8-sig"),
    "utf-16 with tabs, as Excel's Unicode text": PLAIN.replace(",", "\t").encode("utf-16"),
    "big-endian utf-16": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "bars": PLAIN.replace(",", "|").encode(),
    "named separator": b"sep=;\r\n" + PLAIN.replace(",", ";").encode(),
    "carriage returns": PLAIN.replace("\n", "\r\n").encode(),
    "old line ends": PLAIN.replace("\n", "\r").encode(),
    "quoted": b'"Path","Sex","Note"\n"a/1.jpg","Male","x"\n"b/2.jpg","Female",""\n',
    "new line in a cell": PLAIN.replace(",x", ',"x\ny"').encode(),
    "another case": PLAIN.replace("Path,Sex", "path , SEX").encode(),
    "index column": b",Path,Sex,Note\n0,a/1.jpg,Male,x\n1,b/2.jpg,Female,\n",
    "two index columns": b"Unnamed: 0,,Path,Sex\n0,0,a/1.jpg,Male\n1,1,b/2.jpg,Female\n",
    "empty lines at the end": PLAIN.encode() + b"\n\n,,\n , ,\n",
    "empty columns at the end": PLAIN.replace("\n", ",,\n").encode(),
    "another column twice": PLAIN.replace("Note", "Note,Note").replace(",x", ",x,y").encode(),
}


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_rows_in_every_dress(tmp_path, dress, packed):
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(DRESSES[dress]) if packed else DRESSES[dress])
    assert [cells_of(row) for _, row in read(path).rows] == ROWS


def test_lines_are_numbered_as_an_editor_does_and_unread_columns_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"sep=;\n" + PLAIN.replace(",", ";").encode())
    table = read(path)
    assert [number for number, _ in table.rows] == [3, 4]
    assert table.unread == ("Note",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Path,Sex,Path\na,b,c\n", "names twice 'Path'"),
        ("Path,path,sex\na,b,c\n", "lacks nothing"),
        ('Path,Sex\n"a,b\nc,d\n', "unexpected end of data, in the row that ends at line 3"),
        ("Pfad;Geschlecht\na;b\n", "lacks 'Path', 'Sex'"),
    ],
)
def test_what_cannot_be_told_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    if words == "lacks nothing":  # the column as it is known is there: the other is only unread
        assert read(path).unread == ("path",)
        return
    with pytest.raises(ValueError, match=words) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_every_column_is_kept_and_none_may_stand_twice(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;b;b\n1;2;3\n")
    with pytest.raises(ValueError, match="names twice 'b'; expected the test's columns once each"):
        read(path, (), optional=None)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("memjax.data.readers.tables._LONGEST", 1000)
    path = tmp_path / "t.csv"
    path.write_text(PLAIN + "a" * 2000)
    with pytest.raises(ValueError, match="more than 1,000 characters"):
        read(path)
    with pytest.raises(ValueError, match="more than 1,000 characters"):
        read_lines(str(path), "a list")


def test_a_pipe_is_no_table(tmp_path):
    """Opening it would wait for a writer forever."""
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"t\.csv cannot be read \(it is a folder or a pipe"):
        read(tmp_path / "t.csv")


def test_a_packed_line_without_end_is_never_unpacked_whole(tmp_path):
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(PLAIN.encode())
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"more than 16,777,216 characters"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20
