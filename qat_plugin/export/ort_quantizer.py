"""What ONNX Runtime's own quantizers make of the float model: 8 bits without training, in the layout of all other arms.

`quantize_dynamic` is what most quantized Whispers on the Hub come from; `quantize_static` fixes the scales of the encoder's
inputs beforehand, from speech. Weights have a scale for each column, signed 8 bits, or 7 (`reduce_range`), which CPUs without
VNNI need lest sums of products overflow. See onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from qat_plugin.arms import ORTMethod
from qat_plugin.errors import QuantizationError
from qat_plugin.export.model import EXTERNAL_DATA_BYTES, data_file, save_model
from qat_plugin.export.writer import GRAPHS, export_onnx
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint

_ENCODER = "encoder_model.onnx"

# Everything that has a large weight, as in ONNX Runtime's defaults; its dynamic convolution is slower than the float one.
_OPERATORS = ["MatMul", "Gather"]


def export_with_onnxruntime(
    checkpoint: QuantizedCheckpoint,
    output_dir: Path,
    *,
    method: ORTMethod,
    reduce_range: bool,
    features: Sequence[NDArray[np.float32]] = (),
    external_data_bytes: int = EXTERNAL_DATA_BYTES,
) -> None:
    """Write `output_dir` as `export_onnx` does of the float `checkpoint`, with both graphs quantized by ONNX Runtime.

    `features`: whole-window log-mel `(1, mels, frames)` of the speech that "static" is calibrated on; its decoder, whose
    cross-attention ONNX Runtime cannot calibrate inside `If`, is quantized dynamically. Weights of `external_data_bytes` or
    more go to `*.onnx_data`, those of the float graphs on the way included.

    Raises `QuantizationError` when "static" has no speech, and what `export_onnx` raises.
    """
    if method == "static" and not features:
        raise QuantizationError("static quantization needs speech: set `calibration_samples` to 1 or more")
    export_onnx(checkpoint, output_dir, external_data_bytes=external_data_bytes)
    with tempfile.TemporaryDirectory(dir=output_dir.parent) as scratch:
        for name in GRAPHS:
            source, quantized, written = Path(scratch) / name, Path(scratch) / f"quantized_{name}", output_dir / name
            model = _with_plain_product(onnx.load(str(written)))
            save_model(model, source, external_data_bytes=external_data_bytes)
            del model  # as large as the weights, and ONNX Runtime loads its own
            for file in (written, data_file(written)):
                file.unlink(missing_ok=True)
            if method == "static" and name == _ENCODER:
                _quantize_encoder(source, quantized, reduce_range, features)
            else:
                quantize_dynamic(
                    source, quantized, op_types_to_quantize=_OPERATORS, per_channel=True, reduce_range=reduce_range,
                    weight_type=QuantType.QInt8, use_external_data_format=True,
                    # Behind operators of its own, ONNX Runtime's quantizer cannot tell what a tensor is made of.
                    extra_options={
                        "EnableSubgraph": True, "MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT,
                    },
                )  # fmt: skip
            # ONNX Runtime calls the file of the weights as no client of a Whisper expects.
            save_model(onnx.load(str(quantized)), written, external_data_bytes=external_data_bytes)


def _with_plain_product(model: ModelProto) -> ModelProto:
    """Logits as MatMul with a table of their own: ONNX Runtime's quantizers leave the fused product with the shared one alone."""
    for node in model.graph.node:
        if node.op_type != "FusedMatMul":
            continue
        table = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        turned = numpy_helper.from_array(
            np.ascontiguousarray(numpy_helper.to_array(table).T), f"{table.name}_transposed"
        )
        model.graph.initializer.append(turned)
        node.input[1], node.op_type, node.domain = turned.name, "MatMul", ""
        del node.attribute[:]
    return model


def _quantize_encoder(
    source: Path, quantized: Path, reduce_range: bool, features: Sequence[NDArray[np.float32]]
) -> None:
    quantize_static(
        source, quantized, _Speech(features), quant_format=QuantFormat.QDQ, op_types_to_quantize=["MatMul"],
        per_channel=True, reduce_range=reduce_range, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        use_external_data_format=True, extra_options={"MatMulConstBOnly": True},
    )  # fmt: skip


class _Speech(CalibrationDataReader):
    def __init__(self, features: Sequence[NDArray[np.float32]]) -> None:
        self._clips: Iterator[NDArray[np.float32]] = iter(features)

    def get_next(self) -> dict[str, Any] | None:
        clip = next(self._clips, None)
        return None if clip is None else {"input_features": clip}
