"""The package's own exceptions, and the one gate to optional packages."""

import importlib
from types import ModuleType

# Import name of an optional package → the extra that installs it.
_EXTRA_OF = {
    "rdkit": "chem",
    "scipy": "structure",
    "biotite": "structure",
    "torch_scatter": "scatter",
    "safetensors": "io",
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
    """Import an optional package, or say which extra installs it.

    Args:
        name (str): The module to import, for example ``"rdkit.Chem"``.
        why (str): What needs it, for the message, for example ``"from_smiles"``.

    Returns:
        ModuleType: The module ``name``.

    Raises:
        MissingPackageError: If the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        if package != (error.name or "").split(".")[0]:
            # The package is there, but broken: its own message says more than ours.
            raise
        extra = _EXTRA_OF.get(package)
        if package == "torch_scatter":
            # It compiles against the installed torch, which an isolated build hides.
            mend = "pip install --no-build-isolation torch_scatter"
        elif extra is None:
            mend = f"pip install {package}"
        else:
            mend = f"pip install 'pyg_atomenc[{extra}]'"
        hint = f" (extra '{extra}')" if extra else ""
        raise MissingPackageError(
            f"{why} needs the package '{package}'{hint}, which is not installed. "
            f"Install it with: {mend}",
            name=package,
        ) from error
