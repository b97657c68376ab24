"""The checks of `check_layer`, each a method whose docstring is its reason."""

import sys
import tempfile
from contextlib import suppress
from copy import deepcopy
from datetime import timedelta
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any, Optional, cast
from unittest import SkipTest

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.export import ShapesCollection
from torch.func import functional_call, jvp
from torch.multiprocessing.spawn import start_processes
from torch.utils import _pytree as pytree
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer
from torch_geometric.nn import Aggregation, Linear, MessagePassing

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.checks import check, check_callable, check_integer, check_type
from pyg_atomenc.errors import AtomEncodingError

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = dict(zip(TYPES, (1e-11, 5e-5, 1e-2, 5e-2), strict=True))
# The atoms of tokens: few, some more with a large or huge token, and two thousand.
FEW, MORE, HUGE = (1, 3, 0, 2, 0), (300, 1, 0, 2, 40), (1, 2, 3, 2048, 0)
MANY = (300, *(1, 7, 0, 12, 24) * 40, 0)
# Counts that no channels have: a trace takes equal sizes for the same one.
TRACED = (3, 2, 0, 4) * 37


def _expect(condition: Any, found: str) -> None:
    if not condition:
        raise AssertionError(found)


def _flat(*trees: Any) -> Tensor:
    """The numbers of some trees as vmap has them: each leaf of all, stacked."""
    leaves = zip(*map(pytree.tree_leaves, trees), strict=True)
    return torch.cat([torch.stack(same).flatten() for same in leaves])


def _layout(index: Tensor, num_tokens: int) -> TokenLayout:
    # Of one graph, so that ids in any order are taken for no mistake.
    return TokenLayout.from_index(index, num_tokens, torch.zeros_like(index))


class _Model(nn.Module):
    """The layer, called in the one way that the checks know."""

    def __init__(self, layer: nn.Module, call: Any) -> None:
        super().__init__()
        self.layer, self.call = deepcopy(layer).float(), call

    def forward(self, x: Tensor, edge_index: Any, layout: Any = None) -> Any:
        # Explainers also pass the edges that they explain.
        layout = edge_index if layout is None else layout
        return (self.call or type(self.layer).__call__)(self.layer, x, layout)


def _train(rank: int, folder: str, model: nn.Module, batches: Any) -> None:
    """One of two processes; in the second step the first one's gradients count."""
    options: Any = {"rank": rank, "world_size": 2, "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", **options)
    parallel = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):
        parallel.zero_grad()
        parallel(*batches[rank]).square().sum().backward()
    found = [p.grad for p in model.parameters() if p.requires_grad]
    torch.save(found, f"{folder}/{rank}")
    # The group's threads may wait for ever if its last owner is the reducer.
    del parallel
    dist.destroy_process_group()


