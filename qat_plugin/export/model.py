"""From a graph to a file: model proto, external data, space on the disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto, helper

from qat_plugin.errors import WorkspaceError
from qat_plugin.export.graph import IR_VERSION, MICROSOFT, OPSET, Graph

# A protobuf holds 2 GB at most; the margin is for everything that is not a weight.
EXTERNAL_DATA_BYTES = 2_000_000_000


def make_model(
    name: str, graph: Graph, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
) -> ModelProto:
    """The model proto of a finished graph, which gives up its weights one by one: together they may be gigabytes."""
    proto = helper.make_graph(graph.nodes, name, list(inputs), list(outputs), [])
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        ir_version=IR_VERSION,
        producer_name="qat_plugin",
        producer_version=version("qat_plugin"),
    )
    tensors = graph.weights.tensors
    for tensor in list(tensors):
        model.graph.initializer.append(tensors.pop(tensor))
    return model


def weight_bytes(model: ModelProto) -> int:
    """Bytes of all initializers."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def data_file(path: Path) -> Path:
    """Where the weights of the ONNX file `path` lie, if they lie beside it."""
    return path.with_name(f"{path.name}_data")


def save_model(model: ModelProto, path: Path, *, external_data_bytes: int = EXTERNAL_DATA_BYTES) -> None:
    """Write `path`, and `path + "_data"` where the weights have `external_data_bytes` or more.

    Raises `WorkspaceError` when the disk has no room for it.
    """
    needed = weight_bytes(model)
    free = shutil.disk_usage(path.parent).free
    if free < needed * 1.1:
        raise _no_room(path, needed, free)
    external = needed >= external_data_bytes
    try:
        onnx.save(model, str(path), save_as_external_data=external, location=data_file(path).name if external else None)
    except OSError as error:
        for unfinished in (path, data_file(path)):
            unfinished.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise _no_room(path, needed, 0) from error
        raise


def _no_room(path: Path, needed: int, free: int) -> WorkspaceError:
    return WorkspaceError(
        f"{path} needs {needed:,} bytes and the disk has {free:,} free: make room and run the same command again"
    )
