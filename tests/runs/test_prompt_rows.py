"""Prompts as people have them: published lists, spreadsheets, earlier outputs."""

import gzip
import json

import pytest

from memjax.runs.prompts import read_prompts


def captions(path):
    return [row["caption"] for row in read_prompts(str(path))]


def put(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


# The first lines of lists as they are published, in their own formats.
WEN = (
    '{"caption": "The No Limits Business Woman Podcast", "index": 1030727, "url": "https://a"}\n'
    '{"caption": "\\"Watch: Passion Pit\'s Video, \\"\\"Lifted Up (1985)\\"\\"\\"", "index": 5}\n'
    '{"caption": "The Health Mastery Caf\\u00e9 with Dr. Dave", "index": 11, "url": "https://b"}\n'
)
MEMATTN = (
    "The No Limits Business Woman Podcast\n"
    '"Watch: Passion Pit\'s Video, ""Lifted Up (1985)"""\n'
    "The Health Mastery Café with Dr. Dave\n"
)
MEMBENCH = (
    ",prompt,urls\n"
    "0,fire us army garden flag single,['https://cdn.example/1.jpg?v=1']\n"
    "1,##relieve cream / navy area rug,\"['https://a.example/2.jpg', 'https://b.example/3.jpg']\"\n"
)
NEMO = (
    ";Caption;URL;type;mean_sscd;max_sscd;Index\n"
    "0;The No Limits Business Woman Podcast;https://a;VM;0.839;0.846;1030727993\n"
    '1;"""Hot Rod coupe"" original fine art; framed";"https://b?x=1&amp;y=2";TM;;;506193607\n'
)


def test_published_lists_are_read_as_they_are(tmp_path):
    wen = put(tmp_path / "sdv1_500_memorized.jsonl", WEN)
    assert captions(wen) == captions(put(tmp_path / "sd1_mem345.txt", MEMATTN))
    rows = read_prompts(str(wen))
    assert [row["id"] for row in rows] == ["prompt-0000", "prompt-0001", "prompt-0002"]
    assert rows[0]["url"] == "https://a"
    rows = read_prompts(str(put(tmp_path / "SD1_final.csv", MEMBENCH)))
    assert [row["caption"] for row in rows] == [
        "fire us army garden flag single",
        "##relieve cream / navy area rug",
    ]
    assert rows[1]["urls"].startswith("['https://a.example")
    rows = read_prompts(str(put(tmp_path / "memorized_laion_prompts.csv", NEMO)))
    assert [row["caption"] for row in rows] == [
        "The No Limits Business Woman Podcast",
        '"Hot Rod coupe" original fine art; framed',
    ]
    assert (rows[0]["type"], rows[0]["URL"]) == ("VM", "https://a")
    assert "mean_sscd" not in rows[1]  # an empty cell says nothing


TWO = ["a red dog", "Ödem, ein Bild"]
FORMS = {
    "p.txt": "a red dog\nÖdem, ein Bild\n",
    "lines.TXT": "\r\na red dog\r\n\r\n  Ödem, ein Bild  \r\n",
    "old.txt": "a red dog\rÖdem, ein Bild\r",
    "p.jsonl": "".join(json.dumps({"prompt": text}) + "\n" for text in TWO),
    "text.jsonl": "".join(json.dumps({"TEXT": text, "caption": None}) + "\n" for text in TWO),
    "quoted.jsonl": "".join(json.dumps(text) + "\n" for text in TWO),
    "jsonl.txt": "".join(json.dumps({"caption": text}) + "\n" for text in TWO),
    "list.json": json.dumps(TWO, indent=1),
    "objects.json": json.dumps([{"caption": text} for text in TWO]),
    "lines.json": "".join(json.dumps({"caption": text}) + "\n" for text in TWO),
    "p.csv": 'caption\na red dog\n"Ödem, ein Bild"\n',
    "p.tsv": "id\tText\n1\ta red dog\n2\tÖdem, ein Bild\n",
    "none": "".join(json.dumps({"caption": text}) + "\n" for text in TWO),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_form_gives_the_same_captions(tmp_path, name, encoding):
    assert captions(put(tmp_path / name, FORMS[name], encoding)) == TWO


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.csv", "list.json"])
def test_packed_files(tmp_path, name):
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(FORMS[name].encode()))
    assert captions(path) == TWO


def test_lines_that_look_like_something_else_are_captions(tmp_path):
    lines = ["{red|blue} dog", "# not a comment", "[a] list", "1,2", "null", "=SUM(A1)"]
    assert captions(put(tmp_path / "p.txt", "\n".join(lines))) == lines
    sign = "a\u2028b"  # a line end to some, but not to a list of lines
    assert captions(put(tmp_path / "q.txt", f"{sign}\nc\n")) == [sign, "c"]


def test_caption_comes_before_prompt_and_text(tmp_path):
    row = {"text": "3", "prompt": "2", "caption": "1", "id": 7}
    assert captions(put(tmp_path / "p.jsonl", json.dumps(row))) == ["1"]
    table = put(tmp_path / "p.csv", "id,text,Prompt\n7,3,2\n8,4,\n")
    rows = read_prompts(str(table))
    assert [(r["id"], r["caption"]) for r in rows] == [("7", "2"), ("8", "4")]


REFUSED = {
    "plain text as JSON lines": ("p.jsonl", "a dog\n", r"line 1 is not JSON \(Expecting value at "
                                 r"column 1\): write one JSON object a line, .*\.txt file, or a "
                                 r"\.csv table"),
    "a broken line": ("p.jsonl", '{"caption": "a"}\n{"b\n',
                      r"line 2 is not JSON \(Unterminated string starting at column 2\)\.$"),
    "five thousand digits": ("p.jsonl", '{"caption": "a", "n": ' + "9" * 5000 + "}",
                             r"line 1 is not JSON \(a number has 5000 digits, expected"),
    "deep nesting": ("p.jsonl", '{"caption": "a", "n": ' + "[" * 20000 + "]" * 20000 + "}",
                     r"line 1 is not JSON \(it is nested too deeply\)"),
    "nesting that could be read": ("p.jsonl", '{"caption": "a", "n": ' + "[" * 90 + "]" * 90 + "}",
                                   r"line 1 is nested too deeply"),
    "no number": ("p.jsonl", '{"caption": "a", "score": NaN}', r"NaN is not a number of JSON"),
    "half a character": ("p.jsonl", '{"caption": "\\ud800"}', r"half a character"),
    "no column": ("p.csv", "title,url\na,b\n", r"no column called caption, prompt or text \(it has "
                  r"'title', 'url'\): name one so"),
    "no header": ("p.csv", "a red dog\na blue dog\n", r"no column .* \(it has 'a red dog'\)"),
    "a comma in a caption": ("p.csv", "caption\na dog, a cat\n", r"row 2 has 1 cell more than the "
                             r"header: put captions .* in double quotes"),
    "an open quote": ("p.csv", 'caption\n"a dog\nb\n', r"unexpected end of data"),
    "two columns": ("p.csv", "caption,caption\na,b\n", r"names twice 'caption'"),
    "an empty cell": ("p.csv", "caption,url\n,b\n", r"row 2 has neither 'labels' nor 'caption'"),
    "a header alone": ("p.csv", "caption\n", r"holds no prompt: write one JSON object a line"),
    "nothing": ("p.txt", "\n \n", r"holds no prompt"),
    "a NUL byte": ("p.txt", "a\0b\n", r"line 1 holds a NUL byte"),
    "a list with a number": ("p.json", '["a", 3]', r"entry 2 has neither"),
    "a torn list": ("p.json", '["a",', r"p\.json is not JSON"),
    "Parquet": ("p.parquet", "PAR1", r"is a \.parquet file, .* pandas\.read_parquet"),
    "a spreadsheet": ("p.xlsx", "PK", r"is a \.xlsx file, .* CSV UTF-8"),
    "a pickle": ("p.pickle", "\x80\x04", r"is a \.pickle file, .* it can run code"),
    "a pointer": ("p.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
                  r"is a Git LFS pointer, not the file itself: .*git lfs pull"),
    "a web page": ("p.txt", "\n\n<!DOCTYPE html>\n<html><body>a dog</body></html>\n",
                   r"is a web page, not the file itself"),
    "a web page as a table": ("p.csv", "<html><p>caption,</p>\n", r"is a web page"),
    "not packed": ("p.txt.gz", "a dog\n", r"cannot be unpacked"),
    "an id twice": ("p.csv", "id,caption\n1,a\n1,b\n",
                    r"two prompts with id '1': .*leave them out"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_sentence(tmp_path, case):
    name, text, said = REFUSED[case]
    with pytest.raises(ValueError, match=said) as caught:
        read_prompts(str(put(tmp_path / name, text)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert name in str(caught.value)


def test_results_of_an_earlier_command_are_no_fields_of_a_prompt(tmp_path, capsys):
    rows = [
        {"caption": "a", "flagged": True, "score": 9.0, "url": "x"},
        {"caption": "b", "provenance": {}, "flagged": False, "images": ["0.png"], "arm": "none"},
        {"caption": "c", "images": ["mine.png"], "image": "train.png"},
    ]
    path = put(tmp_path / "p.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(str(path)) == [
        {"caption": "a", "url": "x", "id": "prompt-0000"},
        {"caption": "b", "id": "prompt-0001"},
        {"caption": "c", "images": ["mine.png"], "image": "train.png", "id": "prompt-0002"},
    ]
    assert capsys.readouterr().out == (
        f"{path}: results of an earlier command are left out (flagged of 2, score of 1, arm of 1, "
        "images of 1, provenance of 1 of 3 rows)\n"
    )
