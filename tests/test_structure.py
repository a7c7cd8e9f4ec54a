"""The shape of the package: who imports whom, what importing costs, and what an installation carries."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import qat_plugin

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qat_plugin"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

# folder -> what none of its modules may import, not even inside a function
FORBIDDEN = {
    "data": {"qat_plugin.training", "qat_plugin.export", "qat_plugin.evaluation", "qat_plugin.publishing"},
    "export": {"qat_plugin.training", "qat_plugin.evaluation", "qat_plugin.publishing"},
    "runtime": {"qat_plugin.training", "qat_plugin.export", "qat_plugin.evaluation", "qat_plugin.publishing"},
    "evaluation": {"qat_plugin.training", "qat_plugin.export", "qat_plugin.publishing"},
    "publishing": {
        "torch", "onnx", "onnxruntime", "transformers",
        "qat_plugin.training", "qat_plugin.export", "qat_plugin.runtime", "qat_plugin.fake_quant",
    },
    "training": {"qat_plugin.export", "qat_plugin.publishing"},
}  # fmt: skip
FAKE_QUANT_MAY_IMPORT = {"torch", "numpy", "safetensors", "tqdm", "qat_plugin.errors", "qat_plugin.fake_quant"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def is_in(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `statement`."""
    code = f"{statement}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(run.stdout.split())


def test_imports_are_seen_inside_functions(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("import json\ndef f():\n    from qat_plugin.training import run\n")
    assert imports(module) == {"json", "qat_plugin.training", "qat_plugin.training.run"}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrows_go_one_way(folder: str) -> None:
    modules = sorted((PACKAGE / folder).rglob("*.py"))
    assert modules
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules
        for module in imports(path)
        if is_in(module, FORBIDDEN[folder])
    ]
    assert not wrong


def test_fake_quant_depends_on_torch_alone() -> None:
    for path in (PACKAGE / "fake_quant").rglob("*.py"):
        others = {m for m in imports(path) if m.partition(".")[0] not in sys.stdlib_module_names}
        assert {m for m in others if not is_in(m, FAKE_QUANT_MAY_IMPORT)} == set(), path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("statement", ["import qat_plugin", "import qat_plugin.cli", "import qat_plugin.errors"])
def test_import_is_light(statement: str) -> None:
    heavy = {
        "torch",
        "transformers",
        "onnx",
        "onnxruntime",
        "datasets",
        "numpy",
        "huggingface_hub",
        "requests",
        "httpx",
    }
    assert not loaded_by(statement) & heavy


def test_publishing_loads_neither_torch_nor_onnx() -> None:
    assert not loaded_by("import qat_plugin.publishing") & {"torch", "onnx", "onnxruntime", "transformers"}


@pytest.mark.parametrize("name", qat_plugin.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(qat_plugin, name).__name__ == name
    assert name in dir(qat_plugin)


def test_unknown_public_name() -> None:
    assert not hasattr(qat_plugin, "QATrainer")


def test_installation_carries_every_file() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = {path.parent for path in PACKAGE.rglob("__init__.py")}
    names = {".".join(path.relative_to(ROOT).parts): path for path in packages} | {
        "qat_plugin.recipes": ROOT / "recipes"
    }
    assert set(config["options"]["packages"].split()) == set(names)
    carried = {path for package in packages for path in package.glob("*.py")}
    for package, globs in config["options.package_data"].items():
        carried |= {path for pattern in globs.split() for path in names[package].glob(pattern)}
    files = {path for folder in (PACKAGE, ROOT / "recipes") for path in folder.rglob("*") if path.is_file()}
    assert {path for path in files - carried if path.parent.name != "__pycache__"} == set()
