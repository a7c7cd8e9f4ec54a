"""The recipe: everything that decides a result, as dataclasses that `HfArgumentParser` reads from one flat JSON file.

The defaults are the values that the shipped recipes share. Checking and loading live in `qat_plugin.recipe_loading`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

from transformers import Seq2SeqTrainingArguments


@dataclass
class ModelArguments:
    """The Whisper to start from."""

    model_name_or_path: str = field(metadata={"help": "Hub id or local folder of the float Whisper to fine-tune."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a Hub model."})
    language: str = field(
        default="french", metadata={"help": "Spoken language, as Whisper names it ('french' or 'fr'). Never guessed."}
    )
    task: Literal["transcribe", "translate"] = field(
        default="transcribe", metadata={"help": "'transcribe' keeps the language, 'translate' writes English."}
    )
    encoder_context: Literal["full", "auto"] = field(
        default="full",
        metadata={
            "help": "What the encoder computes of its 30 s window: 'full' all of it, 'auto' the clip, with the silence behind "
            "it folded: a few positions stand for all of them. 'auto' makes short clips several times as fast."
        },
    )
    freeze_encoder: bool = field(default=False, metadata={"help": "Train the decoder only."})


@dataclass
class DataArguments:
    """The speech to train on."""

    train_corpora: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of corpora in recipes/corpora, or paths of corpus definition files."},
    )
    train_data: list[str] = field(
        default_factory=list,
        metadata={"help": "Manifests of your own (.json, .jsonl, .csv) or folders of audio with a metadata file."},
    )
    validation_data: list[str] = field(
        default_factory=list,
        metadata={"help": "Corpora or manifests that `eval_strategy` measures while training. Never the test corpora."},
    )
    corpus_manifests: list[str] = field(
        default_factory=list,
        metadata={"help": "Where a private corpus lies: NAME=PATH, as in zaion5=/data/zaion5.jsonl."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read Hub corpora while training instead of downloading: each process its own share, again from the "
            "beginning at its end."
        },
    )
    max_train_samples: Optional[int] = field(
        default=None, metadata={"help": "Use at most so many training samples, drawn with `sample_seed`."}
    )
    sample_seed: int = field(default=42, metadata={"help": "Seed of the draw that `max_train_samples` makes."})
    min_duration_in_seconds: float = field(default=0.2, metadata={"help": "Drop shorter clips, and count them."})
    max_duration_in_seconds: float = field(
        default=30.0, metadata={"help": "Drop longer training clips, and count them. Whisper's window is 30 s."}
    )
    max_label_length: Optional[int] = field(
        default=None,
        metadata={"help": "Drop transcripts of more tokens. Default: the model's own limit (448 for Whisper)."},
    )
    max_bad_row_share: float = field(
        default=0.01, metadata={"help": "Stop when a larger share of a corpus' rows cannot be read (0 to 1)."}
    )
    join_to_seconds: float = field(
        default=0.0,
        metadata={
            "help": "Join neighbouring clips of one speaker into training samples of up to so many seconds; "
            "0 leaves every clip alone. Short corpora train about as fast as their speech lasts."
        },
    )
    speed_perturbation: float = field(
        default=0.0,
        metadata={
            "help": "Play each training sample at a speed between 1 - x and 1 + x, drawn anew in every epoch; 0: as recorded. "
            "For speech that is heard for more than a few epochs."
        },
    )
    preprocessing_num_workers: int = field(default=1, metadata={"help": "Processes that decode and filter audio."})


def training_speech(data: DataArguments) -> dict[str, Any]:
    """The fields that decide which samples training hears, and at which speeds; not those of test corpora or of haste."""
    given = [*data.train_corpora, *data.train_data, *data.validation_data]
    names = {*given, *(Path(name).stem for name in given)}  # a definition that is given by its path goes by its stem
    manifests = [entry for entry in data.corpus_manifests if entry.partition("=")[0] in names]
    decided = {**asdict(data), "corpus_manifests": manifests}
    return {
        name: value for name, value in decided.items() if name not in ("preprocessing_num_workers", "max_bad_row_share")
    }


@dataclass
class QuantizationArguments:
    """The format that ships, and how its fake quantization is trained."""

    target: Literal["int8", "int4"] = field(
        default="int8",
        metadata={"help": "Arithmetic that ONNX Runtime will execute; see docs of fake_quant/schemes.py."},
    )
    group_size: int = field(
        default=32,
        metadata={
            "help": "Weights that share a scale along the input axis; int4 only. 16, 32, 64, 128, 256. The token "
            "embedding's groups are twice as large."
        },
    )
    skip_modules: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Globs of module names that stay float, as in 'model.decoder.layers.0.*'. Listed in the card."
        },
    )
    int8_modules: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Globs of modules that get the int8 target's format within int4: what hurts most and weighs little. "
            "'qat-plugin diagnose' finds them."
        },
    )
    hot_tokens: int = field(
        default=0,
        metadata={
            "help": "So many first rows of the token embedding get 8 bits within int4: tokens are numbered by frequency. "
            "Those of Whisper's special tokens get them too."
        },
    )
    weight_observer: Literal["mse", "minmax"] = field(
        default="mse",
        metadata={
            "help": "First scales: 'mse' searches the clipping with the least squared error, 'minmax' clips nothing."
        },
    )
    calibration_samples: int = field(
        default=96,
        metadata={
            "help": "Training clips whose activations weight the search of 'mse' and steer 'gptq'; 0 weights every input "
            "alike."
        },
    )
    initial_rounding: Literal["nearest", "gptq"] = field(
        default="gptq",
        metadata={
            "help": "What training starts from: each weight's 'nearest' integer, or 'gptq', where each rounding makes good "
            "the errors of those before it."
        },
    )
    learned_scales: bool = field(
        default=True, metadata={"help": "Train the weight scales (LSQ); false keeps the first ones (straight-through)."}
    )
    scale_learning_rate: float = field(
        default=5e-4, metadata={"help": "Relative change of a scale per optimizer step, at the schedule's peak."}
    )
    fake_quantize_activations: bool = field(
        default=True, metadata={"help": "Simulate in training what the operator does to its input."}
    )
    fake_quant_start_step: int = field(
        default=0, metadata={"help": "Optimizer step at which fake quantization starts."}
    )
    freeze_scales_step: Optional[int] = field(
        default=None, metadata={"help": "Optimizer step from which scales stand still. Default: never."}
    )


@dataclass
class DistillationArguments:
    """What the float model teaches. With `ce_weight` alone: ordinary fine-tuning on the transcripts."""

    teacher_model_name_or_path: Optional[str] = field(
        default=None, metadata={"help": "Float teacher. Default: the model that the training started from."}
    )
    distillation_temperature: float = field(
        default=1.0, metadata={"help": "Softens both distributions of the KL term."}
    )
    ce_weight: float = field(default=1.0, metadata={"help": "Weight of the cross entropy with the labels."})
    kl_weight: float = field(default=0.0, metadata={"help": "Weight of KL(teacher || student) of the logits."})
    encoder_weight: float = field(
        default=0.0, metadata={"help": "Weight of the relative squared error of the encoder's last hidden states."}
    )
    decoder_weight: float = field(
        default=0.0, metadata={"help": "Weight of the relative squared error of the decoder's last hidden states."}
    )
    pseudo_labels: bool = field(
        default=False,
        metadata={"help": "Train on the teacher's own greedy transcripts; the corpora need none then."},
    )


@dataclass
class EvaluationArguments:
    """What is measured, and on which speech."""

    corpora: list[str] = field(
        default_factory=list,
        metadata={"help": "Test corpora by name, as in --corpora community-v2 mtedx, or paths of definition files."},
    )
    test_data: list[str] = field(default_factory=list, metadata={"help": "Test manifests of your own."})
    arms: list[str] = field(
        default_factory=lambda: ["fp", "ptq-rtn", "ptq-gptq", "qat"],
        metadata={
            "help": "Systems to compare: fp (float, whole window), fp-auto (float, silence folded); 8 bits by ONNX Runtime's "
            "own quantizers as ptq-dynamic and ptq-static, with -7bit for CPUs without VNNI; the target without training as "
            "ptq-rtn (plain rounding), ptq-kquant, ptq-hqq, ptq-mse (searched scales) and ptq-gptq; fp-ft (trained like qat, "
            "but in float) and ptq-ft (that one, quantized); qat."
        },
    )
    max_eval_samples: Optional[int] = field(
        default=None, metadata={"help": "Use at most so many clips of each test corpus, drawn with `sample_seed`."}
    )
    min_eval_words: int = field(
        default=1, metadata={"help": "Use only test clips whose reference has so many words or more."}
    )
    normalizer: Literal["basic", "french", "none"] = field(
        default="basic",
        metadata={
            "help": "Applied to references and hypotheses alike: 'basic', Whisper's BasicTextNormalizer; 'french', where "
            "figures and abbreviations become words and elided words keep their apostrophe; 'none', white space only."
        },
    )
    eval_num_beams: int = field(default=1, metadata={"help": "Beams of every arm; 1 is greedy."})
    loop_guard: bool = field(
        default=True,
        metadata={
            "help": "End a transcript that falls into a loop, in every arm; where silence is folded, the clip is decoded again with "
            "the whole window first. Without, it runs to the length limit."
        },
    )
    long_form: Literal["sequential", "chunked"] = field(
        default="sequential",
        metadata={
            "help": "Test clips beyond the model's window: 'sequential', window by window, each from where the last one "
            "ended; 'chunked', in overlapping chunks, as transformers' pipeline does with chunk_length_s."
        },
    )
    eval_batch_size: int = field(
        default=1,
        metadata={
            "help": "Clips decoded together. The encoder's activations are quantized per batch, and 'auto' folds the silence "
            "behind its longest clip: 1 is the finest."
        },
    )
    bootstrap_resamples: int = field(default=2000, metadata={"help": "Resamples of the 95 % intervals."})
    parity_samples: int = field(
        default=8, metadata={"help": "Clips on which the export compares greedy tokens with the trained model."}
    )
    num_threads: Optional[int] = field(
        default=None, metadata={"help": "Threads of ONNX Runtime. Default: every physical core."}
    )


@dataclass
class PublishingArguments:
    """The model's page on the Hub, as 'card' and 'push' are given it now; what is not given stays as it was."""

    model_license: Optional[str] = field(
        default=None, metadata={"help": "License of the weights, as the Hub spells it. Default: the card names none."}
    )
    model_title: Optional[str] = field(
        default=None, metadata={"help": "Heading of the card. Default: from the recipe."}
    )
    base_model: Optional[str] = field(
        default=None,
        metadata={"help": "Hub id that the card names as base model, where model_name_or_path is a local folder."},
    )


