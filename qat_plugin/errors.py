"""Every error that qat_plugin raises on purpose.

::

    QATError
    ├── RecipeError        a field of a recipe: unknown, of the wrong type, or impossible together with another
    ├── DataError          audio, text, manifests, corpora
    ├── QuantizationError  a tensor, layer or model that cannot be fake-quantized as asked
    ├── ModelError         a folder or Hub id that is not a usable Whisper
    ├── ExportError        an ONNX file that could not be written
    │   └── ParityError    an ONNX file that is not what was trained; nothing is written
    ├── EvaluationError    results that cannot be compared or computed
    ├── PublishError       a card or an upload that is refused
    └── WorkspaceError     an output folder that belongs to another run, or a disk without room

A message names the place (file, row, field, layer), the value found there and what to do about it.
"""


class QATError(Exception):
    """Base of all errors raised on purpose; the command line prints it without a traceback."""


class RecipeError(QATError, ValueError):
    """A recipe field is unknown, has the wrong type, or contradicts another field."""


class DataError(QATError, ValueError):
    """Audio, text, a manifest or a corpus cannot be used."""


class QuantizationError(QATError, ValueError):
    """A tensor, layer or model cannot be fake-quantized as asked."""


class ModelError(QATError, ValueError):
    """A folder or Hub id does not hold a usable Whisper."""


class ExportError(QATError, RuntimeError):
    """An ONNX file could not be written."""


class ParityError(ExportError):
    """The ONNX file does not compute what was trained."""


class EvaluationError(QATError, RuntimeError):
    """Results cannot be computed or compared."""


class PublishError(QATError, RuntimeError):
    """A card or an upload is refused."""


class WorkspaceError(QATError, RuntimeError):
    """An output folder belongs to another run, or the disk has no room."""
