"""Files of CTranslate2's format come back value by value, and damaged ones say what is wrong."""

import struct

import numpy as np
import pytest
from ctranslate2_writer import model_bin, text, variable

from qat_plugin.demo.ctranslate2 import read_ctranslate2
from qat_plugin.errors import ModelError

VARIABLES = {
    "encoder/weight": np.arange(6, dtype=np.float16).reshape(2, 3) / 4,
    "encoder/bias": np.array([1.5, -2.25], np.float32),
    "encoder/ints": np.array([[-7]], np.int32),
    "decoder/heads": np.array(-1, np.int16),
    "decoder/flag": np.array(1, np.int8),
}


def test_round_trip():
    file = read_ctranslate2(model_bin(VARIABLES, {"decoder/projection": "encoder/weight"}))
    assert (file.specification, file.revision) == ("WhisperSpec", 3)
    assert list(file.variables) == [*VARIABLES, "decoder/projection"]
    for name, expected in VARIABLES.items():
        assert file.variables[name].dtype == expected.dtype
        np.testing.assert_array_equal(file.variables[name], expected)
        assert file.variables[name].shape == expected.shape
    assert file.variables["decoder/projection"] is file.variables["encoder/weight"]


def test_cut_off_anywhere_is_an_error():
    whole = model_bin(VARIABLES, {"a": "encoder/bias"})
    for length in range(len(whole)):
        with pytest.raises(ModelError, match=f"ends inside .*at byte {length} instead of"):
            read_ctranslate2(whole[:length])


def test_the_variable_that_is_cut_is_named():
    with pytest.raises(ModelError, match=r"here\.bin: the file ends inside variable 'encoder/weight'"):
        read_ctranslate2(model_bin(VARIABLES)[:60], "here.bin")


@pytest.mark.parametrize("version", [3, 7, 0x04034B50])
def test_other_versions(version):
    with pytest.raises(ModelError, match=f"version {version} of .* versions 4 to 6 are read"):
        read_ctranslate2(model_bin(VARIABLES, version=version))


def one_variable(body: bytes) -> bytes:
    return struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, 1) + body


def test_unknown_type():
    body = bytearray(variable("w", np.zeros(2, np.float32)))
    body[2 + 2 + 1 + 4] = 5  # bfloat16
    with pytest.raises(ModelError, match=r"variable 'w' has type 5; the types read are 0 float32"):
        read_ctranslate2(one_variable(bytes(body)))


def test_size_that_contradicts_the_shape():
    body = text("w") + struct.pack("<BIBI", 1, 3, 0, 8) + bytes(8)
    with pytest.raises(ModelError, match=r"'w' of shape \[3\] and type float32 cannot have 8 bytes"):
        read_ctranslate2(one_variable(body))


def test_name_that_is_no_text():
    with pytest.raises(ModelError, match=r"the name of variable 0 .*is not text"):
        read_ctranslate2(one_variable(struct.pack("<H", 3) + b"\xff\xfe\0"))


def test_alias_of_nothing():
    with pytest.raises(ModelError, match="alias 'a' stands for 'nowhere'"):
        read_ctranslate2(model_bin(VARIABLES, {"a": "nowhere"}))


def test_bytes_behind_the_end():
    with pytest.raises(ModelError, match="2 bytes follow the end"):
        read_ctranslate2(model_bin(VARIABLES) + b"xx")
