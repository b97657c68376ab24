"""`check_layer`: whether a layer over atoms in tokens behaves as those here do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

import torch

from pyg_atomenc.checks import check_choice
from pyg_atomenc.testing.layer_checks import LayerChecks


@dataclass(frozen=True)
class LayerCheck:
    """One check: ``check(layer, **options)``, with those of :func:`check_layer`.

    It raises an AssertionError where the layer does not pass, and where the check does
    not apply ``unittest.SkipTest``, which pytest counts as skipped.

    Attributes:
        name (str): Its name, by which it can be left out.
        reason (str): Why it matters, in one line.
    """

    name: str
    reason: str

    def __call__(self, layer: torch.nn.Module, **options: Any) -> None:
        """Check a copy of the layer, always with the same random numbers."""
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(0)
            checks = LayerChecks(layer, **options)
            try:
                getattr(checks, self.name)()
            except SkipTest:
                raise
            except Exception as error:
                raise AssertionError(
                    f"{layer} does not pass '{self.name}': {self.reason}\n"
                    f"Found: {error or type(error).__name__}"
                ) from error

    def __str__(self) -> str:
        return self.name


def layer_checks(skip: Iterable[str] = ()) -> list[LayerCheck]:
    """All checks but those named in ``skip``, to run each as a test of its own.

    Raises:
        ValueError: If there is no check of a name.

    Example:
        >>> import pytest
        >>> @pytest.mark.parametrize("check", layer_checks(), ids=str)
        ... def test_my_layer(check):
        ...     check(MyLayer(16), in_channels=16)
    """
    reasons = {
        name: method.__doc__ or ""
        for name, method in vars(LayerChecks).items()
        if not name.startswith("_") and callable(method)
    }
    skipped = {check_choice("skip", name, list(reasons)) for name in skip}
    return [LayerCheck(*item) for item in reasons.items() if item[0] not in skipped]


def check_layer(
    layer: torch.nn.Module, *, skip: Iterable[str] = (), **options: Any
) -> dict[str, str]:
    """Check that a layer over atoms in tokens behaves as those of this package do.

    The layer gives a row a token, or a row an atom; which of them, is seen. A copy of
    it is called as ``layer(x, layout)`` in float32, and the parameters are moved off
    their first values; ``layout`` is a :class:`~pyg_atomenc.attention.TokenLayout`.

    Args:
        layer (torch.nn.Module): The layer.
        skip (Iterable[str]): Names of checks to leave out. (default: ``()``)
        **options: ``in_channels``, where the layer has no such attribute; ``call``,
            where it is called in another way: ``call=lambda layer, x, layout: layer(x,
            layout.atom_to_token, layout.num_tokens)``; ``tolerance``, the types of
            numbers that it takes, each with its largest relative difference from
            float64's result: ``{torch.float32: 1e-5}``. A layer with an ``edge_dim``
            also gets ``edge_attr``, in the order of ``layout.to_edge_index()``.

    Returns:
        dict: By the names of checks, ``"passed"``, or why a check does not apply.

    Raises:
        AssertionError: If the layer does not pass; the message has every check that
            it does not, with its reason and what was found.
        ValueError: If the layer cannot be called, or there is no check of a name.
    """
    state, failures = {}, []
    for check in layer_checks(skip):
        try:
            check(layer, **options)
            state[check.name] = "passed"
        except SkipTest as reason:
            state[check.name] = str(reason)
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise AssertionError("\n".join(map(str, failures))) from failures[0]
    return state
