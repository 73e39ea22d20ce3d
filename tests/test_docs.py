import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn

TOP = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("fill", TOP / "docs" / "fill.py")
assert spec is not None
assert spec.loader is not None
fill = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fill)


@pytest.mark.parametrize("page", fill.PAGES, ids=lambda page: page.name)
def test_every_table_is_what_its_command_prints_from_the_shipped_results(page):
    text = page.read_text()
    assert fill.TABLE.search(text)
    assert text.count("<!-- end -->") == len(fill.TABLE.findall(text))
    assert fill.filled(text) == text, f"{page.name} is out of date: run `python docs/fill.py`"


def test_a_table_out_of_date_would_be_found():
    text = "a\n<!-- adavipro table effects -->\n\n| effect | points |\n<!-- end -->\nb"
    filled = fill.filled(text)
    assert filled.startswith(
        "a\n<!-- adavipro table effects -->\n\n| effect | points |\n| --- | --- |\n| VP at 8 px"
    )
    assert filled.endswith("|\n\n<!-- end -->\nb")
    assert fill.filled(filled) == filled


def test_the_loop_in_the_questions_runs_and_learns(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (TOP / "docs" / "questions.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 3))
        network[2].weight.data *= 20  # so that a prompt matters
        images = torch.randn(6, 3, 224, 224)
        labels = torch.tensor([0, 1, 2, 0, 1, 2])
        space = {"network": network, "batches": [(images, labels)] * 12, "steps": 12}
        exec(code, space)
    before = nn.functional.cross_entropy(network(images), labels)
    assert nn.functional.cross_entropy(space["scores"], labels) < 0.9 * before
    assert (tmp_path / "method.pt").exists()
