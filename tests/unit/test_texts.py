"""Reading texts: every row, as csv and pandas have it, or an error that names file and row."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.texts import Text, read_texts


@pytest.fixture
def read(tmp_path: Path):
    def read(content, name="in.tsv", column="text", id_column=""):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_texts(str(tmp_path / name), column, id_column)

    return read


class TestTsv:
    @pytest.mark.parametrize(
        "rows",
        [
            [("a", 'The "Best" paper'), ("b", "next")],
            [("a", "5'9\" tall"), ("b", "it's"), ("c", '6" and 7"')],
            [("a", ' "Best" paper'), ("b", 'x "')],
        ],
    )
    def test_quotation_marks_within_a_field_are_letters(self, read, rows):
        text = "id\ttext\n" + "".join(f"{name}\t{value}\n" for name, value in rows)
        expected = [Text(name, value.strip()) for name, value in rows]
        assert read(text, id_column="id") == expected
        frame = pd.read_csv(io.StringIO(text), sep="\t")
        assert frame["text"].str.strip().tolist() == [value.strip() for _, value in rows]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ('"two\nlines"', "two\nlines"),
            ('"two\r\nlines"', "two\r\nlines"),
            ('"a\ttab"', "a\ttab"),
            ('"one\ttab\nand\tmore"', "one\ttab\nand\tmore"),
            ('"line one\nline two\twith a tab"', "line one\nline two\twith a tab"),
            ('"""Best"" paper"', '"Best" paper'),
            ('"all of it"', "all of it"),
            ('"ends ""so"""', 'ends "so"'),
            ('"x\n\n\ny"', "x\n\n\ny"),
            ("form\x0cfeed\u2028and\x85such", "form\x0cfeed\u2028and\x85such"),
        ],
    )
    def test_quoted_fields(self, read, field, value):
        text = f"id\ttext\na\t{field}\nb\tnext\n"
        assert read(text, id_column="id") == [("a", value), ("b", "next")]
        assert read(text) == [("1", value), ("2", "next")]

    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        deadline=None,
    )
    @given(
        texts=st.lists(
            st.text(alphabet="ab \"'\t\n,\u00e9", min_size=1).filter(str.strip), min_size=1
        ),
        end=st.sampled_from(["\n", "\r\n"]),
    )
    def test_what_csv_writers_write_is_read(self, read, texts, end):
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter="\t", lineterminator=end)
        writer.writerows(
            [["id", "note", "text"], *([f"p {n}", "-", t] for n, t in enumerate(texts))]
        )
        try:
            found = read(file.getvalue(), id_column="id")
        except InputError as error:
            assert "each line looks like one" in str(error)
            assert any(line.count("\t") == 2 for t in texts for line in t.split("\n")[1:])
            return
        assert found == [(f"p {n}", t.strip()) for n, t in enumerate(texts)]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("last", [True, False])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_line_ends_and_marks(self, read, end, last, mark):
        text = mark + end.join(["id\ttext", "a\tone", "b\ttwo"]) + end * last
        assert read(text, id_column="id") == [("a", "one"), ("b", "two")]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ('a\t"never closed\nb\tx\nc\ty\n', "row 1 (line 2): a quotation mark is never closed"),
            ('a\tx\nb\t"never closed', "row 2 (line 3): a quotation mark is never closed"),
            ('a\tx\nb\t"two\nlines"\nc\t"', "row 3 (line 5): a quotation mark is never closed"),
            ('a\t"Best" paper\nb\tx\n', "row 1 (line 2): a field goes on after its closing"),
            ('a\t"never closed\nb\tx "y" z\n', "row 1 (line 2): a field goes on after"),
            (
                '1\t"I went home.\n2\tThen I slept."\n',
                "row 1 (line 2): by its quotation marks, all up",
            ),
            ('1\t"I went home.\nx2\tThen I slept."\n', "up to line 3 is one row, but each line"),
            ('a\t"I went.\nb\tOn.\nc\tI slept."\n', "up to line 4 is one row, but each line looks"),
            (
                "a\tx\ty\nb\tz\n",
                "row 1 (line 2): 3 field(s), and the header has 2; there is a tab too m",
            ),
            (
                "a\tx\nb\n",
                "row 2 (line 3): 1 field(s), and the header has 2; there is a tab too few",
            ),
            ("a\tx\n\nb\ty\n", "row 2 (line 3): the row is blank; remove it"),
            ("a\tx\nb\ty\n\n", "row 3 (line 4): the row is blank"),
            ("a\tx\n \nb\ty\n", "row 2 (line 3): 1 field(s)"),
            ("a\tx\n\t\nb\ty\n", "row 2: there is no text; remove the row"),
            ("a\tx\n\ty\n", "row 2: there is no id; write one"),
            ("a\tx\n  \ty\n", "row 2: there is no id"),
            ("a\tx\na\ty\n", "row 2: the id 'a' was already used in row 1"),
            ("a\tx\ry\nb\tz\n", "row 1 (line 2): there is a carriage return within a field"),
            ("a\tx\0y\n", "line 2: there is a NUL"),
            ("", "has no texts"),
        ],
    )
    def test_nothing_is_swallowed_shifted_or_renamed(self, read, tmp_path, body, message):
        with pytest.raises(InputError) as caught:
            read("id\ttext\n" + body, id_column="id")
        assert message in str(caught.value)
        assert str(caught.value).startswith(str(tmp_path / "in.tsv"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("id\ttext\ttext\na\tx\ty\n", "has two columns 'text'; it has id, text, text. Rename"),
            ("id\tid\ttext\na\tb\tx\n", "has two columns 'id'"),
            ("\nid\ttext\na\tx\n", "has no column 'text'; it has none"),
            ("id,text\na,x\n", "has no column 'text'; it has id,text"),
            ('id\t"text\na\tx\n', "header: a quotation mark is never closed"),
            ("", "has no texts"),
        ],
    )
    def test_headers(self, read, text, message):
        with pytest.raises(InputError) as caught:
            read(text, id_column="id")
        assert message in str(caught.value)

    def test_more_columns_than_are_used(self, read):
        text = "title\ttext\tid\nA\tone\tb\n\ttwo\ta\n"
        assert read(text, id_column="id") == [("b", "one"), ("a", "two")]

    @pytest.mark.parametrize(
        "rows",
        [
            '"Best" was\nsaid\n',  # refused by its closing mark
            '"Best of\nall papers"\nsaid\n',
            'said\n"Best of\nall papers"\n',
            '"said"\n"Best of\nall papers"\nsaid\n',
        ],
    )
    def test_stray_marks_in_a_single_column_join_no_rows(self, read, rows):
        with pytest.raises(InputError, match="quotation mark"):
            read(f"text\n{rows}")

    def test_texts_of_several_lines_in_a_single_column_if_all_are_quoted(self, read):
        assert read('text\n"a\nb"\n"NA"\n') == [("1", "a\nb"), ("2", "NA")]
        assert read('"text"\n"NA"\n"a\nb"\n') == [("1", "NA"), ("2", "a\nb")]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("id\ttext\na\tx\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
            ("id\ttext\na\tx\n".encode("utf-16-be"), "line 1: there is a NUL"),
            (
                "id\ttext\na\tx\nb\tcaf\u00e9".encode("latin-1"),
                r"(byte 0xe9 in line 3); save it as",
            ),
            ("\ufeffid\ttext\na\t".encode() + b"\xff", "(byte 0xff in line 2)"),
        ],
    )
    def test_other_encodings(self, read, data, message):
        with pytest.raises(InputError) as caught:
            read(data)
        assert message in str(caught.value)


