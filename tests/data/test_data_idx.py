"""The IDX reader against files written byte by byte, and against every way in which they can be damaged."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.data.errors import DataError
from bench.data.idx import read_idx

ARRAY = np.random.default_rng(0).integers(256, size=(5, 3, 2), dtype=np.uint8)
CONTENT = b"\x00\x00\x08\x03" + struct.pack(">III", 5, 3, 2) + ARRAY.tobytes()


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_reads_what_was_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(CONTENT) if path.suffix == ".gz" else CONTENT)
    array = read_idx(path)
    assert array.dtype == np.uint8
    assert np.array_equal(array, ARRAY)


def test_reads_a_vector(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x03\x07\x00\x09")
    assert read_idx(path).tolist() == [7, 0, 9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG\r\n", "not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "not an IDX file"),  # floats
        (CONTENT[:9], "ends inside its header"),
        (CONTENT[:-1], "45 bytes.*calls for 46"),
        (CONTENT + b"\x00", "47 bytes.*calls for 46"),
    ],
)
@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_damage_is_named_with_its_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-20],
        lambda packed: packed[:20],
        lambda packed: packed[:15] + b"\xff\xff\xff" + packed[18:],
        lambda _: CONTENT,
        lambda _: b"<html>404</html>",
    ],
    ids=["truncated", "cut short", "garbled", "not packed", "a web page"],
)
def test_a_damaged_gzip_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(damage(gzip.compress(CONTENT)))
    with pytest.raises(DataError, match="gzip") as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
