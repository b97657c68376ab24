"""What the documents show is run here."""

import doctest
import importlib
import pkgutil
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from dataset_helpers import write_folder

import pyg_atomenc
from pyg_atomenc.errors import MissingPackageError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "pyg_atomenc").rglob("*.md"))
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(pyg_atomenc.__path__, "pyg_atomenc.")
)


def snippets(page, language):
    """Code blocks of a page, with the lines where they start."""
    text = page.read_text()
    for found in re.finditer(rf"```{language}\n(.*?)```", text, re.S):
        yield text[: found.start()].count("\n") + 2, found[1]


def is_session(code):
    return code.lstrip().startswith(">>>")


SNIPPETS = {
    f"{page.stem}:{line}": code
    for page in PAGES
    for line, code in snippets(page, "python")
    if not is_session(code)
}
SESSIONS = {
    page.stem: "\n".join(filter(is_session, (c for _, c in snippets(page, "python"))))
    for page in PAGES
    if any(is_session(code) for _, code in snippets(page, "python"))
}


def needs(text):
    """Skip what asks for an optional package that is not there."""
    for sign, package in {
        "smiles": "rdkit",
        "SmilesTable": "rdkit",
        "from_structure": "biotite",
        "StructureDataset": "biotite",
        "StructureFiles": "biotite",
    }.items():
        if sign in text:
            pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture
def users_folder(tmp_path, monkeypatch, request):
    """The files that snippets read, as a user would have them, small."""
    monkeypatch.chdir(tmp_path)
    files = write_folder(tmp_path / "my_pdb_files", 3)
    (tmp_path / "1abc.pdb").write_text((files / "002.pdb").read_text())
    (tmp_path / "molecules.csv").write_text("name,smiles\nethanol,CCO\nacid,CC(=O)O\n")
    if "boltz2_conf.ckpt" in SNIPPETS[request.node.callspec.params["name"]]:
        torch.save({"state_dict": random_weights()}, tmp_path / "boltz2_conf.ckpt")


def random_weights():
    from pyg_atomenc.checkpoints import to_boltz_state_dict
    from pyg_atomenc.nn import BoltzAtomDecoder, BoltzAtomEncoder, BoltzConfig

    config = BoltzConfig.boltz2()
    trunk = BoltzAtomEncoder(BoltzConfig.boltz2("trunk"))
    parts = BoltzAtomEncoder(config), BoltzAtomDecoder(config)
    return to_boltz_state_dict(trunk) | to_boltz_state_dict(*parts)


@pytest.mark.parametrize("name", SNIPPETS)
def test_every_snippet_runs_alone(name, users_folder):
    needs(SNIPPETS[name])
    exec(compile(SNIPPETS[name], name, "exec"), {"__name__": "__main__"})


def test_the_example_of_the_readme():
    code = next(code for name, code in SNIPPETS.items() if name.startswith("README"))
    needs(code)
    names = {}
    exec(code, names)
    assert names["out"].shape == (names["tokens"].shape[0], 64)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


def test_links_in_the_documents_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_paths_in_the_documents_are_there():
    # The changelog tells of what was.
    for page in PAGES:
        if page.stem == "changelog":
            continue
        folders = r"(?<![\w./])(?:pyg_atomenc|examples|tests|docs)"
        for name in re.findall(rf"{folders}/[\w./-]*\w", page.read_text()):
            beside = ROOT / name, page.parent / name
            assert any(path.exists() for path in beside), f"{page.name}: {name}"


def test_names_in_the_documents_are_there():
    for page in PAGES:
        if page.stem == "changelog":
            continue
        for name in re.findall(r"`(pyg_atomenc(?:\.\w+)+)`", page.read_text()):
            if ".lightning" in name:
                pytest.importorskip("lightning", reason="Lightning is not installed")
            try:
                pkgutil.resolve_name(name)
            except MissingPackageError:
                continue


def test_extras_in_the_documents_are_there():
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    texts = [path.read_text() for path in (*PAGES, *(ROOT / "examples").rglob("*.py"))]
    for text in texts:
        for names in re.findall(r"\.\[([a-z,]+)\]", text):
            assert set(names.split(",")) <= set(extras)


def test_commands_in_the_documents_take_what_they_are_given():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for _, block in snippets(page, "bash"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["make"]:
                    assert f"\n{words[1]}:" in makefile, line
                script = next((word for word in words if word.endswith(".py")), None)
                if script is not None:
                    text = (ROOT / script).read_text()
                    for option in re.findall(r" (--[\w-]+)", line):
                        assert f'"{option}"' in text, f"{page.name}: {line}"


def run_doctest(text, name):
    needs(text)
    names = {"torch": torch}
    names |= vars(pyg_atomenc) if name.startswith("pyg_atomenc.") else {}
    if name.startswith("pyg_atomenc."):
        names |= vars(importlib.import_module(name))
    parsed = doctest.DocTestParser().get_doctest(text, names, name, name, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    return runner.run(parsed)


@pytest.mark.parametrize("page", SESSIONS)
def test_the_sessions_in_the_documents(page):
    result = run_doctest(SESSIONS[page], page)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    try:
        module = importlib.import_module(name)
    except MissingPackageError as error:
        pytest.skip(str(error))
    for test in doctest.DocTestFinder().find(module):
        if test.examples:
            assert not run_doctest(test.docstring, name).failed, test.name
