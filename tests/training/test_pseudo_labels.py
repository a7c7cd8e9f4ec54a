"""The teacher's transcripts as labels."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import WhisperForConditionalGeneration

from qat_plugin.arms import ARMS
from qat_plugin.encoder_context import EncoderContext
from qat_plugin.errors import DataError
from qat_plugin.models import load_processor, load_whisper
from qat_plugin.recipe_loading import load_recipe
from qat_plugin.runtime.logits import LoopGuard
from qat_plugin.training.pseudo_labels import TeacherLabels
from qat_plugin.training.run import make_trainer, measure_parts, run_ptq


class Clips(list):
    """As a `TrainingDataset`: clips of noise, each with its length and language."""

    durations = (0.5, 2.0, 1.0)
    languages = ("fr", "en", "fr")
    ids = ("c:a", "c:b", "c:c")

    def __init__(self, processor):
        self.encoder = SimpleNamespace(prefix=lambda language: [language])
        generator = torch.Generator().manual_seed(0)
        for seconds in self.durations:
            audio = torch.randn(int(16000 * seconds), generator=generator).numpy()
            features = processor.feature_extractor(audio, sampling_rate=16000).input_features[0]
            self.append({"input_features": features, "name": seconds})


@pytest.fixture
def teacher(tmp_path_factory):
    from tiny import save_tiny_whisper

    return save_tiny_whisper(tmp_path_factory.mktemp("teacher"), max_target_positions=24)


def say_how_long(features, **_):
    """One word for every half second that is not padding, after the language; eos where the others say more."""
    frames = (features > features.amin(dim=(1, 2), keepdim=True)).any(dim=1).sum(dim=1)
    words = [[40 + i for i in range(round(int(count) / 50))] for count in frames]
    return torch.tensor([word + [256] * (4 - len(word)) for word in words])


def label(teacher, cache, context=None, limit=24, inputs=None, generate=say_how_long):
    model, processor = load_whisper(teacher).eval(), load_processor(teacher)
    model.generate = generate or model.generate
    clips = Clips(processor)
    return TeacherLabels(
        model, clips, processor, cache, inputs=inputs or {"a": 1}, task="transcribe", max_label_length=limit,
        context=context, batch_size=2,
    ).of(range(3))  # fmt: skip


def test_every_clip_keeps_its_own_transcript_language_and_length(teacher, tmp_path):
    dataset = label(teacher, tmp_path / "cache.jsonl")
    assert dataset.durations == [0.5, 2.0, 1.0]
    assert [row["name"] for row in (dataset[i] for i in range(3))] == [0.5, 2.0, 1.0]
    labels = [dataset[i]["labels"] for i in range(3)]
    assert labels == [["fr", 40, 256], ["en", 40, 41, 42, 43, 256], ["fr", 40, 41, 256]]
    # The cache holds the longest first: clips of one length are cheapest together.
    cached = [json.loads(line)["tokens"] for line in (tmp_path / "cache.jsonl").read_text("utf8").splitlines()[1:]]
    assert cached == [[40, 41, 42, 43], [40, 41], [40]]


def test_an_interrupted_run_goes_on_and_other_inputs_begin_anew(teacher, tmp_path):
    cache = tmp_path / "cache.jsonl"
    whole = label(teacher, cache)
    lines = cache.read_text("utf8").splitlines(keepends=True)
    cache.write_text("".join(lines[:2]) + lines[2][:5], encoding="utf8")
    again = label(teacher, cache)
    assert [again[i]["labels"] for i in range(3)] == [whole[i]["labels"] for i in range(3)]
    label(teacher, cache, inputs={"a": 2})
    assert json.loads(cache.read_text("utf8").splitlines()[0])["inputs"]["a"] == 2


@pytest.mark.parametrize("changed", ["nothing", "ids", "durations", "weights", "generation"])
def test_labels_of_other_clips_or_of_another_teacher_are_not_taken(teacher, tmp_path, monkeypatch, changed):
    heard: list[int] = []

    def say(features, **_):
        heard.append(len(features))
        return say_how_long(features)

    def make(model):
        model.generate = say
        processor = load_processor(teacher)
        TeacherLabels(
            model,
            Clips(processor),
            processor,
            tmp_path / "cache.jsonl",
            inputs={},
            task="transcribe",
            max_label_length=24,
        ).of(range(3))

    make(load_whisper(teacher).eval())
    assert sum(heard) == 3
    model = load_whisper(teacher).eval()
    if changed == "ids":
        monkeypatch.setattr(Clips, "ids", ("c:a", "c:b", "c:d"))
    elif changed == "durations":
        monkeypatch.setattr(Clips, "durations", (0.5, 2.0, 1.5))
    elif changed == "weights":
        with torch.no_grad():
            model.model.encoder.conv1.bias[0] += 1e-6
    elif changed == "generation":
        model.generation_config.suppress_tokens = [40]
    make(model)
    assert sum(heard) == (3 if changed == "nothing" else 6)


def test_with_a_context_the_teacher_computes_less(teacher, tmp_path, monkeypatch):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    heard: list[int] = []
    forward = WhisperEncoder.forward

    def note(self, input_features, *args, **kwargs):
        heard.append(input_features.shape[-1])
        return forward(self, input_features, *args, **kwargs)

    monkeypatch.setattr(WhisperEncoder, "forward", note)
    with contextlib.suppress(DataError):  # what a random teacher says may not be worth keeping
        label(teacher, tmp_path / "cache.jsonl", EncoderContext(), generate=None)
    assert heard and max(heard) < 800


def test_transcripts_longer_than_a_label_are_left_out(teacher, tmp_path):
    assert label(teacher, tmp_path / "cache.jsonl", limit=5).durations == [0.5, 1.0]
    with pytest.raises(DataError, match="no usable transcript for any of 3 "):
        label(teacher, tmp_path / "cache.jsonl", limit=2)


def test_the_teacher_is_stopped_where_it_falls_into_a_loop(teacher, tmp_path):
    guards = []

    def say(features, logits_processor, **_):
        guards.extend(logits_processor)
        said = say_how_long(features)
        said = torch.cat([said, torch.full((len(said), 20), 256)], dim=1)
        said[said[:, 3] == 43] = 40  # the longest clip's, over and over
        return said

    assert label(teacher, tmp_path / "cache.jsonl", generate=say).durations == [0.5, 1.0]
    assert {type(guard) for guard in guards} == {LoopGuard}
    # The prompt is one token here.
    guard, scores = guards[0], torch.zeros(2, 300)
    loop, speech = [9, *[40] * 16], [9, *range(40, 56)]
    assert guard(torch.tensor([loop, speech]), scores).argmax(1).tolist() == [256, 0]
    longest = (tmp_path / "cache.jsonl").read_text("utf8").splitlines()[1]
    assert json.loads(longest)["tokens"] == []


def test_of_a_clip_without_a_label_the_next_one_is_taken(teacher, tmp_path):
    model, processor = load_whisper(teacher).eval(), load_processor(teacher)
    model.generate = say_how_long
    labels = TeacherLabels(
        model, Clips(processor), processor, tmp_path / "cache.jsonl", inputs={}, task="transcribe", max_label_length=5
    )
    # The middle one runs into the limit.
    assert labels.near([0]) == {0: ["fr", 40, 256]}
    assert len((tmp_path / "cache.jsonl").read_text("utf8").splitlines()) == 2
    assert list(labels.near([1])) == [2] and list(labels.near([1, 2])) == [2, 0]
    assert labels.of(range(3)).indices == [0, 2]


def test_a_short_limit_of_the_teachers_does_not_cut_its_transcripts_and_is_kept(teacher, tmp_path):
    """Cut transcripts would pass for whole ones, and loops for speech."""
    model, processor = load_whisper(teacher).eval(), load_processor(teacher)
    model.generation_config.max_new_tokens, model.generation_config.max_length = 2, 20
    limits = []

    def say(features, **_):
        limits.append((model.generation_config.max_new_tokens, model.generation_config.max_length))
        return say_how_long(features)

    model.generate = say
    TeacherLabels(
        model, Clips(processor), processor, tmp_path / "cache.jsonl", inputs={}, task="transcribe", max_label_length=24
    ).of(range(3))
    assert limits == [(None, 24)]
    assert (model.generation_config.max_new_tokens, model.generation_config.max_length) == (2, 20)


@pytest.fixture
def heard(monkeypatch):
    """How many clips a teacher transcribed, call by call; it says the same of all."""
    counts: list[int] = []

    def say(_, features, **__):
        counts.append(len(features))
        return torch.full((len(features), 2), 40)

    monkeypatch.setattr(WhisperForConditionalGeneration, "generate", say)
    return counts


@pytest.fixture
def recipe_file(teacher, tones_manifest, tmp_path):
    """Trains on five clips: a sixth has a longer text than this model writes."""
    content = {
        "model_name_or_path": str(teacher), "train_data": [str(tones_manifest)], "test_data": ["b.jsonl"], "target": "int4",
        "output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "calibration_samples": 2, "pseudo_labels": True,
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1,
    }  # fmt: skip
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(content))
    return path


def test_the_teacher_hears_what_a_step_needs_and_each_clip_once(recipe_file, tmp_path, heard):
    recipe = load_recipe(recipe_file)
    # As 'diagnose' does: two clips of five, then three, one of them the same.
    arm = tmp_path / "ptq-gptq"
    run_ptq(recipe, ARMS["ptq-gptq"], arm, training_folder=tmp_path / "train", fine_tuned_folder=tmp_path / "fp-ft")
    assert sum(heard) == 2
    measure_parts(recipe, arm, max_clips=3)
    assert sum(heard) == 4
    trainer = make_trainer(recipe, tmp_path / "train")
    assert sum(heard) == 5
    control = make_trainer(recipe, tmp_path / "fp-ft", quantized=False)
    assert sum(heard) == 5 and len(control.train_dataset) == len(trainer.train_dataset) == 5
    batches = trainer.qat.calibration_batches
    assert [torch.equal(batch["labels"][0, -3:], torch.tensor([40, 40, 256])) for batch in batches] == [True, True]
    for batch, index in zip(batches, (0, 2), strict=True):
        assert torch.equal(batch["input_features"][0], torch.as_tensor(trainer.train_dataset[index]["input_features"]))


def test_validation_speech_is_looked_at_first_and_decides_no_transcript(recipe_file, tmp_path, heard):
    def train(*options: str) -> None:
        make_trainer(load_recipe(recipe_file, list(options)), tmp_path / "train")

    spoken = Path(json.loads(recipe_file.read_text())["train_data"][0])
    rows = [json.loads(line) for line in spoken.read_text().splitlines()]
    rows = [{**row, "audio": str(spoken.parent / row["audio"])} for row in rows]
    silent, written = tmp_path / "silent.jsonl", tmp_path / "written.jsonl"
    silent.write_text("".join(json.dumps({**row, "text": None}) + "\n" for row in rows))
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="text"):
        train("--eval_strategy", "steps", "--validation_data", str(silent))
    assert sum(heard) == 0
    train()
    made = sum(heard)
    train("--eval_strategy", "steps", "--validation_data", str(written))
    assert sum(heard) == made > 0


def test_clips_that_no_step_hears_are_not_transcribed(recipe_file, tmp_path, heard):
    def draw(steps: int, *options: str) -> list[int]:
        recipe = load_recipe(recipe_file, ["--calibration_samples", "1", "--max_steps", str(steps), *options])
        return make_trainer(recipe, tmp_path / "train").train_dataset.indices

    drawn, calibrated_on = draw(3), {0}
    assert len(drawn) == 3 and sum(heard) == len({*drawn} | calibrated_on)
    assert draw(3) == drawn and sum(heard) == len({*drawn} | calibrated_on)
    other = draw(3, "--seed", "5")
    assert len(other) == 3 and other != drawn and sum(heard) == len({*drawn, *other} | calibrated_on)
    assert len(draw(6)) == sum(heard) == 5
    # What is calibrated on is spread over all of the speech.
    (tmp_path / "pseudo_labels.jsonl").unlink()
    heard.clear()
    drawn = draw(1, "--calibration_samples", "3")
    assert len(drawn) == 1 and sum(heard) == len({*drawn, 0, 1, 3})