class LayerChecks:
    """A copy of a layer and what is done with it: every public method is a check."""

    def __init__(
        self, layer: nn.Module, in_channels: Optional[int] = None, call: Any = None,
        tolerance: dict[torch.dtype, float] = TOLERANCE,
    ) -> None:  # fmt: skip
        check_type("layer", layer, nn.Module, "pass a torch.nn.Module.")
        check_callable("call", call)
        self.tolerance = check_type("tolerance", tolerance, dict, "pass a dict.")
        channels: Any = in_channels or getattr(layer, "in_channels", None)
        channels = channels[0] if isinstance(channels, tuple) else channels
        self.channels = check_integer("in_channels", 16 if channels == -1 else channels)
        self.model = _Model(layer, call).eval()
        self.device = next(self.model.parameters(), torch.zeros(0)).device
        try:
            out = self.model(*self._batch((2, 0, 3)))
        except Exception as error:
            mend = f"{error!r}; pass a 'call', as check_layer's documentation has it."
            text = f"'layer' cannot be called as layer(x, layout): {mend}"
            raise AtomEncodingError(text) from error
        what, rows = f"a {type(out).__name__}", 0
        if isinstance(out, Tensor) and out.dim() > 0:
            what, rows = f"{len(out)} rows of 5 atoms in 3 tokens", len(out)
        mend = "pass a 'call' that returns the rows, one a token or one an atom."
        check(rows in (3, 5), f"the layer gives {what}: {mend}")
        self.pools = rows == 3
        for parameter in self.model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        named = self.model.named_parameters()
        self.weights = {name: p for name, p in named if p.requires_grad}

    def _batch(self, sizes: Any) -> Any:
        """Random atoms in tokens of these sizes, in no order, and their layout."""
        index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes).long())
        index = index[torch.randperm(len(index))].to(self.device)
        x = torch.randn(len(index), self.channels).to(self.device)
        return x, _layout(index, len(sizes))

    def _rows(self, out: Tensor, layout: TokenLayout, first: int, last: int) -> Tensor:
        """The rows of tokens ``first`` to ``last - 1``, or of their atoms."""
        index = layout.atom_to_token
        return out[first:last] if self.pools else out[(index >= first) & (index < last)]

    def _loss(self, weights: Any, x: Tensor, layout: TokenLayout) -> Tensor:
        return functional_call(self.model, weights, (x, layout)).square().sum()

    def _gradient(self, model: Any, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x.detach().clone().requires_grad_()
        return grad(model(x, layout).square().sum(), x)[0]

    def _close(self, found: Any, expected: Any, what: str, limit: Any = 0) -> None:
        """Whether two differ by less than a share of the largest number, or NaN."""
        limit = limit or self.tolerance.get(found.dtype, TOLERANCE[found.dtype])
        found, expected = found.detach().double(), expected.detach().double()
        limit *= float(expected.abs().max()) if expected.numel() else 0.0
        options: Any = {"rtol": 0, "atol": limit, "msg": lambda text: f"{what}: {text}"}
        torch.testing.assert_close(found, expected, **options)

    def _trained(self) -> dict[str, nn.Parameter]:
        if not self.weights:
            raise SkipTest("the layer has no parameters to train")
        return self.weights

    def permutation(self) -> None:
        """Neither the order in which atoms are stored nor that of token ids counts."""
        for x, layout in map(self._batch, (FEW, MANY)):
            order = torch.randperm(len(x), device=self.device)
            names = torch.randperm(layout.num_tokens, device=self.device)
            index = names[layout.atom_to_token[order]]
            found = self.model(x[order], _layout(index, len(names)))
            found = found[names if self.pools else order.argsort()]
            self._close(found, self.model(x, layout), "rows in another order")

    def batching(self) -> None:
        """Batching is for speed: a graph's rows are those that it has on its own."""
        for x, layout in map(self._batch, (FEW, MANY, HUGE)):
            index, end = layout.atom_to_token, layout.num_tokens
            out = self.model(x, layout)
            for first, last in pairwise((0, 1, 1, 2, end // 2, end - 1, end)):
                here = (index >= first) & (index < last)
                part = _layout(index[here] - first, last - first)
                expected = self._rows(out, layout, first, last)
                self._close(self.model(x[here], part), expected, "rows by batch")

    def isolation(self) -> None:
        """Tokens, and so a batch's graphs, share nothing: no gradient, and no NaN."""
        x, layout = self._batch(MORE)
        out, index = self.model(x.requires_grad_(), layout), layout.atom_to_token
        for token in (0, 1, 3, 4):
            rows = self._rows(out, layout, token, token + 1)
            (found,) = grad(rows, x, torch.randn_like(rows), retain_graph=True)
            _expect(not found[index != token].any(), "gradients of other tokens' atoms")
            _expect(found.any(), "no gradient of a token's own atoms")
        broken = x.detach().masked_fill((index == 0)[:, None], torch.nan)
        found = self._rows(self.model(broken, layout), layout, 1, 5)
        self._close(found, self._rows(out, layout, 1, 5), "rows beside one with NaN")

    def empty_and_huge_tokens(self) -> None:
        """Filters empty tokens, whose rows are zeros; a lipid may have 2,000 atoms."""
        width = self.model(*self._batch(FEW)).shape[1:]
        for sizes in ((0, 2, 0, 3, 0, 0), (0, 300, 0, 0), HUGE, (0, 0, 0), ()):
            x, layout = self._batch(sizes)
            out, found = self.model(x, layout), self._gradient(self.model, x, layout)
            rows = (len(sizes) if self.pools else len(x), *width)
            _expect(out.shape == rows, f"shape {list(out.shape)}, not {list(rows)}")
            _expect(out.isfinite().all() and found.isfinite().all(), "NaN or infinity")
            empty = self.pools and out[layout.sizes == 0].any()
            _expect(not empty, "empty tokens with numbers")

    def large_logits(self) -> None:
        """A softmax subtracts its maximum: logits of hundreds do not overflow."""
        x, layout = self._batch(MORE)
        for by_features, by_weights in ((1000, 1), (1, 20)):
            for parameter in self.model.parameters():
                parameter.data *= by_weights
            found = self._gradient(self.model, by_features * x, layout)
            _expect(found.isfinite().all(), "NaN or infinity")

    def dtypes(self) -> None:
        """Rows have the features' type, near to float64's, and so under autocast."""
        x, layout = self._batch(MORE)
        with torch.autocast(self.device.type, torch.bfloat16):
            out, found = self.model(x, layout), self._gradient(self.model, x, layout)
        self._close(out, self.model(x, layout), "rows under autocast", 0.1)
        _expect(found.isfinite().all(), "NaN in gradients under autocast")
        exact = max(self.tolerance, key=lambda dtype: torch.finfo(dtype).bits)
        for dtype, limit in self.tolerance.items():
            out = self.model.to(dtype)(x := x.to(dtype), layout)
            _expect(out.dtype == dtype, f"{out.dtype} of features of {dtype}")
            expected = self.model.to(exact)(x.to(exact), layout)
            # Projections round as well as attention, whose tolerance it is.
            self._close(out, expected, f"rows in {dtype}", 2 * limit)

    def second_derivative(self) -> None:
        """Forces are gradients, and learnt through theirs: every way gives the same."""
        if torch.float64 not in self.tolerance:
            raise SkipTest("the layer does not take float64")
        (x, layout), _ = self._batch(FEW), self.model.double()

        def function(x: Tensor, *weights: Tensor) -> Any:
            named = dict(zip(self.weights, weights, strict=True))
            return functional_call(self.model, named, (x, layout))

        x = x.double().requires_grad_()
        for run in (gradcheck, gradgradcheck):
            run(function, (x, *self.weights.values()), fast_mode=True)
        loss, along = partial(self._loss, {}, layout=layout), (torch.randn_like(x),)
        gradient, first = torch.func.grad(loss), grad(loss(x), x, create_graph=True)
        self._close(gradient(x), first[0], "gradients by torch.func")
        (expected,) = grad(first, x, along)
        # Some operators of torch have no forward mode.
        with suppress(NotImplementedError):
            found = jvp(gradient, (x,), along)[1]
            self._close(found, expected, "forward over reverse")
            found = torch.func.grad(lambda x: jvp(loss, (x,), along)[1])(x)
            self._close(found, expected, "reverse over forward")

    def vmap(self) -> None:
        """Gradients of every sample, and ensembles of weights, come by torch.vmap."""
        first = {name: weight.detach() for name, weight in self._trained().items()}
        other = {name: 1.1 * weight for name, weight in first.items()}
        both = {name: torch.stack([first[name], other[name]]) for name in first}
        for run in (self._loss, torch.func.grad(self._loss)):
            for x, layout in map(self._batch, (FEW, MORE)):
                one, samples = run(first, x, layout), torch.stack([x, -x])
                found = torch.vmap(run, (None, 0, None))(first, samples, layout)
                self._close(_flat(found), _flat(one, run(first, -x, layout)), "samples")
                found = torch.vmap(run, (0, None, None))(both, x, layout)
                self._close(_flat(found), _flat(one, run(other, x, layout)), "ensemble")

    def vectorised_derivatives(self) -> None:
        """Jacobians and Hessians, as for vibrations, come many rows at a time."""
        options: Any = {"retain_graph": True, "materialize_grads": True}
        for x, layout in map(self._batch, (FEW, MORE)):
            out = self.model(x.requires_grad_(), layout)
            (first,) = grad(out.square().sum(), x, create_graph=True)
            for values in (out, first):
                rows = torch.randn(3, *values.shape, device=self.device)
                (found,) = grad(values, x, rows, is_grads_batched=True, **options)
                each = [grad(values, x, row, **options)[0] for row in rows]
                self._close(found, torch.stack(each), "rows of a Jacobian or Hessian")

    def gradient_of_every_parameter(self) -> None:
        """DistributedDataParallel stops where a parameter's gradient is None."""
        weights = self._trained()
        for sizes in ((1,) * 5, (1,) * 500, FEW, MANY, (0, 0)):
            self.model.zero_grad()
            self.model(*self._batch(sizes)).square().sum().backward()
            missing = [name for name, p in weights.items() if p.grad is None]
            _expect(not missing, f"no gradient of {missing} for {len(sizes)} tokens")

    def compile(self) -> None:
        """torch.compile takes the layer whole, once for batches of every size."""
        torch.compiler.reset()
        options: Any = {"fullgraph": True, "dynamic": True, "backend": "aot_eager"}
        compiled, stance = torch.compile(self.model, **options), "default"
        for x, layout in map(self._batch, (TRACED, (2, 2), FEW, MORE, MANY)):
            with torch.compiler.set_stance(stance):
                found = self._gradient(compiled, x, layout)
            self._close(found, self._gradient(self.model, x, layout), "gradients")
            stance = "fail_on_recompile"

    def export(self) -> None:
        """An exported program serves batches of all sizes, without the layer's code."""
        runs: Any = [(lambda layout: layout, ((2, 2), FEW, MANY))]
        # With a layout at least two tokens: for torch a size is either one or many.
        if isinstance(self.model.layer, Aggregation) and not self.model.call:
            runs += [(lambda layout: layout.atom_to_token, ((2,), (2, 2), MORE))]
        for given, batches in runs:
            x, layout = self._batch(TRACED)
            inputs, shapes = (x, given(layout)), cast(Any, ShapesCollection())
            for tensor in pytree.tree_leaves(inputs):
                shapes[tensor] = {0: torch.export.Dim.AUTO}
            program = torch.export.export(self.model, inputs, dynamic_shapes=shapes)
            for x, layout in map(self._batch, batches):
                found = program.module()(x, given(layout))
                self._close(found, self.model(x, layout), "rows")

    def replaced_projections(self) -> None:
        """Hooks are called, and so is what LoRA and others put in a Linear's place."""
        (x, layout), modules = self._batch(FEW), list(self.model.modules())
        places: Any = [(m, *named) for m in modules for named in m.named_children()
                       if type(named[1]) in (nn.Linear, Linear)]  # fmt: skip
        for parent, name, child in places:
            changed, scale = deepcopy(child), torch.randn_like(child.weight[:, 0])
            for tensor in changed.parameters():
                tensor.data.transpose(0, -1).mul_(scale)
            hook = child.register_forward_hook(lambda *call, by=scale: call[-1] * by)
            setattr(parent, name, changed)
            expected = self.model(x, layout)
            for other in (child, nn.Sequential(child)):
                setattr(parent, name, other)
                self._close(self.model(x, layout), expected, f"rows by {name}")
            hook.remove()

    def explainers(self) -> None:
        """PyG's explainers see atoms, and where there are any, edges and attention."""
        x, layout = self._batch(FEW)
        convs = [m for m in self.model.modules() if isinstance(m, MessagePassing)]
        edges = {"edge_mask_type": "object"} if convs else {}
        runs: Any = [(GNNExplainer(epochs=3), {"node_mask_type": "object", **edges})]
        if any("alpha" in signature(conv.message).parameters for conv in convs):
            runs += [(AttentionExplainer(), edges)]
        config: Any = {"mode": "regression", "task_level": "graph"}
        for by, masks in runs:
            explain = Explainer(self.model, by, "model", model_config=config, **masks)
            found = explain(x, layout.to_edge_index(), layout=layout)
            for mask in (found[name.removesuffix("_type")] for name in masks):
                _expect(mask.isfinite().all() and mask.any(), f"no mask by {by}")

    def ddp(self) -> None:
        """Two processes train as one, even where one of them has single atoms only."""
        weights, batches = self._trained(), [*map(self._batch, (FEW, (1, 1, 1)))]
        # Forked processes know what notebooks define, but cannot use a GPU any more.
        fork = sys.platform == "linux" and not torch.cuda.is_initialized()
        with tempfile.TemporaryDirectory() as folder:
            method, args = "fork" if fork else "spawn", (folder, self.model, batches)
            start_processes(_train, args, nprocs=2, start_method=method)
            found = [torch.load(f"{folder}/{rank}") for rank in range(2)]
        losses = torch.stack([self._loss({}, *batch) for batch in batches])
        expected = grad(losses.mean(), [*weights.values()], materialize_grads=True)
        self._close(_flat(*found), _flat(expected, expected), "gradients")
