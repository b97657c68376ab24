"""The checks of `check_layer`, each a method whose docstring is its reason."""

import copy
import io
import pickle
import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from inspect import signature
from itertools import product
from typing import Any, Optional, cast
from unittest import SkipTest

import torch
from torch import Tensor, nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.export import ShapesCollection
from torch.func import functional_call
from torch.multiprocessing.spawn import start_processes
from torch.utils import _pytree as pytree
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.dense import Linear

from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.checks import check_callable, check_integer, check_type
from pyg_atomenc.errors import AtomEncodingError

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = dict(zip(TYPES, (1e-11, 5e-5, 1e-2, 5e-2), strict=True))
# The atoms of tokens: in all a few, some more with a large token, and two thousand.
FEW = (1, 3, 0, 2, 0)
MORE = (300, 1, 0, 2, 40)
MANY = (300, *(1, 7, 0, 12, 24) * 40, 0)
# Counts that no channels have: a trace takes equal sizes for the same one.
TRACED = (3, 2, 0, 4) * 37


def _expect(condition: Any, found: str) -> None:
    if not condition:
        raise AssertionError(found)


def _perturb(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)


def _flat(*trees: Any) -> Tensor:
    """The numbers of some trees as vmap has them: each leaf of all, stacked."""
    leaves = zip(*map(pytree.tree_leaves, trees), strict=True)
    return torch.cat([torch.stack(same).flatten() for same in leaves])


class _Model(nn.Module):
    """The layer, called in the one way that the checks know."""

    def __init__(self, layer: nn.Module, call: Any, edge_dim: Optional[int]) -> None:
        super().__init__()
        self.layer, self.call, self.edge_dim = layer, call, edge_dim

    def forward(self, x: Tensor, edge_index: Any, layout: Any = None) -> Any:
        # Explainers also pass the edges that they explain.
        layout = edge_index if layout is None else layout
        if self.call is not None:
            return self.call(self.layer, x, layout)
        if self.edge_dim is None:
            return self.layer(x, layout)
        source, target = layout.to_edge_index()
        edge_attr = (x[source, :1] * x[target, :1]).expand(-1, self.edge_dim)
        return self.layer(x, layout, edge_attr=edge_attr)


def _train(rank: int, folder: str, model: nn.Module, batches: Any) -> None:
    """One of two processes; in the second step the first one's gradients count."""
    torch.set_num_threads(1)
    options: Any = {"rank": rank, "world_size": 2, "timeout": timedelta(seconds=60)}
    file = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=file, **options)
    parallel = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):
        parallel.zero_grad()
        parallel(*batches[rank]).square().sum().backward()
    torch.save([p.grad for p in model.parameters()], f"{folder}/{rank}")
    # The group's threads may wait for ever if its last owner is the reducer.
    del parallel
    torch.distributed.destroy_process_group()


