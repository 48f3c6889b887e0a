"""The list of mutants fits the code and the tests. That each is noticed, `make mutants` shows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.mutant import ROOT, Mutant, mutants


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_is_what_it_says(mutant: Mutant) -> None:
    text = mutant.text()
    if mutant.file.endswith(".py"):
        ast.parse(text)
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        function = name.split("::")[-1].partition("[")[0]
        contracts = (ROOT / file).parent.glob("contract*.py")  # the classes of the stores' tests are made of these
        texts = [path.read_text() for path in (ROOT / file, *contracts)]
        assert any(f"def {function}(" in text for text in texts), test


def test_the_way_back_from_a_mutant_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("x = 1\nx = 1\n")
    mutant = Mutant("m", "nothing", "code.py", "x = 1", "x = 2", ())
    with pytest.raises(ValueError, match="found 2 times"):
        mutant.text(tmp_path)
