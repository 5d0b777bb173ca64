"""Every page keeps its word: python blocks of README.md and docs/ are executed, top to bottom, in one namespace a page.

A bash block is executed where it is marked ```bash run. A page works in an empty folder, with links to configs/ and to
the entry scripts.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [p for p in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))] if p.exists()]
BLOCK = re.compile(r"^```(python|bash run)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def execute(page: str, name: str) -> None:
    """Runs the blocks of a page in the working directory. An error's traceback shows the line of the page."""
    namespace = {"__name__": "__main__"}
    for block in BLOCK.finditer(page):
        kind, code = block.groups()
        if kind == "python":
            above = page.count("\n", 0, block.start(2))
            exec(compile("\n" * above + code, name, "exec"), namespace)
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
            command = ["bash", "-euo", "pipefail", "-c", code]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{name}:\n{code}\n{done.stdout}\n{done.stderr}"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    for entry in [ROOT / "configs", *ROOT.glob("run_*.py")]:
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_of_the_page_run(page, workplace):
    execute(page.read_text(), str(page))


def test_blocks_share_a_namespace_and_a_folder(workplace):
    page = [
        "```bash run\necho 2 > two\n```\n",
        "```python\nfrom pathlib import Path\n\ntwo = Path('two').read_text()\n```\n",
        "```python\nassert two == '2\\n'\n```\n",
    ]
    execute("text\n".join(page), "page")


def test_an_error_names_the_line_of_the_page(workplace):
    with pytest.raises(ZeroDivisionError) as error:
        execute("# title\n\n```python\nx = 0\n1 / x\n```\n", "page.md")
    assert (error.traceback[-1].path, error.traceback[-1].lineno + 1) == ("page.md", 5)


def test_a_failing_command_fails_the_page(workplace):
    with pytest.raises(AssertionError, match="no_such_file"):
        execute("```bash run\ncat no_such_file\n```\n", "page")
    execute("```bash\ncat no_such_file\n```\n", "page")  # unmarked: shown, not run
