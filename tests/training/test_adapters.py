"""Models that PEFT fine-tuned: refused while adapters lie beside the weights, trained once they are merged."""

import pytest
import torch
from test_training import arguments, collate, examples
from transformers import Seq2SeqTrainer

from qat_plugin.errors import QuantizationError
from qat_plugin.fake_quant import fake_quant_layers, get_target, prepare
from qat_plugin.models import load_whisper
from qat_plugin.training import QATCallback, QATTrainer


class Adapted(torch.nn.Module):
    """A Linear with something beside it, as PEFT wraps one."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = torch.nn.Linear(layer.in_features, 4, bias=False)
        self.lora_B = torch.nn.Linear(4, layer.out_features, bias=False)


def test_a_layer_with_an_adapter_is_refused_by_name(tiny_whisper_dir, tmp_path):
    model = load_whisper(tiny_whisper_dir)
    model.model.decoder.layers[0].fc1 = Adapted(model.model.decoder.layers[0].fc1)
    expected = r"model\.decoder\.layers\.0\.fc1 is a Adapted .*merge_and_unload\(\)"
    with pytest.raises(QuantizationError, match=expected):
        prepare(model, get_target("int4"))
    with pytest.raises(QuantizationError, match=expected):
        Seq2SeqTrainer(
            model=model, args=arguments(tmp_path), train_dataset=examples(2), data_collator=collate,
            callbacks=[QATCallback("int4")],
        )  # fmt: skip
    assert not list(fake_quant_layers(model))


@pytest.mark.parametrize("quantizer", ["int4", None])
def test_a_model_that_is_frozen_throughout_is_refused(tiny_whisper_dir, tmp_path, quantizer):
    model = load_whisper(tiny_whisper_dir).requires_grad_(False)
    trainer = QATTrainer(
        model=model, args=arguments(tmp_path), train_dataset=examples(2), data_collator=collate,
        qat=QATCallback(quantizer),
    )  # fmt: skip
    with pytest.raises(QuantizationError, match=r"every weight of the model is frozen.*requires_grad_\(True\)"):
        trainer.train()


@pytest.mark.parametrize("kind", [QATTrainer, Seq2SeqTrainer])
def test_a_lora_is_refused_until_it_is_merged_and_then_trained(tiny_whisper_dir, tmp_path, kind):
    peft = pytest.importorskip("peft")
    base = load_whisper(tiny_whisper_dir)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)

    def trainer(model):
        qat = QATCallback("int4")
        options = {"qat": qat} if kind is QATTrainer else {"callbacks": [qat]}
        args = arguments(tmp_path, max_steps=1, save_steps=1)
        return kind(model=model, args=args, train_dataset=examples(4), data_collator=collate, **options)

    torch.manual_seed(0)
    adapted = peft.get_peft_model(base, config)
    with pytest.raises(QuantizationError, match="merge first"):
        trainer(adapted)
    batch = collate(examples(2))
    with torch.no_grad():
        expected = adapted.eval()(**batch).logits
        merged = adapted.merge_and_unload()
        assert torch.allclose(merged.eval()(**batch).logits, expected, atol=1e-3)
    merged.requires_grad_(True)
    before = {name: parameter.detach().clone() for name, parameter in merged.named_parameters()}
    trainer(merged).train()
    layers = dict(fake_quant_layers(merged))
    assert "model.encoder.layers.0.self_attn.q_proj" in layers and not any("lora" in name for name in layers)
    weight = "model.encoder.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(dict(merged.named_parameters())[weight], before[weight])
    assert (tmp_path / "checkpoint-1" / "quantizer.json").is_file()
