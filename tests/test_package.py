"""What holds for the package as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pyg_atomenc
from pyg_atomenc.errors import EXTRA_OF, MissingPackageError, require_package

ROOT = Path(pyg_atomenc.__file__).parent
OPTIONAL = "rdkit biotite torch_scatter safetensors matplotlib triton gemmi boltz"
OPTIONAL += " lightning pytorch_lightning"

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
    "nn": {"nn", "attention", "data", "transforms"},
    "checkpoints": {"checkpoints", "nn"},
    "testing": {"testing", "nn", "attention"},
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


# Runs with torch and PyG alone: every part loads, the layer learns, readers say what
# they lack.
SMOKE = """
import importlib, pkgutil, sys
import torch
import pyg_atomenc
for module in pkgutil.iter_modules(pyg_atomenc.__path__, "pyg_atomenc."):
    importlib.import_module(module.name)
encoder = pyg_atomenc.AtomAttentionEncoder(3)
for encoder.backend in ("auto", "edges"):
    encoder(torch.randn(4, 3), torch.tensor([0, 0, 1, 1])).sum().backward()
assert encoder.lin_value.weight.grad.abs().sum() > 0
for read in (lambda: pyg_atomenc.io.from_smiles("CCO"),
             lambda: pyg_atomenc.io.from_structure(__file__)):
    try:
        read()
    except ImportError as error:
        print(error)
print(pyg_atomenc.__file__)
"""


def smoke(folder, *command, hidden=()):
    """What the smoke test says, of a file of its own in a folder of its own."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({hidden!r}))\n" + SMOKE
    (folder / "smoke.py").write_text(code)
    done = subprocess.run(
        [*command, "-W", "error::ImportWarning", "smoke.py"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "'.[chem]'" in done.stdout and "'.[structure]'" in done.stdout
    return done.stdout


def test_works_with_torch_and_pyg_alone(tmp_path):
    smoke(tmp_path, sys.executable, hidden=OPTIONAL.split())


def needed_by(*names):
    """Distributions, and all that they require."""
    found, left = {}, list(names)
    while left:
        name = re.match(r"[\w.-]+", left.pop())[0]
        if name not in found:
            found[name] = metadata.distribution(name)
            required = found[name].requires or []
            left += [r for r in required if Requirement(r).marker is None
                     or Requirement(r).marker.evaluate({"extra": ""})]  # fmt: skip
    return found.values()


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_with_torch_and_pyg_alone(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    source = ["wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    subprocess.run([*pip, *source, ROOT.parent], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True
    )
    python = tmp_path / "bare" / "bin" / "python"
    (site,) = (tmp_path / "bare").glob("lib/*/site-packages")
    # torch and PyG are gigabytes: links to what is installed here do.
    for distribution in needed_by("torch", "torch_geometric"):
        for top in {file.parts[0] for file in distribution.files} - {"..", "bin"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    install = ["--python", python, "install", "--no-index", wheel]
    subprocess.run([*pip, *install], check=True)
    lines = smoke(tmp_path, python, "-I").splitlines()
    assert Path(lines[-1]).is_relative_to(site), lines[-1]
    names = zipfile.ZipFile(wheel).namelist()
    assert (
        "pyg_atomenc/py.typed" in names and "pyg_atomenc/attention/README.md" in names
    )
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pyg_atomenc"}


@pytest.mark.parametrize(
    "name, mend",
    [
        ("rdkit.Chem", r"pip install -e '\.\[chem\]'"),
        ("safetensors.torch", r"pip install -e '\.\[save\]'"),
        ("triton", r"pip install -e '\.\[triton\]'"),
        ("torch_scatter", r"pip install --no-build-isolation torch_scatter"),
        ("gemmi", r"pip install -e '\.\[structure\]'"),
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


def test_every_extra_that_a_message_names_brings_the_package():
    with open(ROOT.parent / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for package, extra in EXTRA_OF.items():
        brings = {Requirement(line).name for line in extras[extra]}
        assert package in brings, f"{extra} brings {brings}"
    # What drawing needs is there with one extra.
    assert {Requirement(line).name for line in extras["plot"]} == {
        "rdkit",
        "matplotlib",
    }
