"""A page that runs the published model in its visitors' browsers: a static Space, or index.html beside the model.

The page is one file. It takes transformers.js from a CDN, by its version, and the model from its Hub repo or, without
one, from the folder that it lies in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import SpaceCardData

from qat_plugin.publishing.card import ARM, ARM_NAMES, card_title, graphs_with_external_data, render
from qat_plugin.publishing.languages import asked_of_clients

TRANSFORMERS_JS = "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.1"
"""The version that the tests load models with."""


def render_page(document: Mapping[str, Any], model: str | None, revision: str | None = None) -> str:
    """index.html for the model of a card's document.

    `model` is its Hub id, of which the page takes the `revision`; None: it lies beside the page.

    Raises `PublishError` as `render_card` does.
    """
    external = dict.fromkeys(graphs_with_external_data(document), True)
    page = {
        "library": TRANSFORMERS_JS,
        "model": model,
        "bytes": sum(entry["bytes"] for entry in document["arms"][ARM]["files"].values()),
        # The graphs lie at the root and have no suffix. WebAssembly has every operator, and every browser has it.
        "options": {
            "subfolder": "",
            "dtype": "fp32",
            "device": "wasm",
            "revision": revision or "main",
            "use_external_data_format": external or None,
        },
        "generate": asked_of_clients(document["settings"]),
    }
    arm_names = ARM_NAMES | {ARM: f"this model, {ARM_NAMES[ARM]}"}
    return render("space.html.jinja", document, page=page, model=model, arm_names=arm_names)


def render_space_card(document: Mapping[str, Any], model: str) -> str:
    """README.md of the Space: its front matter, and where the figures come from."""
    metadata = SpaceCardData(
        title=card_title(document)[:60],
        sdk="static",
        license=document["recipe"].get("model_license"),
        models=[model],
        emoji="🎙️",
        short_description="Quantized Whisper in your browser",
        # Only such a page gets more than one thread.
        custom_headers={
            "cross-origin-embedder-policy": "require-corp",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "cross-origin",
        },
    )
    return (
        f"---\n{metadata.to_yaml()}\n---\n\n"
        f"[{model}](https://huggingface.co/{model}) in the browser, with the table of its card.\n"
    )
