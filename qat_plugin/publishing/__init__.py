"""results.json → model card → Hub.

`document` gathers what a card says, `card` and `eval_results` render it. `push` uploads the ONNX folder with it, `folder`
writes the same to a local folder, and `space` is a page that runs the model. Nothing here imports torch, transformers or onnx:
a card is text made from measured files.
"""

from qat_plugin.publishing.card import render_card
from qat_plugin.publishing.document import write_card
from qat_plugin.publishing.folder import FolderReport, publish_to_folder
from qat_plugin.publishing.hub import PushReport
from qat_plugin.publishing.push import push, push_space

__all__ = ["FolderReport", "PushReport", "publish_to_folder", "push", "push_space", "render_card", "write_card"]
