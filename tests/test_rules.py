"""The rules of the notebooks: the series keeps them, and each is seen to fail."""

import pytest
from nbformat.v4 import new_output
from samples import VIEW, Change, code, findings, publish, replaced, rules, sample, shown, stream


def test_the_project_keeps_every_rule():
    assert publish.check() == []


def test_the_sample_keeps_every_rule():
    assert findings(sample()) == []


def test_notebooks_are_numbered_without_a_gap():
    assert rules.of_series(["00_a", "01_b"]) == []
    for wrong in ([], ["01_a"], ["00_a", "02_b"], ["00_a", "00_b"]):
        assert "numbered" in rules.of_series(wrong)[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced(0, "?", "."), "opens with '# 1. Why.'"),
        (replaced(0, "1. Why", "2. Why"), "opens with"),
        (replaced(0, "**Needs**", "Needs"), "what it **Needs**"),
        (replaced(0, "about 1 s", "about X s"), "what it **Needs**"),
        (replaced(0, ", 0.1 GB of memory", ""), "what it **Needs**"),
        (lambda n: n.cells.pop(1), "tagged colab, as code cell 1"),
        (lambda n: n.cells.insert(1, n.cells.pop(2)), "tagged parameters, as code cell 2"),
        (lambda n: n.cells.append(code("", "parameters")), "one cell tagged parameters"),
        (replaced(-1, "print(a)", "\n".join(["a"] * 26)), "has 26 lines"),
        (replaced(-1, "print(a)", "class A(nn.Module): a" + 25 * "\n"), "has 26 lines, but 25"),
        (replaced(3, "a = 1\n", "class A: a" + 25 * "\n"), "has 26 lines, but 25"),
        (replaced(3, "a = 1\n", "class A(nn.Module): a" + 60 * "\n"), "has 61 lines, but 60"),
        (replaced(3, "a = 1\n", "class A(nn.Module): a" + 59 * "\n"), None),
        (replaced(3, "assert a == 1", "# assert a == 1"), "does not assert"),
        (lambda n: n.metadata.update(widgets={}), "other metadata"),
        (lambda n: n.metadata.kernelspec.update(name="mine"), "other metadata"),
        (lambda n: n.metadata.update(papermill={}), "other metadata"),
        (lambda n: n.cells[-1].metadata.update(execution={}), "metadata of a run: execution"),
        (lambda n: n.cells.append(code("seed = 1", "injected-parameters")), "added by papermill"),
        (
            shown(new_output("error", ename="ValueError", evalue="no", traceback=[])),
            "ended with ValueError: no",
        ),
        (shown(stream("careful", "stderr")), "wrote to stderr"),
        (shown(new_output("display_data", data=VIEW)), "shows a widget"),
        (lambda n: n.cells[4].outputs.append(stream("1")), "tagged widget but has an output"),
        (
            shown(stream("saved to /home/me/runs/a.png\n")),
            "path of the machine that it ran on: /home/me/runs/a.png",
        ),
        (shown(stream(r"saved to C:\Users\me")), r"C:\Users\me"),
        (shown(stream("saved to C:/Users/me")), "C:/Users/me"),
        (shown(stream("see file:///home/me/x")), "file:///home/me/x"),
        (shown(new_output("display_data", data={"text/html": "<a>/tmp/x/y</a>"})), "/tmp/x/y"),
        (shown(new_output("display_data", data={"image/png": "A" * 500_000})), "500,000 is the most"),
        (replaced(0, "**Needs** about", "**You need** patience. Running it takes\nabout"), None),
        (replaced(0, "**Needs** about", "**You need** patience, about"), None),
        (shown(stream("1/2 and/or a/b/c, https://x.org/a/b, 3 / 4, runs/a/b, </b></a>\n")), None),
    ],
)
def test_every_rule_is_seen_to_fail(change: Change, told: str | None):
    notebook = sample()
    change(notebook)
    if told is None:
        assert findings(notebook) == []
    else:
        assert any(told in finding for finding in findings(notebook)), findings(notebook)


def test_testing_functions_count_as_asserts():
    notebook = sample()
    replaced(3, "assert a == 1", "torch.testing.assert_close(a, 1)")(notebook)
    assert findings(notebook) == []


def test_the_map_has_a_row_for_each_notebook_with_what_it_needs():
    needs = {"01_why": sample().cells[0].source}
    start = sample()
    start.cells[-2].source = "| [1](01_why.ipynb) | Why? | 1 s | 0.1 GB |"
    assert rules.of_map(start, needs) == []
    for wrong in (
        "| [1](01_why.ipynb) | Why? | 2 s | 0.1 GB |",
        "| [1](01_how.ipynb) | Why? | 1 s | 0.1 GB |",
        "",
    ):
        start.cells[-2].source = wrong
        (told,) = rules.of_map(start, needs)
        assert (
            told
            == "the map in the first notebook has no row with 01_why.ipynb that ends in '| 1 s | 0.1 GB |'"
        )


@pytest.mark.parametrize(
    ("seconds", "memory_mb", "told"),
    [
        (0.7, 150, []),
        (1.5, 70, []),
        (2.0, 100, ["01_why.ipynb says that it needs 1 s, but its run took 2 s: correct its first cell"]),
        (1.0, 40, ["01_why.ipynb says that it needs 100 MB, but its run took 40 MB: correct its first cell"]),
    ],
)
def test_what_a_run_took_is_what_the_notebook_says(seconds, memory_mb, told):
    assert rules.of_cost("01_why.ipynb", sample(), seconds, memory_mb) == told