class TestLines:
    def test_a_line_each(self, read):
        text = 'one\n"two\n three \x0c\nfour\tfive'
        assert read(text, "in.txt") == [
            ("1", "one"), ("2", '"two'), ("3", "three"), ("4", "four\tfive"),
        ]  # fmt: skip
        assert read("\ufeffone\r\ntwo\r\n", "in.txt") == [("1", "one"), ("2", "two")]
        assert read("one\rtwo\r", "in.txt") == [("1", "one"), ("2", "two")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("one\n\ntwo\n", "row 2: there is no text"),
            ("one\ntwo\n\n", "row 3: there is no text"),
            ("one\rhalf\ntwo\n", "row 1: there is a carriage return within the line"),
            ("one\ntw\0o\n", "line 2: there is a NUL"),
            ("\n", "row 1: there is no text"),
        ],
    )
    def test_errors(self, read, text, message):
        with pytest.raises(InputError, match=message):
            read(text, "in.txt")


class TestParquet:
    def write(self, tmp_path, **columns):
        pd.DataFrame(columns).to_parquet(tmp_path / "in.parquet")
        return str(tmp_path / "in.parquet")

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (["a", None], "row 2: there is no id; write one, or remove the row"),
            (["a", ""], "row 2: there is no id"),
            ([1.0, float("nan")], "row 1: the id 1.0 is of the type float; ids are text or whole"),
            ([float("nan"), 1.0], "row 1: there is no id"),
            ([b"a", b"b"], "row 1: the id b'a' is of the type bytes"),
            (["a", "a"], "row 2: the id 'a' was already used in row 1"),
            (pd.to_datetime(["2020-01-01", "2020-01-02"]), "is of the type datetime"),
        ],
    )
    def test_ids(self, tmp_path, ids, message):
        path = self.write(tmp_path, id=ids, text=["one", "two"])
        with pytest.raises(InputError) as caught:
            read_texts(path, "text", "id")
        assert f"{path}, row" in str(caught.value) and message in str(caught.value)

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            (["one", None], "row 2: there is no text; remove"),
            (["one", "\n"], "row 2: there is no text"),
            ([1, 2], "row 1: 1 is no text, but of the type int; param column"),
        ],
    )
    def test_texts(self, tmp_path, texts, message):
        with pytest.raises(InputError, match=message):
            read_texts(self.write(tmp_path, text=texts), "text", "")

    def test_whole_numbers_and_categories(self, tmp_path):
        path = self.write(tmp_path, n=[7, 8], text=pd.Categorical(["one", "two"]))
        assert read_texts(path, "text", "n") == [("7", "one"), ("8", "two")]
        assert read_texts(path, "text", "text") == [("one", "one"), ("two", "two")]
