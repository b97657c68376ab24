"""Which backend runs a call."""

from torch import Tensor

from pyg_atomenc.attention.backend import Backend
from pyg_atomenc.attention.dense.backend import DenseBackend
from pyg_atomenc.attention.edges import EdgesBackend
from pyg_atomenc.attention.inputs import Inputs
from pyg_atomenc.attention.plain import PlainBackend
from pyg_atomenc.attention.tracing import is_jit_tracing, leaves_package
from pyg_atomenc.attention.triton.backend import TritonBackend
from pyg_atomenc.checks import check_choice
from pyg_atomenc.errors import BackendError

_PLAIN, _DENSE, _EDGES = PlainBackend(), DenseBackend(), EdgesBackend()
# In the order in which "auto" asks them.
_BACKENDS: dict[str, Backend] = {b.name: b for b in (TritonBackend(), _DENSE, _EDGES)}


def backends() -> dict[str, Backend]:
    """All backends by name, in the order in which ``"auto"`` asks them."""
    return dict(_BACKENDS)


def check_backend(name: str) -> str:
    """Raise a ValueError unless ``name`` is ``"auto"`` or a backend's name."""
    return check_choice("backend", name, ("auto", *_BACKENDS))


def choose_backend(name: str, inputs: Inputs) -> Backend:
    """The backend ``name``, or for ``"auto"`` the first that can run ``inputs``.

    Where none can, a ValueError lists every backend that was asked, and its reasons.
    """
    if leaves_package():
        return _plain(check_backend(name), inputs)
    automatic, kind = check_backend(name) == "auto", inputs.layout.kind
    refusals = []
    for backend in _BACKENDS.values() if automatic else [_BACKENDS[name]]:
        if kind in backend.layouts:
            reasons = backend.not_automatic_reasons(inputs) if automatic else []
            reasons = reasons or backend.not_supported_reasons(inputs)
        else:
            able = (repr(b.name) for b in _BACKENDS.values() if kind in b.layouts)
            take = " or ".join(able)
            reasons = [f"it does not attend over {kind}, for which take {take}"]
        if not reasons:
            return backend
        refusals.append(f"'{backend.name}': {'; '.join(reasons)}")
    found = f"'backend' is {name!r}, which cannot run these inputs"
    raise BackendError(f"{found}. {' | '.join(refusals)}")


def _plain(name: str, inputs: Inputs) -> Backend:
    """What knows no operator of ours, for what sees none of their derivatives."""
    layout = inputs.layout
    # What a trace made knows no number of pairs, or has tensors for sizes.
    made_inside = isinstance(layout.num_sources, Tensor)
    if layout.kind == "tokens":
        made_inside = layout.num_pairs is None
    if is_jit_tracing() and not made_inside:
        found = f"'layout' is a {type(layout).__name__} made outside of torch.jit.trace"
        mend = "so wrong for other batches: pass the index of the atoms (or edges)."
        raise BackendError(f"{found}, {mend}")
    # Edges and windows are attended over in torch's operations anyway.
    choices = {"tokens": _PLAIN, "windows": _DENSE, "edges": _EDGES}
    backend = choices[layout.kind]
    if name not in ("auto", backend.name):
        who = "torch.jit.trace, ONNX or torch.func inside of torch.compile"
        found = f"{name!r}, whose operators are unknown to {who}"
        raise BackendError(f"'backend' is {found}: pass backend='auto'.")
    return backend
