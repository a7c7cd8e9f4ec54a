"""How long the demo trains on which machine."""

import pytest

from qat_plugin.demo.run import as_long_as_time_allows
from qat_plugin.evaluation import environment
from qat_plugin.recipe_loading import load_recipe


@pytest.mark.parametrize("name", ["demo", "demo-full"])
def test_a_cpu_without_bf16_trains_fewer_steps_and_says_so(name, monkeypatch, capsys):
    monkeypatch.setattr(environment, "describe_environment", lambda: {"cpu_flags": ["avx2"]})
    shortened, whole = load_recipe(name, as_long_as_time_allows(name)).training, load_recipe(name, []).training
    assert 0 < shortened.max_steps < whole.max_steps and 0 < shortened.warmup_steps < shortened.max_steps
    assert not shortened.bf16
    assert f"{shortened.max_steps} steps instead of {whole.max_steps}" in capsys.readouterr().err


def test_one_with_bf16_trains_in_it(monkeypatch, capsys):
    monkeypatch.setattr(environment, "describe_environment", lambda: {"cpu_flags": ["avx512_bf16"]})
    recipe = load_recipe("demo", as_long_as_time_allows("demo"))
    assert recipe.training.bf16 and recipe.training.max_steps == load_recipe("demo", []).training.max_steps
    assert "under bf16 autocast" in capsys.readouterr().err