# What `compute_metrics` returns and training is to make small; transformers takes larger for better, unless it is a loss.
_ERRORS = ("wer", "cer", "substitutions", "deletions", "insertions", "character_errors")


def is_of_errors(metric: str | None) -> bool:
    """Whether `metric_for_best_model` names a rate or count of errors, of which less is better."""
    return metric is not None and metric.removeprefix("eval_") in _ERRORS


@dataclass
class QATTrainingArguments(Seq2SeqTrainingArguments):
    """transformers' `Seq2SeqTrainingArguments` with defaults that a Whisper needs."""

    output_dir: Optional[str] = field(
        default=None, metadata={"help": "Folder of the whole run: train/, onnx/, evaluation/, card/."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Whisper's collator needs every column."})
    label_names: Optional[list[str]] = field(default_factory=lambda: ["labels"], metadata={"help": "Label columns."})
    ddp_timeout: int = field(
        default=86400,
        metadata={
            "help": "Seconds that a process waits for another. The first one calibrates, and writes pseudo labels, while the "
            "rest wait."
        },
    )
    predict_with_generate: bool = field(default=True, metadata={"help": "Evaluate transcripts, not next tokens."})
    greater_is_better: Optional[bool] = field(
        default=None,
        metadata={
            "help": "Whether a larger `metric_for_best_model` is better. Default: no for losses and rates of errors, yes for others."
        },
    )

    def __post_init__(self) -> None:
        if self.greater_is_better is None and is_of_errors(self.metric_for_best_model):
            self.greater_is_better = False
        super().__post_init__()


@dataclass
class Recipe:
    """One run, resolved: the groups of fields in the order of the work."""

    model: ModelArguments
    data: DataArguments
    quantization: QuantizationArguments
    distillation: DistillationArguments
    evaluation: EvaluationArguments
    publishing: PublishingArguments
    training: QATTrainingArguments
