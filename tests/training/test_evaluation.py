"""What a Trainer predicts and measures on the way is what would ship at that step: quantized, with silence folded."""

import pytest
import torch
from test_training import arguments, collate, examples, speech
from tiny import VOCAB_SIZE, save_tiny_whisper
from transformers import GenerationConfig, Seq2SeqTrainer, TrainerCallback

from qat_plugin.encoder_context import EncoderContext, encoder_context_of, in_context
from qat_plugin.models import load_fake_quant, load_whisper
from qat_plugin.training import QATCallback, QATTrainer


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = save_tiny_whisper(tmp_path_factory.mktemp("start"), max_target_positions=12)
    settings = GenerationConfig.from_pretrained(folder)
    # A time, which this model may say at random, ends a window: where, depends on how long the features are.
    settings.suppress_tokens = list(range(settings.no_timestamps_token_id + 1, VOCAB_SIZE))
    settings.save_pretrained(folder)
    return folder


def loss_of(model, batch, context):
    with torch.no_grad(), in_context(model.eval(), context, batch["input_features"]) as features:
        return float(model(input_features=features, labels=batch["labels"]).loss)


class StopAtTwo(TrainerCallback):
    """As an early stop, before fake quantization may have begun."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


@pytest.mark.parametrize("start_step", [0, 5])
@pytest.mark.parametrize("kind", [QATTrainer, Seq2SeqTrainer])
def test_predictions_and_loss_are_those_of_what_ships(start, tmp_path, kind, start_step):
    predicted = []

    def keep(prediction):
        predicted.append(torch.from_numpy(prediction.predictions))
        return {}

    context, rows = EncoderContext(), speech(2)
    qat = QATCallback("int4", encoder_context=context, fake_quant_start_step=start_step)
    options = {"qat": qat} if kind is QATTrainer else {"callbacks": [qat]}
    trainer = kind(
        model=load_whisper(start), train_dataset=examples(4), eval_dataset=rows, data_collator=collate, compute_metrics=keep,
        args=arguments(tmp_path / "run", max_steps=6, eval_strategy="steps", eval_steps=2, predict_with_generate=True),
        **options,
    )  # fmt: skip
    trainer.add_callback(StopAtTwo())
    trainer.train()
    (log,) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    latent = load_whisper(tmp_path / "run" / "checkpoint-2")
    qat.finish(trainer.model, tmp_path / "end")
    shipped, batch = load_fake_quant(tmp_path / "end"), collate(rows)
    assert encoder_context_of(shipped.config) == context
    with torch.no_grad(), in_context(shipped, context, batch["input_features"]) as features:
        assert features.shape[-1] < 3000
        expected = shipped.generate(features)
    assert torch.equal(predicted[0][:, : expected.shape[1]], expected)
    found = log["eval_loss"]
    assert found == pytest.approx(loss_of(shipped, batch, context), rel=1e-5)
    assert abs(found - loss_of(latent, batch, context)) > 1e-3 * found
    assert abs(found - loss_of(shipped, batch, None)) > 1e-5 * found
    # The model's own evaluation leaves no trace: features that somebody shortened are computed as they are.
    assert loss_of(trainer.model, batch, context) == pytest.approx(found, rel=1e-5)
    assert trainer.model.config.max_source_positions == 1500


@pytest.mark.parametrize("with_start", [False, True])
def test_each_clip_is_transcribed_as_its_labels_begin_and_to_the_models_limit(start, tmp_path, with_start):
    model = load_whisper(start)
    settings = model.generation_config
    settings.language, settings.task, settings.max_new_tokens = "french", "transcribe", 2
    rows, asked = examples(2), []
    for row, language in zip(rows, ("es", "fr"), strict=True):
        prefix = [
            settings.lang_to_id[f"<|{language}|>"],
            settings.task_to_id["translate"],
            settings.no_timestamps_token_id,
        ]
        begin = [settings.decoder_start_token_id] if with_start else []
        row["labels"] = torch.tensor([*begin, *prefix, 40, 41])[:8]

    def say(input_features, **kwargs):
        limits = (model.generation_config.max_new_tokens, model.generation_config.max_length)
        asked.append((kwargs.get("language"), kwargs.get("task"), *limits))
        return torch.full((len(input_features), 3), 40)

    model.generate = say
    trainer = QATTrainer(
        model=model, eval_dataset=rows, data_collator=collate, qat=QATCallback("int4"), compute_metrics=lambda _: {},
        args=arguments(tmp_path, predict_with_generate=True),
    )  # fmt: skip
    trainer.evaluate()
    assert asked == [(["es", "fr"], "translate", None, 12)]
    # One who asks for another is given that; what is saved is what the model came with.
    trainer.evaluate(language="de")
    assert asked[1][0] == "de"
    trainer.save_model(str(tmp_path / "saved"))
    assert GenerationConfig.from_pretrained(tmp_path / "saved").max_new_tokens == 2
    rows[0]["labels"] = rows[0]["labels"][-2:]
    settings.is_multilingual = with_start
    trainer.evaluate()
    assert asked[2][:2] == (None, None)
