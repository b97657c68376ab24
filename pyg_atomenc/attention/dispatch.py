"""Which backend runs a call."""

from typing import Union

from pyg_atomenc.attention.backend import Backend
from pyg_atomenc.attention.dense.backend import DenseBackend
from pyg_atomenc.attention.edges import EdgesBackend
from pyg_atomenc.attention.inputs import AttentionInputs, EncodeInputs
from pyg_atomenc.attention.triton.backend import TritonBackend
from pyg_atomenc.errors import AtomEncodingError, BackendError

# In the order in which "auto" asks them.
_BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (TritonBackend(), DenseBackend(), EdgesBackend())
}


def backends() -> dict[str, Backend]:
    """All backends by name, in the order in which ``"auto"`` asks them."""
    return dict(_BACKENDS)


def check_backend(name: str) -> str:
    """Raise a ValueError unless ``name`` is ``"auto"`` or a backend's name."""
    if name != "auto" and name not in _BACKENDS:
        known = ", ".join(repr(known) for known in ("auto", *_BACKENDS))
        raise AtomEncodingError(f"'backend' is {name!r}: choose one of {known}.")
    return name


def choose_backend(name: str, inputs: Union[AttentionInputs, EncodeInputs]) -> Backend:
    """The backend ``name``, or for ``"auto"`` the first that can run ``inputs``.

    Raises:
        ValueError: If the named backend, or none at all, can run them; the message
            lists every backend that was asked, and its reasons.
    """
    asked = list(_BACKENDS) if check_backend(name) == "auto" else [name]
    refusals = []
    for candidate in asked:
        reasons = _BACKENDS[candidate].not_supported_reasons(inputs)
        if name == "auto":
            reasons = reasons + _BACKENDS[candidate].not_automatic_reasons(inputs)
        if not reasons:
            return _BACKENDS[candidate]
        refusals.append(f"'{candidate}': {'; '.join(reasons)}")
    raise BackendError(
        f"'backend' is {name!r}, which cannot run these inputs. " + " | ".join(refusals)
    )
