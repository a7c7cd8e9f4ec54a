"""The output folder of a run: where everything lies, and what is done already.

::

    output_dir/
      recipe.json            the resolved recipe
      state.json             steps done: what decided them, how long they took
      pseudo_labels.jsonl    what the teacher wrote of the training speech, where the recipe trains on it
      revisions.json         commits of Hub datasets that the run read, where a branch was asked for
      train/  fp/  ptq-gptq/  ...   checkpoints: the trained model, and one for each other arm
      onnx/{fp,ptq-gptq,qat,...}/   complete folders for ONNX Runtime, each with its parity.json
      diagnosis/             what 'qat-plugin diagnose' found
      evaluation/            CORPUS/ARM.jsonl, results.json, report.md, plots
      card/README.md

A step is done when `state.json` says so for the same inputs. A step whose inputs changed is done again and says why,
except training: hours of work are never overwritten.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from qat_plugin.errors import WorkspaceError
from qat_plugin.files import is_first_process, write_whole

_LITTLE = 16_000_000
"""Bytes; a disk with less is full, where an error does not say it."""


class Workspace:
    """Paths and state of one output folder. Raises `WorkspaceError` when the folder is not one of ours.

    Attributes:
        keeps_books: whether this process writes the state. Under `accelerate launch` all processes go through the same
            steps, and the first of them does.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.keeps_books = is_first_process()
        self._state_file = self.root / "state.json"
        if not self.keeps_books:
            return
        if self.root.is_file():
            raise WorkspaceError(f"output_dir is {str(self.root)!r}, which is a file: name a folder")
        if self.root.is_dir() and any(self.root.iterdir()) and not self._state_file.is_file():
            raise WorkspaceError(
                f"output_dir is {str(self.root)!r}, which holds files of something else: name a new folder or empty it"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(f"output_dir is {str(self.root)!r}, which cannot be made: {error.strerror}") from error
        if not self._state_file.is_file():
            self._write({})

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.json"

    def checkpoint(self, arm: str) -> Path:
        """Folder of an arm's transformers checkpoint."""
        return self.root / {"qat": "train"}.get(arm, arm)

    def onnx(self, arm: str) -> Path:
        """Folder of an arm's ONNX files."""
        return self.root / "onnx" / arm

    @property
    def evaluation(self) -> Path:
        """Folder of transcripts, results and plots."""
        return self.root / "evaluation"

    @property
    def results_file(self) -> Path:
        """All measured figures."""
        return self.evaluation / "results.json"

    @property
    def diagnosis(self) -> Path:
        """Folder of what quantization costs before any training."""
        return self.root / "diagnosis"

    @property
    def card(self) -> Path:
        """Folder of the model card."""
        return self.root / "card"

    def seconds(self) -> dict[str, float]:
        """Wall time of each step done, all its runs added up."""
        return {name: step["seconds"] for name, step in self._read().items() if step["done"]}

    def is_done(self, step: str, inputs: dict[str, Any]) -> bool:
        """Whether `step` was finished with these inputs."""
        entry = self._read().get(step)
        return entry is not None and entry["done"] and entry["inputs"] == fingerprint(inputs)

    def has_finished(self, step: str) -> bool:
        """Whether `step` was finished, with whatever inputs."""
        return step in self.seconds()

    def forget(self, step: str) -> None:
        """Let it be as if `step` had never begun."""
        self._write({name: entry for name, entry in self._read().items() if name != step})

    def differences(self, step: str, inputs: dict[str, Any], besides: Collection[str] = ()) -> list[str]:
        """Fields that decided `step` before and are others now, as 'name: before → now', `besides` those; empty when it never
        began."""
        entry = self._read().get(step)
        if entry is None or entry["inputs"] == fingerprint(inputs):
            return []
        before = entry["values"]
        names = sorted(set(before) | set(_plain(inputs)))
        now = _plain(inputs)
        return [
            f"{n}: {before.get(n)!r} → {now.get(n)!r}"
            for n in names
            if before.get(n) != now.get(n) and n not in besides
        ]

    @contextlib.contextmanager
    def step(self, name: str, inputs: dict[str, Any], *, keeps_work: bool = False) -> Iterator[None]:
        """Record that `name` begins, and when the block ends without an error, that it is done and how long it took.

        The time of a run that was interrupted counts, too; with `keeps_work`, that of every earlier one, whatever its inputs, for
        what it did may be taken up again.
        """
        state = self._read()
        before = state.get(name)
        goes_on = before and (keeps_work or (before["inputs"] == fingerprint(inputs) and not before["done"]))
        spent = before["seconds"] if before and goes_on else 0.0
        entry = {"done": False, "inputs": fingerprint(inputs), "values": _plain(inputs), "seconds": spent}
        self._write({**state, name: entry})
        start = time.perf_counter()

        def book() -> None:
            entry["seconds"] = round(spent + time.perf_counter() - start, 1)
            self._write({**self._read(), name: entry})

        try:
            yield
            entry["done"] = True
            book()
        except BaseException as error:
            entry["done"] = False
            # On a full disk the book fails, too: then the time is lost, and the first error is told.
            with contextlib.suppress(OSError):
                book()
            if _is_of_a_full_disk(error, self.root):
                raise WorkspaceError(
                    f"no space left on the disk of {self.root} in step {name!r}: free some and run the same command again, "
                    "what is finished is kept"
                ) from error
            raise

    @contextlib.contextmanager
    def alone(self, step: str) -> Iterator[None]:
        """Let no other process do `step` in this folder meanwhile: two would write into each other's files and times.

        Raises `WorkspaceError` when one is at it. The system gives the lock back when a process dies. Of several processes
        that do it together, the one that keeps the books has the lock.
        """
        if not self.keeps_books:
            yield
            return
        with (self.root / f".{step}.lock").open("w", encoding="utf8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WorkspaceError(
                    f"another process does step {step!r} in {self.root} now: wait for it, or name another output_dir"
                ) from error
            yield

    def _read(self) -> dict[str, Any]:
        if not self.keeps_books and not self._state_file.is_file():
            return {}  # The process that writes it has not come that far.
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text(encoding="utf8"))
        except json.JSONDecodeError as error:
            raise WorkspaceError(
                f"{self._state_file}, line {error.lineno}: not JSON ({error.msg}); delete the file to run all steps again"
            ) from error
        return state

    def _write(self, state: dict[str, Any]) -> None:
        if not self.keeps_books:
            return
        write_whole(self._state_file, json.dumps(state, indent=1, sort_keys=True) + "\n")


def _is_of_a_full_disk(error: BaseException, folder: Path) -> bool:
    """Whether the disk was full. safetensors says so in words only, and torch only that a write came out short."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    wrote_short = isinstance(error, RuntimeError) and "[enforce fail" in str(error)
    return "os error 28" in str(error) or (wrote_short and shutil.disk_usage(folder).free < _LITTLE)


def _plain(inputs: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(inputs, sort_keys=True, default=str))
    return plain


def fingerprint(inputs: dict[str, Any]) -> str:
    """Digest of what decides a step."""
    return hashlib.sha256(json.dumps(_plain(inputs), sort_keys=True).encode()).hexdigest()[:16]


def say(step: str, text: str) -> None:
    """One line about a step, on standard error: standard output belongs to the tables."""
    print(f"[{step}] {text}", file=sys.stderr, flush=True)
