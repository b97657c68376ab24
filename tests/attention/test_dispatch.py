import pytest
import torch

from pyg_atomenc.attention import TokenLayout, backends, dispatch
from pyg_atomenc.attention.dense.backend import DenseBackend
from pyg_atomenc.attention.inputs import AttentionInputs
from pyg_atomenc.errors import BackendError


class Picky(DenseBackend):
    """Runs nothing, and says why."""

    name = "picky"

    def not_supported_reasons(self, inputs):
        return ["it is Monday", "the atoms are too small"]


@pytest.fixture
def inputs():
    layout = TokenLayout.from_index(torch.tensor([0, 0]))
    q = torch.zeros(2, 1, 3)
    return AttentionInputs(q, q, q, layout)


def test_auto_takes_the_first_that_can(inputs, monkeypatch):
    assert list(backends()) == ["triton", "dense", "edges"]
    assert dispatch.choose_backend("auto", inputs).name == "dense"
    monkeypatch.setattr(dispatch, "_BACKENDS", {"picky": Picky()} | dispatch._BACKENDS)
    assert dispatch.choose_backend("auto", inputs).name == "dense"


def test_a_named_backend_that_cannot_run_lists_its_reasons(inputs, monkeypatch):
    monkeypatch.setattr(dispatch, "_BACKENDS", {"picky": Picky()})
    for name in ("picky", "auto"):
        message = f"'{name}'.* 'picky': it is Monday; the atoms are too small"
        with pytest.raises(BackendError, match=message):
            dispatch.choose_backend(name, inputs)


def test_backends_state_a_tolerance_for_every_type():
    every = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    for name, backend in backends().items():
        missing = {torch.float64} if name == "triton" else set()
        assert set(backend.tolerance) == every - missing


def test_auto_passes_by_what_would_rather_not(inputs, monkeypatch):
    class Slow(DenseBackend):
        name = "slow"

        def not_automatic_reasons(self, inputs):
            return ["it is slow"]

    monkeypatch.setattr(dispatch, "_BACKENDS", {"slow": Slow()} | dispatch._BACKENDS)
    assert dispatch.choose_backend("auto", inputs).name == "dense"
    assert dispatch.choose_backend("slow", inputs).name == "slow"


def test_what_backends_returns_is_a_copy():
    backends().clear()
    assert backends()
