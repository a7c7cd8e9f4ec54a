"""transformers.js in Node on a pushed model, by the snippet of its card; runs where `make test-clients` installed it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from client_model import HERE, REPO, installed, make_model, run_node, write_clip
from hub_server import Hub
from transformers import AutoProcessor

from qat_plugin.publishing import push
from qat_plugin.runtime import QuantizedWhisper

pytestmark = pytest.mark.skipif(
    not installed("@huggingface/transformers"), reason="needs Node and @huggingface/transformers: make test-clients"
)


@pytest.mark.parametrize(
    ("target", "external_data_bytes"), [(None, 10**9), ("int8", 10**9), ("int4", 10**9), ("int4", 1)]
)
def test_the_snippet_of_the_card_says_what_our_runtime_says(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str | None, external_data_bytes: int
) -> None:
    hub.patch(monkeypatch)
    folder, card_folder = make_model(tmp_path, target, external_data_bytes)
    push(folder, card_folder, REPO)
    write_clip(tmp_path / "clip.wav")
    prelude = ("--import", str(HERE / "prelude.mjs"))
    variables = {"HF_ENDPOINT": hub.endpoint, "CACHE": str(tmp_path / "cache")}

    (snippet,) = re.findall(r"```js\n(.*?)```", hub.files(REPO)["README.md"].decode(), re.DOTALL)
    (tmp_path / "snippet.mjs").write_text(snippet)
    said = run_node(tmp_path, *prelude, "snippet.mjs", **variables).removesuffix("\n")

    # Both hear the same features: those of either client differ by roundings, which flip roundings to 8 bits.
    run_node(tmp_path, *prelude, str(HERE / "features.mjs"), REPO, "clip.wav", "features.f32", **variables)
    features = torch.from_numpy(np.fromfile(tmp_path / "features.f32", dtype=np.float32).reshape(1, 80, 3000))
    tokens = QuantizedWhisper.from_pretrained(folder).generate(features, language="fr", task="transcribe")
    assert tokens.shape[1] > 10
    assert said == AutoProcessor.from_pretrained(folder).batch_decode(tokens, skip_special_tokens=True)[0]
    assert set(hub.files(REPO)) - {"README.md", ".gitattributes"} == {path.name for path in folder.iterdir()}
