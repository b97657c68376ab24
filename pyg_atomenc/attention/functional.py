"""The attention functions that layers and users call."""

from typing import Optional

import torch
from torch import Tensor

from pyg_atomenc.attention.autograd import without_autocast
from pyg_atomenc.attention.dispatch import choose_backend
from pyg_atomenc.attention.inputs import AttentionInputs, Bias, EncodeInputs
from pyg_atomenc.attention.layouts.base import Layout
from pyg_atomenc.attention.layouts.token import TokenLayout


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    bias: Optional[Bias] = None,
    *,
    dropout: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    r"""Attention of every target of a layout to its sources.

    .. math::
        o_a = \sum_b \mathrm{softmax}_b(q_a \cdot k_b / \sqrt{d} + \beta_{ab}) \, v_b

    Args:
        query (Tensor): Of the targets ``[N, H, d]``, any floating type; or ``[S, N, H,
            d]`` of samples that share layout and bias: over windows all at once, else
            one after another, and compiled anew for every ``S``.
        key (Tensor): Of the sources ``[M, H, d]`` or ``[S, M, H, d]``, of the same
            type; ``M = N`` but for edges between two kinds of nodes.
        value (Tensor): ``[M, H, D]`` or ``[S, M, H, D]``; ``H`` is 1 where heads share.
        layout (TokenLayout, WindowLayout or EdgeLayout): Which targets attend to which
            sources; a target without any gets zeros.
        bias (Tensor or WindowBias, optional): Added to the logits ``[E, H]``, one row
            an edge of ``layout.to_edge_index()``; any floating type. Of windows it may
            be sorted once for many calls, see
            :class:`~pyg_atomenc.attention.WindowBias`. (default: ``None``)
        dropout (float): Probability to drop an attention weight; pass 0 when not
            training. (default: ``0.0``)
        backend (str): ``"auto"`` or the name of a backend. (default: ``"auto"``)

    Returns:
        Tensor: ``[N, H, D]`` or ``[S, N, H, D]`` in the type of ``value``. Softmax and
        sums are of float32, or float64 for it, and products off the CPU of the inputs'
        type, under autocast, too. Differentiable any number of times.

    Raises:
        ValueError: If shapes, types or devices do not fit, or if the named backend
            cannot run the inputs.
    """
    inputs = AttentionInputs(query, key, value, layout, bias, dropout)
    inputs.validate(dims=(3, 4))
    with without_autocast(query.device):
        chosen = choose_backend(backend, inputs)
        if query.dim() == 3 or layout.kind in chosen.takes_samples:
            return chosen.attention(inputs)
        out = [chosen.attention(sample) for sample in inputs.samples()]
        return torch.stack(out) if out else inputs.nothing()


def attention_pool(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: TokenLayout,
    bias: Optional[Tensor] = None,
    *,
    dropout: float = 0.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""The mean of :func:`attention` over the atoms of every token.

    With :math:`w_b = \frac1n \sum_a \alpha_{ab}`, how much atom :math:`b` counts in
    its token of :math:`n` atoms, the mean is :math:`\sum_b w_b v_b`. Arguments and
    errors are those of :func:`attention`, with ``M = N``, a layout of tokens, and a
    tensor ``[E, H]`` for the bias.

    Returns:
        tuple: The tokens ``[T, H, D]`` in the type of ``value``, zeros for an empty
        token, and the atom weights ``[N, H]`` before dropout, in float32 or float64,
        which sum to 1 in every token that is not empty.
    """
    inputs = AttentionInputs(query, key, value, layout, bias, dropout)
    inputs.validate()
    inputs.tokens()
    return choose_backend(backend, inputs).attention_pool(inputs)


def attention_encode(
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    layout: TokenLayout,
    bias: Optional[Tensor] = None,
    *,
    biases: Optional[tuple[Tensor, Tensor, Tensor]] = None,
    dropout: float = 0.0,
    return_weights: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Atoms to tokens: LayerNorm, projections and :func:`attention_pool` in one.

    With :math:`h = \mathrm{LayerNorm}(x)` (no affine, eps 1e-5), queries are
    :math:`W_q h + b_q`, and so on. A backend may fuse the steps: what ``"dense"``
    computes never holds the queries, keys and values of all atoms.

    Args:
        x (Tensor): Atoms ``[N, C]``, any floating type.
        weights (tuple): :math:`W_q, W_k, W_v`, ``[H, d, C]`` of one floating type.
        layout (TokenLayout): Which atoms form a token.
        bias (Tensor, optional): As for :func:`attention`. (default: ``None``)
        biases (tuple, optional): The :math:`b`, each ``[H, d]``. (default: ``None``)
        dropout (float): As there. (default: ``0.0``)
        return_weights (bool): Whether atom weights are wanted. (default: ``True``)
        backend (str): As there, and so are the errors. (default: ``"auto"``)

    Returns:
        tuple: The tokens ``[T, H, d]`` in the type of ``weights``, under autocast, too,
        and the atom weights ``[N, H]``, as from :func:`attention_pool`; where not
        wanted they may be empty.
    """
    wanted = bool(return_weights)
    inputs = EncodeInputs(x, weights, layout, biases, bias, dropout, wanted)
    inputs.validate()
    with without_autocast(x.device):
        return choose_backend(backend, inputs).encode(inputs)
