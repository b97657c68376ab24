"""`check_layer`: whether a layer over atoms in tokens behaves as those here do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Optional, Union
from unittest import SkipTest

import torch
from torch import Tensor

from pyg_atomenc.checks import check_choice
from pyg_atomenc.testing.layer_checks import TOLERANCE, LayerChecks


@dataclass(frozen=True)
class LayerCheck:
    """One check: ``check(layer, **options)``, with those of :func:`check_layer`.

    An AssertionError tells what fails, ``unittest.SkipTest`` why it does not apply.
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
                found = f"{self.reason}\nFound: {error or type(error).__name__}"
                text = f"{layer} does not pass '{self.name}': {found}"
                raise AssertionError(text) from error

    def __str__(self) -> str:
        return self.name


def layer_checks(skip: Union[str, Iterable[str]] = ()) -> list[LayerCheck]:
    """All checks but those named in ``skip``, to run each as a test of its own.

    Example:
        >>> import pytest
        >>> from pyg_atomenc import TokenAttentionConv
        >>> checks = layer_checks(skip="ddp")
        >>> @pytest.mark.parametrize("check", checks, ids=str)
        ... def test_my_layer(check):
        ...     check(TokenAttentionConv(16, 8))
        >>> test_my_layer(checks[0])
    """
    reasons = {k: m.__doc__ or "" for k, m in vars(LayerChecks).items() if k[0] != "_"}
    names = [skip] if isinstance(skip, str) else skip
    skipped = {check_choice("skip", name, list(reasons)) for name in names}
    return [LayerCheck(*item) for item in reasons.items() if item[0] not in skipped]


def check_layer(
    layer: torch.nn.Module, *, in_channels: Optional[int] = None,
    call: Optional[Callable[..., Tensor]] = None,
    tolerance: dict[torch.dtype, float] = TOLERANCE,
    skip: Union[str, Iterable[str]] = (),
) -> dict[str, str]:  # fmt: skip
    """Check that a layer over atoms in tokens behaves as those of this package do.

    The layer gives a row a token, or a row an atom; which of them, is seen. A copy of
    it is called as ``layer(x, layout)`` in float32, and the parameters are moved off
    their first values; ``layout`` is a :class:`~pyg_atomenc.attention.TokenLayout`.

    Args:
        layer (torch.nn.Module): The layer.
        in_channels (int, optional): Channels of ``x``. (default: the layer's attribute)
        call (Callable, optional): Another way to call the layer, such as ``lambda
            layer, x, layout: layer(x, layout.atom_to_token, layout.num_tokens)``.
        tolerance (dict): The types of numbers that it takes, each with its largest
            relative difference from float64's result. (default: float64 to bfloat16)
        skip (str or Iterable[str]): Checks to leave out. (default: ``()``)

    Returns:
        dict: By the names of checks, ``"passed"``, or why a check does not apply.

    Raises:
        AssertionError: If the layer fails checks: all of them, with what was found.
        ValueError: If it cannot be called so, or there is no check of a name.
    """
    state, failures = {}, []
    for check in layer_checks(skip):
        try:
            check(layer, in_channels=in_channels, call=call, tolerance=tolerance)
            state[check.name] = "passed"
        except SkipTest as reason:
            state[check.name] = str(reason)
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise AssertionError("\n".join(map(str, failures))) from failures[0]
    return state
