"""Every code block of every page runs, or stands word for word where it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, PROSE, blocks, run

PARTNERS = {"rdataframe.md": "root", "pytorch.md": "torch", "sklearn.md": "boosting", "keras.md": "keras"}
"""Pages that need what CI installs now and then, by their mark."""
PAGES = sorted(
    page.name for page in DOCS.glob("*.md") if any(block.language not in PROSE for block in blocks(page.read_text()))
)


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=getattr(pytest.mark, PARTNERS[p]) if p in PARTNERS else ()) for p in PAGES]
)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    """Somebody follows a page word by word and fails."""
    run(page, tmp_path)


def test_a_block_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are not run, or whose failure goes unnoticed."""
    for code in ("```python\nraise ValueError\n```", "```sh\nfalse\n```", "```cpp\nint x;\n```", "<!-- sh\nfalse\n-->"):
        (tmp_path / "page.md").write_text(f"# Page\n\n{code}\n")
        monkeypatch.setattr("tests.docs.blocks.DOCS", tmp_path)
        with pytest.raises(AssertionError, match="line 3"):
            run("page.md", tmp_path)
    excerpt = '```cpp title="a.hxx"\nint x;\n```\n'
    (tmp_path / "page.md").write_text(excerpt + '```cpp title="a.hxx"\nint y;\n```\n')
    with pytest.raises(AssertionError, match="has no 'int y'"):
        run("page.md", tmp_path)