class LayerChecks:
    """A copy of a layer and what is done with it: every public method is a check."""

    def __init__(
        self,
        layer: nn.Module,
        in_channels: Optional[int] = None,
        call: Any = None,
        tolerance: Mapping[torch.dtype, float] = TOLERANCE,
    ) -> None:
        check_type("layer", layer, nn.Module, "pass a torch.nn.Module.")
        check_callable("call", call)
        channels: Any = in_channels or getattr(layer, "in_channels", None)
        channels = channels[0] if isinstance(channels, tuple) else channels
        self.channels = check_integer("in_channels", 16 if channels == -1 else channels)
        edge_dim = getattr(layer, "edge_dim", None)
        model = _Model(copy.deepcopy(layer), call, 3 if edge_dim == -1 else edge_dim)
        self.model, self.tolerance = model.float().eval(), tolerance
        self.device = next(model.parameters(), torch.zeros(0)).device
        try:
            rows = len(model(*self._batch((2, 0, 3))))
        except Exception as error:
            raise AtomEncodingError(
                f"'layer' cannot be called as layer(x, layout): {error!r}; pass a "
                f"'call', as the documentation of check_layer has it."
            ) from error
        _expect(rows in (3, 5), f"{rows} rows of 5 atoms in 3 tokens")
        self.pools = rows == 3
        model.apply(_perturb)
        self.weights = {k: p for k, p in model.named_parameters() if p.requires_grad}

    def _batch(self, sizes: Any, dtype: torch.dtype = torch.float32) -> Any:
        """Random atoms in tokens of these sizes, in no order, and their layout."""
        index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes).long())
        index = index[torch.randperm(len(index))].to(self.device)
        x = torch.randn(len(index), self.channels).to(self.device, dtype)
        return x, TokenLayout.from_index(index, len(sizes))

    def _rows(self, out: Tensor, layout: TokenLayout, first: int, last: int) -> Tensor:
        """The rows of tokens ``first`` to ``last - 1``, or of their atoms."""
        index = layout.atom_to_token
        return out[first:last] if self.pools else out[(index >= first) & (index < last)]

    def _close_alone(self, x: Tensor, layout: TokenLayout, *ends: int) -> None:
        """Between two ends, tokens have the rows of a batch of their own."""
        out, index = self.model(x, layout), layout.atom_to_token
        for first, last in zip(ends, ends[1:], strict=False):
            here = (index >= first) & (index < last)
            part = TokenLayout.from_index(index[here] - first, last - first)
            self._close(self.model(x[here], part), self._rows(out, layout, first, last))

    def _loss(self, weights: Any, x: Tensor, layout: TokenLayout) -> Tensor:
        return functional_call(self.model, weights, (x, layout)).square().sum()

    def _gradient(self, model: Any, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x.detach().clone().requires_grad_()
        return grad(model(x, layout).square().sum(), x)[0]

    def _close(self, found: Any, expected: Any, what: str = "", limit: Any = 0) -> None:
        """Whether two differ by less than a share of the largest number, or NaN."""
        limit = limit or self.tolerance.get(found.dtype, 0)
        found, expected = found.detach().double(), expected.detach().double()
        limit *= float(expected.abs().max()) if expected.numel() else 0.0
        what = what or "rows"
        options: Any = {"rtol": 0, "atol": limit, "msg": lambda text: f"{what}: {text}"}
        torch.testing.assert_close(found, expected, **options)

    def _trained(self) -> dict[str, nn.Parameter]:
        if not self.weights:
            raise SkipTest("the layer has no parameters to train")
        return self.weights

    def _linears(self) -> list[tuple[nn.Module, str, Any]]:
        plain, modules = (nn.Linear.forward, Linear.forward), self.model.modules()
        children = [(m, *named) for m in modules for named in m.named_children()]
        found = [place for place in children if type(place[2]).forward in plain]
        if not found:
            raise SkipTest("the layer has no Linear in it")
        return found

    def permutation(self) -> None:
        """Neither the order in which atoms are stored nor that of token ids counts."""
        for x, layout in map(self._batch, (FEW, MANY)):
            out, index = self.model(x, layout), layout.atom_to_token
            order = torch.randperm(len(x), device=self.device)
            names = torch.randperm(layout.num_tokens, device=self.device)
            other = TokenLayout.from_index(index[order], len(names))
            found = self.model(x[order], other)
            self._close(found, out if self.pools else out[order], "rows by atom order")
            found = self.model(x, TokenLayout.from_index(names[index], len(names)))
            self._close(found[names] if self.pools else found, out, "rows by token ids")

    def batching(self) -> None:
        """Batching is for speed: a graph's rows are those that it has on its own."""
        for x, layout in map(self._batch, (FEW, MANY)):
            last = layout.num_tokens
            self._close_alone(x, layout, 0, 1, 1, 2, last // 2, last - 1, last)

    def huge_token(self) -> None:
        """A ligand or lipid of 2,000 atoms beside small ones fits, and is exact."""
        x, layout = self._batch((1, 2048, 2, 0, 3))
        self._close_alone(x, layout, 0, 1, 2, 3, 5)
        _expect(self._gradient(self.model, x, layout).isfinite().all(), "NaN gradients")

    def isolation(self) -> None:
        """Tokens, and so a batch's graphs, share nothing: no gradient, and no NaN."""
        x, layout = self._batch(MORE)
        out, index = self.model(x.requires_grad_(), layout), layout.atom_to_token
        for token in (0, 1, 3, 4):
            rows = self._rows(out, layout, token, token + 1)
            loss = (rows * torch.randn_like(rows)).sum()
            (found,) = grad(loss, x, retain_graph=True)
            _expect(not found[index != token].any(), "gradients of other tokens' atoms")
            _expect(found[index == token].any(), "no gradient of a token's own atoms")
        broken = x.detach().masked_fill((index == 0)[:, None], torch.nan)
        found = self._rows(self.model(broken, layout), layout, 1, 5)
        self._close(found, self._rows(out, layout, 1, 5), "rows beside one with NaN")

    def empty_tokens(self) -> None:
        """Filters leave tokens without atoms, or nothing: such rows are zeros."""
        width = self.model(*self._batch(FEW)).shape[1:]
        for sizes in ((0, 2, 0, 3, 0, 0), (0, 300, 0, 0), (0, 0, 0), ()):
            x, layout = self._batch(sizes)
            out, found = self.model(x, layout), self._gradient(self.model, x, layout)
            rows = (len(sizes) if self.pools else len(x), *width)
            _expect(out.shape == rows, f"shape {list(out.shape)}, not {list(rows)}")
            _expect(out.isfinite().all() and found.isfinite().all(), "NaN or infinity")
            if self.pools:
                _expect(not out[layout.sizes == 0].any(), "empty tokens with numbers")

    def dtypes(self) -> None:
        """Rows have the features' type, near to float64's, and so under autocast."""
        x, layout = self._batch(MORE)
        expected = self.model(x.requires_grad_(), layout)
        with torch.autocast(self.device.type, torch.bfloat16):
            out = self.model(x, layout)
        self._close(out, expected, "rows under autocast", 0.1)
        _expect(grad(out.float().sum(), x)[0].isfinite().all(), "NaN in gradients")
        exact = max(self.tolerance, key=lambda dtype: torch.finfo(dtype).bits)
        for dtype, limit in self.tolerance.items():
            x = x.detach().to(dtype)
            out = self.model.to(dtype)(x, layout)
            _expect(out.dtype == dtype, f"{out.dtype} of features of {dtype}")
            expected = self.model.to(exact)(x.to(exact), layout)
            self._close(out, expected, f"rows in {dtype}", limit)

    def second_derivative(self) -> None:
        """Forces are gradients, and learnt through theirs: both equal differences."""
        if torch.float64 not in self.tolerance:
            raise SkipTest("the layer does not take float64")
        x, layout = self._batch(FEW, torch.float64)
        self.model.double()

        def function(x: Tensor, *weights: Tensor) -> Any:
            named = dict(zip(self.weights, weights, strict=True))
            return functional_call(self.model, named, (x, layout))

        inputs = [t.detach().requires_grad_() for t in (x, *self.weights.values())]
        gradcheck(function, inputs, fast_mode=True)
        gradgradcheck(function, inputs, fast_mode=True)

    def functional_derivatives(self) -> None:
        """Those of torch.func, tangents included, are the ones that backward gives."""
        for x, layout in map(self._batch, (FEW, MANY)):
            loss = partial(self._loss, {}, layout=layout)
            expected = self._gradient(self.model, x, layout)
            self._close(torch.func.grad(loss)(x), expected, "gradients")
            found = torch.func.jvp(loss, (x,), (expected,))[1]
            self._close(found, expected.square().sum(), "a tangent")
        x, layout = self._batch((1, 2))
        loss = partial(self._loss, {}, layout=layout)
        expected = torch.autograd.functional.hessian(loss, x)
        self._close(torch.func.hessian(loss)(x), expected, "a Hessian")

    def vmap(self) -> None:
        """Samples, ensembles of weights, and gradients of each come by torch.vmap."""
        first = {name: weight.detach() for name, weight in self._trained().items()}
        other = {name: 1.1 * weight for name, weight in first.items()}
        both = {name: torch.stack([first[name], other[name]]) for name in first}
        runs = {"losses": self._loss, "gradients": torch.func.grad(self._loss)}
        for (x, layout), name in product(map(self._batch, (FEW, MORE)), runs):
            run, xs = runs[name], torch.stack([x, torch.randn_like(x)])
            found = torch.vmap(run, in_dims=(None, 0, None))(first, xs, layout)
            expected = _flat(*(run(first, x, layout) for x in xs))
            self._close(_flat(found).view(-1), expected, f"{name} of samples")
            found = torch.vmap(run, in_dims=(0, None, None))(both, x, layout)
            expected = _flat(run(first, x, layout), run(other, x, layout))
            self._close(_flat(found).view(-1), expected, f"{name} of an ensemble")

    def vectorised_derivatives(self) -> None:
        """Jacobians and Hessians, as for vibrations, come many rows at a time."""
        options: Any = {"retain_graph": True, "materialize_grads": True}
        for x, layout in map(self._batch, (FEW, MORE)):
            out = self.model(x.requires_grad_(), layout)
            first = grad(out.square().sum(), x, create_graph=True)[0]
            for name, values in (("Jacobian", out), ("Hessian", first)):
                rows = torch.randn(3, *values.shape, device=self.device)
                (found,) = grad(values, x, rows, is_grads_batched=True, **options)
                each = [grad(values, x, row, **options)[0] for row in rows]
                self._close(found, torch.stack(each), f"rows of a {name}")

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
        inputs, shapes = self._batch(TRACED), cast(Any, ShapesCollection())
        for tensor in pytree.tree_leaves(inputs):
            shapes[tensor] = {0: torch.export.Dim.AUTO}
        program = torch.export.export(self.model, inputs, dynamic_shapes=shapes)
        for x, layout in map(self._batch, ((2, 2), FEW, MANY)):
            self._close(program.module()(x, layout), self.model(x, layout))

    def copies(self) -> None:
        """Averaging copies layers, processes pickle them, weights travel alone."""
        (x, layout), file = self._batch(FEW), io.BytesIO()
        expected, layer = self.model(x, layout), self.model.layer
        copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
        for self.model.layer in copies:
            self._close(self.model(x, layout), expected, "rows of a copy")
        torch.save(self.model.state_dict(), file)
        self.model.apply(_perturb)(x, layout)
        file.seek(0)
        self.model.load_state_dict(torch.load(file, weights_only=True))
        self._close(self.model(x, layout), expected, "rows with loaded weights")

    def repeats(self) -> None:
        """Rows depend on the batch's numbers alone; in training also on the seed."""
        x, layout = self._batch(FEW)
        before, wide = x.clone(), torch.stack([x, x], -1)[:, :, 0]
        with torch.inference_mode():
            expected = self.model(x, layout)
            self.model(*self._batch((3, 1, 0, 1, 1)))
        for view in (wide, x.t().contiguous().t(), x.requires_grad_()):
            found = self.model(view, layout)
            self._close(found, expected, "rows of a view, or after another batch")
        _expect(grad(found.square().sum(), x)[0].any(), "no gradient")
        _expect(torch.equal(x, before), "features that were written to")
        torch.manual_seed(1)
        first = self.model.train()(x, layout)
        torch.manual_seed(1)
        self._close(self.model(x, layout), first, "rows of the same seed in training")

    def meta_device(self) -> None:
        """Shapes are known without numbers: sizes and memory can be planned ahead."""
        x, layout = self._batch(FEW)
        shape = self.model(x, layout).shape
        out = self.model.to("meta")(x.to("meta"), layout.to("meta"))
        _expect(out.is_meta and out.shape == shape, f"{out.device}, {list(out.shape)}")

    def replaced_projections(self) -> None:
        """LoRA, quantisation and others put modules of theirs in a Linear's place."""
        (x, layout), other = self._batch(FEW), copy.deepcopy(self)
        for place, (*_, twin) in zip(self._linears(), other._linears(), strict=True):
            (parent, name, child), (rows, columns) = place, twin.weight.shape
            plain = nn.Linear(columns, rows, child.bias is not None)
            plain.load_state_dict(child.state_dict())
            last = nn.Linear(rows, rows, False)
            setattr(parent, name, nn.Sequential(plain, last).to(self.device))
            for tensor in twin.parameters():
                tensor.data = last.weight.data @ tensor.data
            expected = other.model(x, layout)
            self._close(self.model(x, layout), expected, f"rows with another {name}")

    def hooks(self) -> None:
        """Profilers, pruning and interpretation see projections through their hooks."""
        linears, seen = {child for *_, child in self._linears()}, set[Any]()
        on_all = nn.modules.module.register_module_forward_hook
        for places in [linear.register_forward_hook for linear in linears], [on_all]:
            handles = [place(lambda module, *_: seen.add(module)) for place in places]
            self.model(*self._batch(FEW))
            for handle in handles:
                handle.remove()
            _expect(linears <= seen, f"hooks not called: {linears - seen}")
            seen.clear()

    def explainers(self) -> None:
        """PyG's explainers see atoms, and where there are any, edges and attention."""
        x, layout = self._batch(FEW)
        convs = [m for m in self.model.modules() if isinstance(m, MessagePassing)]
        edges = {"edge_mask": "object"} if convs else {}
        runs: Any = [(GNNExplainer(epochs=3), {"node_mask": "object", **edges})]
        if any("alpha" in signature(conv.message).parameters for conv in convs):
            runs.append((AttentionExplainer(), edges))
        for algorithm, masks in runs:
            options: Any = {f"{name}_type": kind for name, kind in masks.items()}
            options["model_config"] = {"mode": "regression", "task_level": "graph"}
            explain = Explainer(self.model, algorithm, "model", **options)
            found = explain(x, layout.to_edge_index(), layout=layout)
            for name in masks:
                seen = found[name].isfinite().all() and found[name].any()
                _expect(seen, f"no {name} by {type(algorithm).__name__}")

    def ddp(self) -> None:
        """Two processes train as one, even where one of them has single atoms only."""
        weights = list(self._trained().values())
        batches = [self._batch((3, 1, 0, 2)), self._batch((1, 1, 1))]
        # Forked processes know what notebooks define, but cannot use a GPU any more.
        fork = sys.platform == "linux" and not torch.cuda.is_initialized()
        with tempfile.TemporaryDirectory() as folder:
            method, args = "fork" if fork else "spawn", (folder, self.model, batches)
            start_processes(_train, args, nprocs=2, start_method=method)
            found = [torch.load(f"{folder}/{rank}") for rank in range(2)]
        mean = (self._loss({}, *batches[0]) + self._loss({}, *batches[1])) / 2
        expected = grad(mean, weights, materialize_grads=True)
        self._close(_flat(*found), _flat(expected, expected), "gradients")
