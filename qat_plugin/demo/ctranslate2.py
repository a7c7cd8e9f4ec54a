"""Reader of CTranslate2's `model.bin`.

The file is little-endian and has no padding::

    uint32 version | string specification | uint32 revision
    uint32 count   | count × (string name, uint8 rank, rank × uint32 dimension, uint8 type, uint32 bytes, data)
    uint32 count   | count × (string alias, string name)

where a string is its length as uint16, terminating zero included, and its UTF-8 bytes. Types are those of `DTYPES`.
Format: `ctranslate2/specs/model_spec.py` of the CTranslate2 project, versions 4 to 6 of the file.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qat_plugin.errors import ModelError

DTYPES: dict[int, type[np.generic]] = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
VERSIONS = range(4, 7)


@dataclass(frozen=True)
class CTranslate2File:
    """Content of a model file; `variables` has aliases as names of the same array."""

    specification: str
    revision: int
    variables: dict[str, npt.NDArray[np.generic]]


class _Reader:
    """Walks over the bytes of `name`, and says where they end too early."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def take(self, count: int, what: str) -> int:
        """Offset of the next `count` bytes, which are then behind the reader."""
        start, end = self.at, self.at + count
        if end > len(self.data):
            raise ModelError(
                f"{self.name}: the file ends inside {what}: at byte {len(self.data)} instead of {end} or later. "
                "It was cut off: fetch it again."
            )
        self.at = end
        return start

    def number(self, code: str, what: str) -> int:
        """Next unsigned number; `code` is that of `struct`: B, H or I."""
        value: int = struct.unpack_from("<" + code, self.data, self.take(struct.calcsize("<" + code), what))[0]
        return value

    def text(self, what: str) -> str:
        length = self.number("H", what)
        start = self.take(length, what)
        raw = self.data[start : start + length]
        try:
            return raw.rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.name}: {what} at byte {start} is not text: {raw[:16]!r}.") from error


def read_ctranslate2(data: bytes, name: str = "model.bin") -> CTranslate2File:
    """Read the content of a model file; the arrays are views of `data` and read-only.

    Args:
        data: the whole file.
        name: what errors call the file.

    Raises:
        ModelError: another version of the format, a type that NumPy lacks, a size that contradicts its shape, an alias
            of nothing, or a file that is too short or too long.
    """
    reader = _Reader(data, name)
    version = reader.number("I", "the version")
    if version not in VERSIONS:
        raise ModelError(
            f"{name}: version {version} of the CTranslate2 file format; versions {VERSIONS[0]} to {VERSIONS[-1]} are "
            "read. Is it a CTranslate2 model.bin at all?"
        )
    specification = reader.text("the specification's name")
    revision = reader.number("I", "the revision")

    variables: dict[str, npt.NDArray[np.generic]] = {}
    for index in range(reader.number("I", "the number of variables")):
        variable = reader.text(f"the name of variable {index}")
        variables[variable] = _read_array(reader, f"variable {variable!r}")
    for index in range(reader.number("I", "the number of aliases")):
        alias, target = reader.text(f"alias {index}"), reader.text(f"the target of alias {index}")
        if target not in variables:
            raise ModelError(f"{name}: alias {alias!r} stands for {target!r}, which the file does not have.")
        variables[alias] = variables[target]
    if reader.at != len(data):
        raise ModelError(f"{name}: {len(data) - reader.at} bytes follow the end of the model: the file is damaged.")
    return CTranslate2File(specification, revision, variables)


def _read_array(reader: _Reader, what: str) -> npt.NDArray[np.generic]:
    shape = [reader.number("I", what) for _ in range(reader.number("B", what))]
    code, size = reader.number("B", what), reader.number("I", what)
    if code not in DTYPES:
        known = ", ".join(f"{number} {dtype.__name__}" for number, dtype in DTYPES.items())
        raise ModelError(f"{reader.name}: {what} has type {code}; the types read are {known}.")
    dtype, count = np.dtype(DTYPES[code]).newbyteorder("<"), math.prod(shape)
    if count * dtype.itemsize != size:
        raise ModelError(f"{reader.name}: {what} of shape {shape} and type {dtype.name} cannot have {size} bytes.")
    return np.frombuffer(reader.data, dtype, count, reader.take(size, what)).reshape(shape)
