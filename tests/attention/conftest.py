import pytest

from pyg_atomenc.attention import autograd


@pytest.fixture(autouse=True)
def operators_alone(monkeypatch):
    """Small inputs go through the operators too, as large ones do."""
    monkeypatch.setattr(autograd, "SMALL", -1)
