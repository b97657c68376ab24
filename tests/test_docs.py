"""What the documents show is run here."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import pyg_atomenc
from pyg_atomenc.errors import MissingPackageError

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(pyg_atomenc.__path__, "pyg_atomenc.")
)


def needs_rdkit(text):
    if "smiles" in text.lower():
        pytest.importorskip("rdkit", reason="RDKit is not installed")


def test_the_example_of_the_readme():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    needs_rdkit(code)
    names = {}
    exec(code, names)
    assert names["out"].shape == (names["tokens"].shape[0], 64)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_links_in_the_documents_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def run_doctest(text, name):
    needs_rdkit(text)
    names = {"torch": importlib.import_module("torch")}
    names |= vars(pyg_atomenc) if name.startswith("pyg_atomenc.") else {}
    if name.startswith("pyg_atomenc."):
        names |= vars(importlib.import_module(name))
    parsed = doctest.DocTestParser().get_doctest(text, names, name, name, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    return runner.run(parsed)


@pytest.mark.parametrize("page, least", [("tutorial", 16), ("boltz", 5)])
def test_the_sessions_in_the_documents(page, least):
    text = (ROOT / "docs" / f"{page}.md").read_text().replace("```", "")
    result = run_doctest(re.sub(r"^python$", "", text, flags=re.M), page)
    assert result.attempted >= least and not result.failed


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    try:
        module = importlib.import_module(name)
    except MissingPackageError as error:
        pytest.skip(str(error))
    for test in doctest.DocTestFinder().find(module):
        if test.examples:
            assert not run_doctest(test.docstring, name).failed, test.name
