"""Frames: whole, in pieces, damaged (W1, W5)."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_executor_gpupool.errors import FrameError
from snakemake_executor_gpupool.wire import frames as protocol
from snakemake_executor_gpupool.wire.bounds import MAX_WORKER_BODY_BYTES, MAX_WORKER_META_BYTES
from snakemake_executor_gpupool.wire.frames import (
    CHECKED_BODY_BYTES,
    HEADER,
    MAGIC,
    MAX_FILE_BYTES,
    MAX_META_BYTES,
    VERSION,
    Decoder,
    Frame,
    SpoolFile,
    encode,
)
from tests.unit.fuzzing import cases

METAS = st.dictionaries(
    st.text(max_size=8).filter(lambda key: key != "blobs"),
    st.one_of(st.integers(), st.text(max_size=20), st.booleans(), st.none()),
    max_size=4,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
BLOBS = st.lists(st.binary(max_size=200), max_size=5)


def whole(meta: dict[str, object], blobs: list[bytes]) -> bytes:
    return b"".join(encode(meta, blobs))


@cases(by_default=100)
@given(st.lists(st.tuples(METAS, BLOBS), max_size=4), st.integers(1, 64))
def test_frames_survive_any_pieces(frames: list[tuple[dict, list[bytes]]], piece: int) -> None:
    stream = b"".join(whole(meta, blobs) for meta, blobs in frames)
    decoder = Decoder()
    decoded: list[Frame] = []
    for start in range(0, len(stream), piece):
        decoded += decoder.feed(stream[start : start + piece])
    assert [(frame.meta, frame.blobs) for frame in decoded] == [(m, b) for m, b in frames]


@cases(by_default=300)
@given(METAS, BLOBS, st.data())
def test_a_flipped_bit_is_noticed(meta: dict, blobs: list[bytes], data: st.DataObject) -> None:
    stream = bytearray(whole(meta, blobs))
    at = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[at // 8] ^= 1 << (at % 8)
    decoder = Decoder()
    try:
        frames = list(decoder.feed(bytes(stream)))
    except FrameError:
        return
    # Padding bytes carry nothing; a longer length leaves the frame incomplete, never wrong.
    assert frames == [] or frames[0].meta == meta


@cases(by_default=300)
@given(st.binary(max_size=300))
def test_garbage_never_becomes_a_frame(garbage: bytes) -> None:
    decoder = Decoder()
    try:
        assert list(decoder.feed(garbage)) == []
    except FrameError:
        return


@cases(by_default=100)
@given(METAS, BLOBS, st.data())
def test_a_truncated_frame_stays_incomplete(
    meta: dict, blobs: list[bytes], data: st.DataObject
) -> None:
    stream = whole(meta, blobs)
    decoder = Decoder()
    assert list(decoder.feed(stream[: data.draw(st.integers(0, len(stream) - 1))])) == []


@cases(by_default=200)
@given(st.lists(st.tuples(METAS, BLOBS), min_size=1, max_size=4), st.data())
def test_a_stream_with_pieces_lost_doubled_or_moved_yields_no_other_frame(
    frames: list[tuple[dict, list[bytes]]], data: st.DataObject
) -> None:
    sent = [whole(meta, blobs) for meta, blobs in frames]
    stream = b"".join(sent)
    places = st.integers(0, len(stream))
    start, end = sorted((data.draw(places), data.draw(places)))
    piece, rest = stream[start:end], stream[:start] + stream[end:]
    at = data.draw(st.integers(0, len(rest)))
    broken = data.draw(
        st.sampled_from([rest, stream[:at] + piece + stream[at:], rest[:at] + piece + rest[at:]])
    )
    decoder, got = Decoder(), []
    with contextlib.suppress(FrameError):
        for frame in decoder.feed(broken):
            got.append(whole(*frame))
    # Whole frames may be lost, doubled or moved; who answers what, `frame_gate` checks.
    assert set(got) <= set(sent)


@cases(by_default=200)
@given(st.binary(max_size=64), st.data())
def test_meta_of_any_kind_is_read_or_refused(body: bytes, data: st.DataObject) -> None:
    """A frame whose checksum is right and whose meta is anything at all."""
    number = st.one_of(st.integers(-9, 99), st.integers(), JSON)
    file = st.tuples(st.one_of(st.text(), JSON), number, number, number).map(list)
    blobs = st.one_of(st.integers(-9, 99), JSON, st.lists(JSON, max_size=5), file)
    meta = data.draw(
        st.one_of(
            st.binary(max_size=40),
            JSON.map(lambda value: json.dumps(value).encode()),
            st.lists(blobs, max_size=4).map(lambda value: json.dumps({"blobs": value}).encode()),
        )
    )
    crc = protocol._checksum(len(meta), len(body), meta, [body])
    head = HEADER.pack(MAGIC, VERSION, len(meta), len(body), crc)
    try:
        [frame] = Decoder().feed(head + meta + body)
    except FrameError:
        return
    assert isinstance(frame.meta, dict)
    assert sum(len(blob) for blob in frame.blobs if isinstance(blob, bytes)) == len(body)
    for blob in frame.blobs:
        if isinstance(blob, SpoolFile):
            assert [type(field) for field in blob] == [str, int, int, int]
            assert 0 <= blob.offset <= blob.offset + blob.size_bytes <= MAX_FILE_BYTES
            assert blob.sharers >= 1


def test_an_announced_size_beyond_the_bound_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(FrameError, match="too large"):
        list(Decoder().feed(HEADER.pack(MAGIC, VERSION, MAX_META_BYTES + 1, 0, 0)))


@pytest.mark.parametrize(
    ("meta_bytes", "body_bytes"), [(MAX_WORKER_META_BYTES + 1, 0), (2, MAX_WORKER_BODY_BYTES + 1)]
)
def test_a_worker_may_announce_less(meta_bytes: int, body_bytes: int) -> None:  # W5
    """What a worker announces is refused by the header, though a coordinator may send more."""
    header = HEADER.pack(MAGIC, VERSION, meta_bytes, body_bytes, 0)
    assert list(Decoder().feed(header)) == []
    decoder = Decoder(MAX_WORKER_META_BYTES, MAX_WORKER_BODY_BYTES)
    with pytest.raises(FrameError, match="too large"):
        list(decoder.feed(header))


@pytest.mark.parametrize(
    "meta",
    [
        *(b"[]", b"{}", b"nonsense", b'{"blobs": [-1]}', b'{"blobs": [5]}', b'{"blobs": ["x"]}'),
        *(b'{"blobs": [["x"]]}', b'{"blobs": [["x", 1, 0]]}', b'{"blobs": [["x", 1, 0, 1, 1]]}'),
        *(b'{"blobs": [["x", 1e999, 0, 1]]}', b'{"blobs": [["x", -1, 0, 1]]}'),
        *(b'{"blobs": [["x", 1, -1, 1]]}', b'{"blobs": [["x", 1, 0, 0]]}'),
        *(b'{"blobs": [["x", 1, 0, true]]}', b'{"blobs": [[1, 1, 0, 1]]}'),
        b'{"blobs": [["x", 1, 9223372036854775807, 1]]}',
        b'{"blobs": ' + b"[" * 100_000,
    ],
)
def test_meta_that_makes_no_sense_is_refused(meta: bytes) -> None:
    crc = protocol._checksum(len(meta), 0, meta, [])
    with pytest.raises(FrameError):
        list(Decoder().feed(HEADER.pack(MAGIC, VERSION, len(meta), 0, crc) + meta))


def test_large_bodies_are_not_copied_into_one_chunk() -> None:  # W2
    chunks = encode({"type": "x"}, [bytes(CHECKED_BODY_BYTES + 1)])
    assert len(chunks) == 2
    [frame] = Decoder().feed(b"".join(chunks))
    assert frame.blobs == [bytes(CHECKED_BODY_BYTES + 1)]


@pytest.mark.parametrize(
    "blob", [SpoolFile("/a", 5), SpoolFile("/b", 0, 64, 3), SpoolFile("/c", 7, 2**62, 1000)]
)
def test_a_blob_in_a_file_goes_through(blob: SpoolFile) -> None:  # W2
    [frame] = Decoder().feed(b"".join(encode({"type": "x"}, [b"a", blob, b"b"])))
    assert frame.blobs == [b"a", blob, b"b"]
    assert json.dumps(frame.meta) == '{"type": "x"}'
