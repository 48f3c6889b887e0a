"""A mechanism taken out of the code, and the tests that must notice."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """``shows``: what the tests prove by failing. ``old`` is in ``file`` once, and becomes ``new``."""

    name: str
    shows: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def text(self, root: Path = ROOT) -> str:
        """The file with the mechanism taken out. Raises ValueError when it is not there as described."""
        text = (root / self.file).read_text()
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: expected once in {self.file}, found {count} times: {self.old!r}")
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    found: list[Mutant] = []
    for file in sorted(FOLDER.glob("*.toml")):
        for name, fields in tomllib.loads(file.read_text()).items():
            found.append(Mutant(name=f"{file.stem}.{name}", tests=tuple(fields.pop("tests")), **fields))
    return found
