"""Pages quote pictures from the docstrings of the code; this writes them anew, and a test compares.

In a page, ``<!-- picture N of FILE -->`` stands above the fenced block that holds the Nth literal block of FILE's
docstring. ``python tests/quoted_pictures.py docs/shared-memory.md`` fills the blocks.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

QUOTE = re.compile(r"(<!-- picture (\d+) of ([\w./]+) -->\n```\n)(.*?)(\n```)", re.DOTALL)


def pictures(path: Path) -> list[str]:
    """The literal blocks of a module's docstring: what is indented below a line that ends with ``::``."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    found = re.findall(r"^[^\n]*::\n\n((?:    [^\n]*\n|\n)+)", text + "\n", re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in found]


def refreshed(page: str, root: Path) -> str:
    """The page with every picture as the code has it now."""

    def quote(match: re.Match[str]) -> str:
        return match.group(1) + pictures(root / match.group(3))[int(match.group(2)) - 1] + match.group(5)

    return QUOTE.sub(quote, page)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(refreshed(page.read_text(encoding="utf-8"), Path(__file__).parents[1]), encoding="utf-8")
