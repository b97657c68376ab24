"""Ways to ask a `MoleculeEncoder` for reasons; `explain_molecule.py` uses them all."""

import structure_tools
import torch
from torch import nn
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.utils import coalesce, to_dense_adj

from pyg_atomenc import TokenAttentionConv
from pyg_atomenc.errors import MissingPackageError, require_package
from pyg_atomenc.io import from_structure
from pyg_atomenc.tokenizers import Residue
from pyg_atomenc.transforms import AtomFeatures

# Of the change, or of the largest attribution where they cancel out.
TOLERANCE = 0.01


def targets_of(metadata):
    """The names of what a model predicts, as `train_*.py` note them."""
    one = [metadata.get("target", "prediction")]
    return metadata.get("targets") or metadata.get("classes") or one


class Explained(nn.Module):
    """One target of a model for one graph, as explainers call it.

    In the target's unit it is `mean + std * explained(x)`; a classifier gives logits.
    """

    def __init__(self, model, data, target=0):
        super().__init__()
        self.model, self.data, self.target = model, data, target
        metadata = {"mean": 0.0, "std": 1.0, **model.metadata}
        self.mean, self.std = (
            metadata[name][target]
            if isinstance(metadata[name], list)
            else metadata[name]
            for name in ("mean", "std")
        )
        self.classes = metadata.get("classes")
        self.classifies = self.classes or metadata.get("task") == "classification"
        self.predicted = self.added_up = ""
        if self.classifies:
            self.mean, self.std = 0.0, 1.0
            self.predicted, self.added_up = "the probability of ", "the logit of "
        # Explainers mask bonds, and these pass messages along other edges.
        for conv in model.token_convs:
            conv.explain = False

    def forward(self, x, edge_index=None):
        """Features of atoms [N, C] → [1, 1], or [T, 1]; the edges are the data's."""
        return self.model(self.data, x)[:, [self.target]]

    @torch.no_grad()
    def predict(self, x):
        """In the target's unit, or its probability, [1] or [T]."""
        out = self.model(self.data, x)
        if self.classifies:
            out = out.softmax(dim=1) if self.classes else out.sigmoid()
        return self.mean + self.std * out[:, self.target]


def read_structure(path, metadata):
    """A structure with features as the model learnt them, and its residues' [T] use.

    Models of `train_structures.py` predict for the kinds of residues that had labels.
    """
    if "cutoff" not in metadata:
        data = AtomFeatures()(from_structure(path, Residue()))
        return data, torch.ones(data.num_tokens, dtype=torch.bool)
    data = from_structure(path, Residue(), **structure_tools.READING)
    kinds = torch.tensor(metadata["kinds"])
    used = torch.isin(data.token_entity_kind, kinds)
    if not used.any():
        raise ValueError(f"{path}: has no residue of a kind that the model learnt")
    return structure_tools.features(metadata["cutoff"])(data), used


@torch.no_grad()
def attention_of_token(model, data, token):
    """A token's atoms [n], and the weight of atom b for atom a, [n, n, H].

    Rows sum to 1; the mean of a column is that atom's weight as the encoder gives it.
    """
    encoder, calls = model.encoder, []
    with encoder.register_forward_pre_hook(lambda _, inputs: calls.append(inputs)):
        model(data)
    x, layout = calls[0]
    # The same projections as a convolution, which hands out the weights of all pairs.
    conv = TokenAttentionConv(encoder.in_channels, encoder.out_channels, encoder.heads)
    conv.load_state_dict(encoder.state_dict())
    h = nn.functional.layer_norm(x, x.shape[1:])
    _, (_, alpha) = conv(h, layout, return_attention_weights=True)
    # From atom b to atom a.
    pairs = layout.to_edge_index()
    inside = data.atom_to_token[pairs[0]] == token
    atoms, edges = pairs[:, inside].unique(return_inverse=True)
    return atoms, to_dense_adj(edges.flip(0), edge_attr=alpha[inside])[0]


def draw_attention(alpha, names, path):
    """Draw the [n, n, H] of `attention_of_token`, a heat map for every head."""
    Figure = require_package("matplotlib.figure", "draw_attention").Figure
    count, limits = alpha.size(2), {"vmin": 0.0, "vmax": alpha.max().item()}
    size = 1.5 + 0.25 * len(names)
    figure = Figure(figsize=(size * count, size + 0.3), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for head, axis in enumerate(axes):
        image = axis.imshow(alpha[:, :, head].numpy(), "Blues", **limits)
        axis.set(title=f"head {head}", xlabel="atom b")
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
    axes[0].set_ylabel("atom a attends to b")
    figure.colorbar(image, ax=axes)
    figure.savefig(path)


def gnn_explainer(explained, x, runs=5):
    """PyG's GNNExplainer: how much of atoms and bonds a prediction needs, 0 to 1.

    The mean of some runs, as each ends elsewhere. Gives a number an atom [N], and bonds
    [2, B] with theirs [B], the mean of both directions.
    """
    edge_index = explained.data.edge_index
    with_bonds = edge_index.numel() and len(explained.model.atom_convs)
    explainer = Explainer(
        explained,
        # By default a small graph's atoms cost more than the prediction is worth.
        GNNExplainer(epochs=100, lr=0.1, node_feat_size=0.1),
        explanation_type="model",
        node_mask_type="object",
        edge_mask_type="object" if with_bonds else None,
        model_config=dict(mode="regression", task_level="graph", return_type="raw"),
    )
    found = [explainer(x, edge_index) for _ in range(runs)]
    atoms = torch.stack([one.node_mask.flatten() for one in found]).mean(dim=0)
    each = [one.get("edge_mask", x.new_zeros(edge_index.size(1))) for one in found]
    mask = torch.stack(each).mean(dim=0)
    return atoms, *coalesce(edge_index.sort(dim=0).values, mask, reduce="mean")


def integrated_gradients(explained, x, steps=50):
    """Captum's integrated gradients: what each atom adds to a prediction [N], in units.

    From a baseline where every atom is the mean of the molecule's: zeros would be far
    from any atom, and LayerNorm makes a jump of what is near them. Of tokens'
    predictions the sum is explained. Gives beside the attributions what they have to
    sum to, the prediction minus that of the baseline.
    """
    attr = require_package("captum.attr", "integrated gradients")
    baseline = x.mean(dim=0, keepdim=True).expand_as(x)
    # Captum's first dimension is that of examples; a graph is one.
    method = attr.IntegratedGradients(lambda x: explained(x[0]).sum().view(1))
    options = {"n_steps": steps, "internal_batch_size": 1}
    found = method.attribute(x[None], baseline[None], **options)
    with torch.no_grad():
        change = explained(x).sum() - explained(baseline).sum()
    return explained.std * found[0].sum(dim=1), explained.std * change.item()


def attributions(explained, x, steps):
    """Integrated gradients [N], checked, or None where captum is not installed."""
    try:
        atoms, change = integrated_gradients(explained, x, steps)
    except MissingPackageError as error:
        print(f"skipped: {error}")
        return None
    total = atoms.sum().item()
    gap = abs(total - change) / max(abs(change), atoms.abs().max().item(), 1e-6)
    verdict = "complete" if gap < TOLERANCE else "NOT complete, raise --steps"
    print(f"attributions sum to {total:.4f}, of a change of {change:.4f}: {verdict}")
    return atoms
