"""The IDX format of MNIST and its successors: a big-endian header, then the bytes of one array.

Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.errors import DataError

UNSIGNED_BYTES = b"\x00\x00\x08"


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, gzipped if its name ends in .gz.

    Raises DataError, naming the file, if it is truncated, too long, or another kind of file.
    """
    content = _read_bytes(path)
    if len(content) < 4 or content[:3] != UNSIGNED_BYTES:
        raise DataError(f"{path}: not an IDX file of unsigned bytes (it starts with {content[:4].hex() or 'nothing'})")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(f"{path}: truncated: it ends inside its header")
    shape = struct.unpack_from(f">{content[3]}I", content, offset=4)
    if len(content) != header + math.prod(shape):
        raise DataError(
            f"{path}: {len(content):,} bytes, but its header (shape {shape}) calls for {header + math.prod(shape):,}: "
            "truncated or damaged; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: truncated or damaged gzip file ({error}); fetch it again") from error
