"""What holds for the package as a whole."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyg_atomenc
from pyg_atomenc.errors import MissingPackageError, require_package

ROOT = Path(pyg_atomenc.__file__).parent
OPTIONAL = "rdkit biotite torch_scatter safetensors matplotlib triton gemmi boltz"

# Which subpackages a subpackage may import; every one may import `errors`.
MAY_IMPORT = {
    "errors": set(),
    "checks": set(),
    "attention": {"attention"},
    "data": {"data", "attention"},
    "chem": {"chem"},
    "tokenizers": {"tokenizers", "chem"},
    "io": {"io", "tokenizers", "chem", "data"},
    "transforms": {"transforms", "chem", "data"},
    "nn": {"nn", "attention", "data"},
    "checkpoints": {"checkpoints", "nn"},
    "plotting": {"plotting", "chem", "data"},
    "datasets": {"datasets", "io", "tokenizers", "transforms", "data"},
}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_one_way(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for name in imports_of(path):
        package, _, rest = name.partition(".")
        if package == "pyg_atomenc":
            target = rest.split(".")[0]
            assert target in MAY_IMPORT[part] | {"errors", "checks"}, (
                f"{part} imports {name}"
            )
        else:
            assert package not in OPTIONAL.split(), f"{name}: use require_package"


def test_imports_with_torch_and_pyg_alone():
    code = (
        "import sys\n"
        f"for name in {OPTIONAL.split()!r}: sys.modules[name] = None\n"
        "import torch, pyg_atomenc, pyg_atomenc.io, pyg_atomenc.tokenizers\n"
        "import pyg_atomenc.plotting, pyg_atomenc.nn, pyg_atomenc.data\n"
        "import pyg_atomenc.transforms, pyg_atomenc.checkpoints\n"
        "import pyg_atomenc.datasets\n"
        "encoder = pyg_atomenc.AtomAttentionEncoder(3, backend='edges')\n"
        "encoder(torch.randn(4, 3), torch.tensor([0, 0, 1, 1])).sum().backward()\n"
        "for read in (lambda: pyg_atomenc.io.from_smiles('CCO'),\n"
        "             lambda: pyg_atomenc.io.from_structure(sys.argv[0])):\n"
        "    try: read()\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'pyg_atomenc[chem]'" in done.stdout
    assert "'pyg_atomenc[structure]'" in done.stdout


@pytest.mark.parametrize(
    "name, mend",
    [
        ("rdkit.Chem", r"pip install 'pyg_atomenc\[chem\]'"),
        ("triton", r"pip install 'pyg_atomenc\[triton\]'"),
        ("torch_scatter", r"pip install --no-build-isolation torch_scatter"),
        ("gemmi", r"pip install gemmi"),
    ],
)
def test_a_missing_package_says_how_to_install_it(name, mend, monkeypatch):
    monkeypatch.setitem(sys.modules, name.split(".")[0], None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, name.split(".")[0], None)
    with pytest.raises(MissingPackageError, match=f"a test needs.*{mend}"):
        require_package(name, "a test")


def test_a_broken_package_says_what_broke(tmp_path, monkeypatch):
    (tmp_path / "tqdm_broken.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="not_there_at_all") as caught:
        require_package("tqdm_broken", "a test")
    assert not isinstance(caught.value, MissingPackageError)


def test_the_public_names():
    for name in pyg_atomenc.__all__:
        assert getattr(pyg_atomenc, name).__doc__
