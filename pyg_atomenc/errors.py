"""The package's own exceptions, and the one gate to optional packages."""

import importlib
from types import ModuleType

# Import name of an optional package → the extra that installs it.
EXTRA_OF = {
    "rdkit": "chem",
    "scipy": "structure",
    "biotite": "structure",
    "gemmi": "structure",
    "torch_scatter": "scatter",
    "safetensors": "save",
    "filelock": "save",
    "lightning": "lightning",
    "matplotlib": "plot",
    "triton": "triton",
}


class AtomEncodingError(ValueError):
    """A value that the package cannot work with.

    The message names the argument, says what was found, and how to mend it.
    """


class FileFormatError(AtomEncodingError):
    """A file that cannot be read; the message starts with the file's name."""


class BackendError(AtomEncodingError):
    """No attention backend can run the given inputs; the message lists why."""


class MissingPackageError(ImportError):
    """An optional package is not installed; the message names its extra."""


def require_package(name: str, why: str) -> ModuleType:
    """Import a module of an optional package, such as ``"rdkit.Chem"``.

    Raises:
        MissingPackageError: If the package is not installed; the message starts with
            what needs it, ``why``, and names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        if package != (error.name or "").split(".")[0]:
            # The package is there, but broken: its own message says more than ours.
            raise
        extra = EXTRA_OF.get(package)
        hint = f" (extra '{extra}')" if extra else ""
        raise MissingPackageError(
            f"{why} needs the package '{package}'{hint}, which is not installed. "
            f"Install it with: {how_to_install(package)}",
            name=package,
        ) from error


def how_to_install(package: str) -> str:
    """The command that installs a package, by its import name, such as ``"rdkit"``."""
    if package == "torch_scatter":
        # It compiles against the installed torch, which an isolated build hides.
        return "pip install --no-build-isolation torch_scatter"
    if package not in EXTRA_OF:
        return f"pip install {package}"
    # This package is not on PyPI: an extra is installed from the folder of its source.
    return f"pip install -e '.[{EXTRA_OF[package]}]' (in the folder of pyg_atomenc)"
