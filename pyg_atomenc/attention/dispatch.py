"""Which backend runs a call."""

from pyg_atomenc.attention.backend import Backend
from pyg_atomenc.attention.dense.backend import DenseBackend
from pyg_atomenc.attention.edges import EdgesBackend
from pyg_atomenc.attention.inputs import Inputs
from pyg_atomenc.attention.triton.backend import TritonBackend
from pyg_atomenc.checks import check_choice
from pyg_atomenc.errors import BackendError

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
    return check_choice("backend", name, ("auto", *_BACKENDS))


def choose_backend(name: str, inputs: Inputs) -> Backend:
    """The backend ``name``, or for ``"auto"`` the first that can run ``inputs``.

    Raises:
        ValueError: If the named backend, or none at all, can run them; the message
            lists every backend that was asked, and its reasons.
    """
    asked = list(_BACKENDS) if check_backend(name) == "auto" else [name]
    refusals = []
    for candidate in asked:
        reasons = _reasons(_BACKENDS[candidate], inputs, name == "auto")
        if not reasons:
            return _BACKENDS[candidate]
        refusals.append(f"'{candidate}': {'; '.join(reasons)}")
    raise BackendError(
        f"'backend' is {name!r}, which cannot run these inputs. " + " | ".join(refusals)
    )


def _reasons(backend: Backend, inputs: Inputs, automatic: bool) -> list[str]:
    kind = inputs.layout.kind
    if kind not in backend.layouts:
        able = [repr(b.name) for b in _BACKENDS.values() if kind in b.layouts]
        return [f"it does not attend over {kind}, for which take {' or '.join(able)}"]
    reasons = backend.not_supported_reasons(inputs)
    return reasons + (backend.not_automatic_reasons(inputs) if automatic else [])
