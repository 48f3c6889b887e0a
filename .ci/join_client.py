"""Make client.js, one file that a page can use as it is, out of protocol.js and browser.js."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "netra_queue" / "static" / "netra_queue"
HEAD = "// Made by `make client` from protocol.js and browser.js. Do not edit.\n\n"


def joined() -> str:
    own = (FOLDER / "browser.js").read_text()
    without_imports = "".join(line for line in own.splitlines(keepends=True) if not line.startswith("import "))
    return HEAD + (FOLDER / "protocol.js").read_text() + "\n" + without_imports


if __name__ == "__main__":
    (FOLDER / "client.js").write_text(joined())
