"""Reading FASTA files: what is accepted, and one clear message for whatever is not."""

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools.fasta import Record, read_fasta

TWO = b">a first\nMKT\nAYI\n>b\nGG\n"
TWO_RECORDS = [Record("a", "MKTAYI"), Record("b", "GG")]


def packed(data: bytes) -> bytes:
    """Compress without a time stamp, so that parametrised tests have the same names everywhere."""
    return gzip.compress(data, mtime=0)


@pytest.fixture
def fasta(tmp_path):
    def write(data: bytes, name="x.fasta"):
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return write


class TestAccepts:
    @pytest.mark.parametrize(
        "data",
        [
            TWO,
            TWO.rstrip(b"\n"),
            TWO.replace(b"\n", b"\r\n"),
            TWO.replace(b"\n", b"\r"),
            b"\xef\xbb\xbf" + TWO,
            b"\n\n" + TWO.replace(b">b", b"\n \n>b"),
            TWO.replace(b"AYI", b" AY\tI "),
            TWO.replace(b">a first", b">  a first"),
            packed(TWO),
            packed(TWO[:9]) + packed(TWO[9:]),
            packed(TWO.replace(b"\n", b"\r\n")),
        ],
        ids=[
            "plain",
            "no newline at the end",
            "Windows line ends",
            "old Mac line ends",
            "byte order mark",
            "blank lines",
            "white space in a sequence",
            "space after >",
            "gzip",
            "gzip of two members, as bgzip writes",
            "gzip with Windows line ends",
        ],
    )
    def test_the_same_two_records(self, fasta, data):
        assert read_fasta(fasta(data)) == TWO_RECORDS

    def test_gzip_is_told_by_content_not_by_name(self, fasta):
        assert read_fasta(fasta(packed(TWO), "plain.fasta")) == TWO_RECORDS
        assert read_fasta(fasta(TWO, "not.fasta.gz")) == TWO_RECORDS

    def test_case_and_odd_letters_are_kept_for_the_tool_to_judge(self, fasta):
        assert read_fasta(fasta(b">a\nmkX*-.1\n")) == [Record("a", "mkX*-.1")]

    def test_utf8_in_a_header(self, fasta):
        assert read_fasta(fasta(">prot\u00e9ine \u03b1\nMK\n".encode())) == [
            Record("prot\u00e9ine", "MK")
        ]

    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        max_examples=50,
    )
    @given(data=st.data())
    def test_what_was_written_is_read(self, fasta, data):
        names = data.draw(st.lists(st.from_regex(r"\A[!-~]{1,8}\Z"), min_size=1, unique=True))
        letters = st.text("ACDEFGHIKLMNPQRSTVWYacxX*-", min_size=1)
        records = [Record(name, data.draw(letters)) for name in names]
        end, width = data.draw(st.sampled_from(["\n", "\r\n"])), data.draw(st.integers(1, 9))
        lines = []
        for name, sequence in records:
            lines += [f">{name} some words"]
            lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
        text = (end.join(lines) + end).encode()
        content = packed(text) if data.draw(st.booleans()) else text
        assert read_fasta(fasta(content)) == records


class TestRefuses:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "is empty; expected FASTA records"),
            (b"\n \r\n", "is empty"),
            (packed(b""), "is empty"),
            (b"MKTAYI\n", "line 1: 'MKTAYI' comes before any header"),
            (b"# note\n>a\nMK\n", "line 1: '# note' comes before any header"),
            (b">a\nMK\n>b\nG\n>a\nMK\n", "line 5: the id 'a' was already used on line 1"),
            (b">a one\nMK\n>a two\nG\n", "ids (the first word of a header) must be unique"),
            (b">\nMK\n", "line 1: the header has no id"),
            (b">a\n>b\nMK\n", "the record 'a' has no sequence"),
            (b">a\nMK\n>b\n", "the record 'b' has no sequence"),
            (b"\x7fELF\x02\x01\0\0\0", "is a binary file"),
            (packed(b"\x7fELF\x02\x01\0\0\0"), "is a binary file"),
            (b">a\n" + b"M" * 5000 + b"\0\xff", "is not UTF-8 text (byte 0xff)"),
            (b">a\n" + b"M" * 5000 + b"\n>b\0c\nMK\n", r"line 3: the id 'b\x00c' has a NUL in it"),
            (b">prot\xe9ine\nMK\n", "is not UTF-8 text (byte 0xe9); save it as UTF-8"),
            (">a\nMK\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
            (b"BZh91AY", "is bzip2-compressed; decompress it"),
            (b"PK\x03\x04\x14", "is a zip archive"),
            (packed(TWO * 99)[:-20], "is a damaged or truncated gzip file"),
            (packed(TWO)[:-9] + b"123456789", "is a damaged or truncated gzip file"),
            (b"\x1f\x8b", "is a damaged or truncated gzip file"),
            (b"\x1f\x8bnot gzip at all", "is a damaged or truncated gzip file"),
        ],
    )
    def test_with_the_file_and_what_is_wrong(self, fasta, data, message):
        path = fasta(data)
        with pytest.raises(InputError) as caught:
            read_fasta(path)
        assert str(caught.value).startswith(path)
        assert message in str(caught.value)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(InputError, match=r"gone\.fa cannot be read: No such file"):
            read_fasta(str(tmp_path / "gone.fa"))

    def test_a_directory(self, tmp_path):
        with pytest.raises(InputError, match="is a directory; expected a FASTA file"):
            read_fasta(str(tmp_path))

    def test_a_pipe_without_waiting_for_a_writer(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with pytest.raises(InputError, match="is a pipe or a device"):
            read_fasta(str(pipe))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_without_permission(self, fasta):
        path = fasta(TWO)
        Path(path).chmod(0)
        with pytest.raises(InputError, match="cannot be read: Permission denied"):
            read_fasta(path)
