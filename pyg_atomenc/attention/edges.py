r"""The definition: message passing over the edges inside tokens.

.. math::
    \alpha_{ab} = \frac{\exp(q_a \cdot k_b / \sqrt{d} + \beta_{ab})}
        {\sum_{c} \exp(q_a \cdot k_c / \sqrt{d} + \beta_{ac})}, \qquad
    o_a = \sum_b \alpha_{ab} v_b

over all atoms :math:`b, c` of the token of :math:`a`. Every other backend must equal
what this file computes.
"""

from importlib.util import find_spec
from typing import Any, Optional, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing, global_mean_pool
from torch_geometric.utils import scatter
from torch_geometric.utils.num_nodes import maybe_num_nodes

from pyg_atomenc.attention.backend import Backend
from pyg_atomenc.attention.exact import carries_tangents, inverse_root
from pyg_atomenc.attention.inputs import AttentionInputs, Inputs, accumulate_dtype
from pyg_atomenc.attention.layouts.window import WindowBias, WindowLayout
from pyg_atomenc.attention.tracing import draw, is_tracing
from pyg_atomenc.checks import check_rows
from pyg_atomenc.errors import require_package

HAS_TORCH_SCATTER = find_spec("torch_scatter") is not None


def _maximum(logits: Tensor, index: Tensor, size: int) -> Tensor:
    """The largest logit of every target ``[size, H]``, of numbers without gradients.

    torch_scatter's operator takes plain numbers alone: it has neither fake kernels nor
    rules for transforms or tangents.
    """
    taken = HAS_TORCH_SCATTER and type(logits) is Tensor
    taken = taken and logits.device.type in ("cpu", "cuda")
    if not taken or is_tracing() or carries_tangents():
        return scatter(logits, index, 0, size, "max")
    torch_scatter = require_package("torch_scatter", "the edges backend")
    top, place = torch_scatter.scatter_max(logits, index, 0, dim_size=size)
    # It misses the lowest number, which biases have for "closed".
    return top.masked_fill(place == index.numel(), torch.finfo(top.dtype).min)


def edge_weights(
    query: Tensor, key: Tensor, bias: Optional[Tensor], target: Tensor, size: int
) -> Tensor:
    """The attention weights ``[E, H]`` of edges to ``size`` targets.

    Queries and keys are those of every edge, ``[E, H, d]``, in accumulation type.
    """
    logits = (query * key).sum(-1) * inverse_root(query)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    # A constant shift changes no softmax, so no gradient has to go through it.
    top = _maximum(logits.detach(), target, size)
    exponent = (logits - top.index_select(0, target)).exp()
    total = scatter(exponent, target, 0, size, "sum")
    return exponent / total.index_select(0, target)


class EdgeAttention(MessagePassing):
    """Multi-head dot-product attention of target nodes over their incoming edges.

    It has no parameters, and is a base class: PyG replaces ``propagate`` in a class
    when it is first instantiated, and what derives from it afterwards could no longer
    be explained. With torch_scatter installed, the softmax takes its maximum;
    else PyG's own. Both give the same result.

    Shapes:
        ``query`` ``[N_target, H, d]``, ``key`` ``[N_source, H, d]``, ``value``
        ``[N_source, H or 1, D]``, ``bias`` ``[E, H]``; the output is
        ``[N_target, H, D]``, in float32, or float64 for float64 inputs.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("aggr", "add")
        super().__init__(node_dim=0, **kwargs)

    def attend(
        self,
        edge_index: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Optional[Tensor] = None,
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Attend over edges; gives the outputs and the weights ``[E, H]``."""
        if bias is not None:
            # One row would serve all edges without a word.
            check_rows("bias", bias, edge_index.size(1), "edges")
            bias = bias.contiguous()
        size = (key.size(0), query.size(0))
        size = size if self.flow == "source_to_target" else size[::-1]
        # Before they are gathered, so that gradients are summed in that type, too.
        dtype = accumulate_dtype(query.dtype)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        alpha = self.edge_updater(
            edge_index, query=query, key=key, bias=bias, size=size
        )
        # The weights handed out sum to 1; dropout acts on the messages alone.
        dropped = draw(lambda: F.dropout(alpha, dropout)) if dropout > 0 else alpha
        out = self.propagate(edge_index, value=value, alpha=dropped, size=size)
        return out, alpha

    def edge_update(
        self,
        query_i: Tensor,
        key_j: Tensor,
        bias: Optional[Tensor],
        index: Tensor,
        ptr: Optional[Tensor],
        size_i: Optional[int],
    ) -> Tensor:
        """The attention weights ``[E, H]`` of every edge."""
        return edge_weights(query_i, key_j, bias, index, maybe_num_nodes(index, size_i))

    def message(self, value_j: Tensor, alpha: Tensor) -> Tensor:
        """The weighted values ``[E, H, D]``."""
        return alpha.unsqueeze(-1) * value_j

    def aggregate(
        self,
        inputs: Tensor,
        index: Tensor,
        ptr: Optional[Tensor] = None,
        dim_size: Optional[int] = None,
    ) -> Tensor:
        """Sum the messages of every target."""
        if self.aggr == "add":
            # Never by `ptr`: torch_scatter's segments have wrong second derivatives.
            return scatter(inputs, index, 0, dim_size, "sum")
        return super().aggregate(inputs, index, ptr=ptr, dim_size=dim_size)


class _LayoutMessages(EdgeAttention):
    """Attention over the edges of a layout."""


# One for all calls: it holds no state, and is part of no user's model, where an
# explainer would take its edges for the model's.
_MESSAGES = _LayoutMessages()


class EdgesBackend(Backend):
    """PyG message passing over the edge list, pooled by ``global_mean_pool``."""

    name = "edges"
    layouts = ("tokens", "windows", "edges")

    def not_supported_reasons(self, inputs: Inputs) -> list[str]:
        """It runs everywhere, but the number of edges must be known to a trace."""
        if torch.compiler.is_compiling() and inputs.layout.num_pairs is None:
            why = "the number of edges depends on the token sizes, unknown to a trace"
            return [f"{why}; use 'dense', or compile with a TokenLayout"]
        return []

    def attention(self, inputs: AttentionInputs) -> Tensor:
        """See :meth:`Backend.attention`."""
        return self._attend(inputs)[0].to(inputs.value.dtype)

    def attention_pool(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
        """See :meth:`Backend.attention_pool`."""
        layout = inputs.tokens()
        out, alpha, edge_index = self._attend(inputs)
        index, num_tokens = layout.atom_to_token, layout.num_tokens
        tokens = global_mean_pool(out.flatten(1), index, size=num_tokens)
        tokens = tokens.view(num_tokens, *out.shape[1:]).to(inputs.value.dtype)
        # How much atom b counts in its token: the mean of alpha_ab over the atoms a.
        received = scatter(alpha, edge_index[0], 0, layout.num_atoms, "sum")
        size = layout.sizes.index_select(0, index).unsqueeze(-1)
        return tokens, received / size.to(received.dtype)

    def _attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor, Tensor]:
        layout, bias = inputs.layout, inputs.bias
        if isinstance(bias, WindowBias):
            bias = bias.to_edges(cast(WindowLayout, layout))
        edges, (query, key, value, _) = layout.to_edge_index(), inputs.tensors()
        return *_MESSAGES.attend(edges, query, key, value, bias, inputs.dropout), edges
