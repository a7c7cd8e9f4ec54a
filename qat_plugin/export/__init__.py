"""A checkpoint → ONNX: graph, layers → encoder, decoder → model (file) → writer (folder) → census, gate (is it
what was trained?) → exporter. ort_quantizer makes rivals."""

from qat_plugin.export.exporter import export_rival, export_verified
from qat_plugin.export.gate import ParityReport, check_parity
from qat_plugin.export.writer import export_onnx

__all__ = ["ParityReport", "check_parity", "export_onnx", "export_rival", "export_verified"]
