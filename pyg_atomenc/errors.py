"""The package's own exceptions, and the one gate to optional packages."""

import importlib
from types import ModuleType

# Import name of an optional package → the extra that installs it.
EXTRA_OF = {
    "rdkit": "chem", "scipy": "structure", "biotite": "structure", "gemmi": "structure",
    "torch_scatter": "scatter", "safetensors": "save", "filelock": "save",
    "lightning": "lightning", "matplotlib": "plot", "triton": "triton",
}  # fmt: skip


class AtomEncodingError(ValueError):
    """A wrong value; the message names it, says what was found, and how to mend it."""


class FileFormatError(AtomEncodingError):
    """A file that cannot be read; the message starts with the file's name."""


class BackendError(AtomEncodingError):
    """No attention backend can run the given inputs; the message lists why."""


class MissingPackageError(ImportError):
    """An optional package is not installed; the message names its extra."""


def require_package(name: str, why: str) -> ModuleType:
    """Import a module of an optional package, such as ``"rdkit.Chem"``.

    Raises:
        MissingPackageError: If it is not installed; the message starts with ``why``.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        if package != (error.name or "").split(".")[0]:
            # The package is there, but broken: its own message says more than ours.
            raise
        hint = f" (extra '{EXTRA_OF[package]}')" if package in EXTRA_OF else ""
        text = f"{why} needs the package '{package}'{hint}, which is not installed."
        mend = f"Install it with: {how_to_install(package)}"
        raise MissingPackageError(f"{text} {mend}", name=package) from error


def how_to_install(package: str) -> str:
    """The command that installs a package, by its import name, such as ``"rdkit"``."""
    if package == "torch_scatter":
        # It compiles against the installed torch, which an isolated build hides.
        return "pip install --no-build-isolation torch_scatter"
    if package not in EXTRA_OF:
        return f"pip install {package}"
    # This package is not on PyPI: an extra is installed from the folder of its source.
    return f"pip install -e '.[{EXTRA_OF[package]}]' (in the folder of pyg_atomenc)"
