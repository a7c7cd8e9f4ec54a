"""Running exported models: `QuantizedWhisper` and transcription of audio files."""

from qat_plugin.runtime.modeling import QuantizedWhisper

__all__ = ["QuantizedWhisper"]
