"""The machine, the code and the libraries that produced a figure, and the memory of this process."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from qat_plugin.errors import EvaluationError

# Flags that decide which kernels ONNX Runtime picks, and with them both speed and 8-bit saturation.
_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
          "asimddp", "i8mm", "sve")  # fmt: skip

# A container's share of the processors: microseconds of a period of so many, or "max" (cgroup v2).
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_PACKAGES = ("qat_plugin", "onnxruntime", "transformers", "torch", "numpy", "jiwer", "num2words", "evaluate")


def describe_environment() -> dict[str, Any]:
    """CPU model and flags, cores this process may use, architecture, Python, versions of what computes: JSON-able."""
    return {
        "cpu": _cpu_field("model name") or platform.processor() or platform.machine(),
        "cpu_flags": _cpu_flags(),
        "cores": _cores(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def physical_cores() -> int:
    """Physical cores among the logical ones that this process may use, and no more than its container's share of time is; all of
    these where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return _cores()
    return min(len({_physical_core(cpu) for cpu in os.sched_getaffinity(0)}), _cores())


def _physical_core(cpu: int) -> tuple[str, ...]:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    files = [topology / "physical_package_id", topology / "core_id"]
    if not all(path.is_file() for path in files):
        return (str(cpu),)
    return tuple(path.read_text(encoding="ascii").strip() for path in files)


def git_commit() -> str | None:
    """Commit of the code that runs, with '+changes' when files differ from it; None outside a git checkout, or in one that
    git does not read (another user's, or without a commit)."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").strip(), git("status", "--porcelain", "--untracked-files=no")
    except subprocess.CalledProcessError:
        return None
    return commit + ("+changes" if changes else "")


def memory_bytes(field: Literal["VmRSS", "VmHWM"]) -> int:
    """What this process holds now (VmRSS) or the most that it ever held (VmHWM), in bytes; Linux only.

    Not getrusage's maximum: that outlives exec and would be the parent's.

    Raises `EvaluationError` where the system does not say.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.removesuffix("kB")) * 1024
    raise EvaluationError(f"/proc/self/status has no {field}: memory can be measured on Linux only")


def _cores() -> int:
    """Logical cores that this process may use: a container's quota leaves all of them in sight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not _CPU_QUOTA.is_file():
        return cores
    quota, period = _CPU_QUOTA.read_text(encoding="ascii").split()
    return cores if quota == "max" else min(cores, max(1, round(int(quota) / int(period))))


def _cpu_flags() -> list[str]:
    present = set((_cpu_field("flags") or _cpu_field("Features") or "").split())
    return [flag for flag in _FLAGS if flag in present]


def _cpu_field(name: str) -> str | None:
    info = Path("/proc/cpuinfo")  # Linux only; elsewhere the flags stay unknown.
    if not info.is_file():
        return None
    for line in info.read_text(encoding="utf8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
