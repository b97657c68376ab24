import pytest

from pyg_atomenc.ops.attention import custom_ops


@pytest.fixture(autouse=True)
def operators_alone(monkeypatch):
    """Small inputs go through the operators too, as large ones do."""
    monkeypatch.setattr(custom_ops, "SMALL", -1)
