"""results.json → model card → Hub.

`document` gathers what a card says, `card` renders it, `push` uploads the ONNX folder with it. Nothing here imports
torch, transformers or onnx: a card is text made from measured files.
"""

from qat_plugin.publishing.card import render_card
from qat_plugin.publishing.document import write_card
from qat_plugin.publishing.push import PushReport, push

__all__ = ["PushReport", "push", "render_card", "write_card"]
