"""`MoleculeEncoder`: a whole model, from a graph of atoms to what is predicted."""

import json
import os
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor
from torch.nn import Embedding, LayerNorm, Linear, ModuleList, ReLU, Sequential
from torch_geometric.nn import GINConv, GINEConv, global_add_pool, global_mean_pool

import pyg_atomenc.checks as checks
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import check_graph_type
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.nn.atom_attention_encoder import AtomAttentionEncoder
from pyg_atomenc.nn.projections import reset_children
from pyg_atomenc.nn.token_graph import token_graph
from pyg_atomenc.transforms import AtomFeatures

_READOUTS = {"sum": global_add_pool, "mean": global_mean_pool, "none": None}
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_ADD_FEATURES = "add it by pyg_atomenc.transforms.AtomFeatures()."
_BOND_FEATURES = 5


class MoleculeEncoder(torch.nn.Module):
    """Predicts from graphs of atoms: a model to start from, made of this package.

    Atoms are embedded by their categories and pass messages over bonds (`GINE
    <https://arxiv.org/abs/1905.12265>`_), :class:`~pyg_atomenc.AtomAttentionEncoder`
    makes tokens of them, those pass messages over the bonds between tokens (`GIN
    <https://arxiv.org/abs/1810.00826>`_), and a graph's are pooled. Every convolution
    is added to its input, and comes after a LayerNorm. ``torch.compile`` takes it in
    parts, and ``torch.export`` not at all, as it takes a graph.

    Args:
        out_channels (int): How many numbers are predicted.
        channels (int): Of atoms and tokens; a multiple of ``heads``. (default: ``64``)
        heads (int): Heads of the encoder. (default: ``4``)
        num_atom_convs (int): Convolutions over bonds. (default: ``3``)
        num_token_convs (int): Convolutions over the tokens' graph. (default: ``1``)
        reduce (str): ``"mean"`` or ``"sum"`` of a token's atoms; the mean does not know
            how many there are. (default: ``"sum"``)
        readout (str): ``"sum"`` or ``"mean"`` of a graph's tokens, or ``"none"``, to
            predict for every token. (default: ``"sum"``)
        dropout (float): Probability to drop a feature in training. (default: ``0.0``)
        backend (str): That of the encoder. (default: ``"auto"``)

    Shapes:
        - input: an :class:`~pyg_atomenc.AtomTokenData`, or a batch, with ``x``
          ``[N, 11]`` of :class:`~pyg_atomenc.transforms.AtomFeatures` and its bonds'
          ``edge_attr`` ``[E, 5]``
        - output: graphs ``[G, out_channels]``, or tokens ``[T, out_channels]``; logits
          where it is trained to classify

    Raises:
        ValueError: If a size is not positive, an option unknown, or the data unfit.

    Example:
        >>> from pyg_atomenc.io import from_smiles
        >>> data = AtomFeatures()(from_smiles("CC(=O)Oc1ccccc1"))
        >>> MoleculeEncoder(out_channels=2)(data).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        out_channels: int,
        channels: int = 64,
        heads: int = 4,
        *,
        num_atom_convs: int = 3,
        num_token_convs: int = 1,
        reduce: str = "sum",
        readout: str = "sum",
        dropout: float = 0.0,
        backend: str = "auto",
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        checks.check_sizes(out_channels=out_channels, channels=channels, heads=heads)
        checks.check_heads("channels", channels, heads)
        checks.check_integer("num_atom_convs", num_atom_convs, 0)
        checks.check_integer("num_token_convs", num_token_convs, 0)
        checks.check_choice("readout", readout, list(_READOUTS))
        super().__init__()
        self.config: dict[str, Any] = config
        self.channels = channels
        self.metadata: dict[str, Any] = {}
        self.embeddings = ModuleList(Embedding(n, channels) for n in AtomFeatures.sizes)
        mlps = (_mlp(channels, channels, dropout) for _ in range(num_atom_convs))
        bonded = (GINEConv(mlp, edge_dim=_BOND_FEATURES) for mlp in mlps)
        self.atom_convs: Any = ModuleList(bonded)
        self.encoder = AtomAttentionEncoder(
            channels, channels // heads, heads, reduce=reduce, backend=backend
        )
        mlps = (_mlp(channels, channels, dropout) for _ in range(num_token_convs))
        convs = list(map(GINConv, mlps))
        for conv in convs:
            # PyG's explainers mask bonds, in all layers that do not say no.
            conv.explain = False
        self.token_convs: Any = ModuleList(convs)
        count = num_atom_convs + num_token_convs
        self.norms = ModuleList(LayerNorm(channels) for _ in range(count))
        self.head = _mlp(channels, out_channels, dropout)

    reset_parameters = reset_children

    def embed(self, data: AtomTokenData) -> Tensor:
        """The atoms' first features ``[N, channels]``, of their categories."""
        checks.check_has(check_graph_type(data), _ADD_FEATURES, "x")
        count = len(AtomFeatures.sizes)
        x = checks.check_shape("x", data.x, "N", count, hint=_ADD_FEATURES)
        checks.check_index("x", x.flatten(), _ADD_FEATURES)
        columns = zip(self.embeddings, x.unbind(1), strict=True)
        try:
            return torch.stack([table(column) for table, column in columns]).sum(0)
        except IndexError as error:
            found = "'x' holds other categories than AtomFeatures.sizes counts"
            raise AtomEncodingError(f"{found}: {_ADD_FEATURES}") from error

    def forward(
        self,
        data: AtomTokenData,
        x: Optional[Tensor] = None,
        *,
        return_attention_weights: Optional[bool] = None,
    ) -> Union[Tensor, tuple[Tensor, Tensor]]:
        """Predict; shapes are those of the class.

        Args:
            data (AtomTokenData): A graph, or a batch.
            x (Tensor, optional): Features of the atoms ``[N, channels]`` in place of
                what :meth:`embed` makes. (default: ``None``)
            return_attention_weights (bool, optional): Also give the atoms' weights in
                their tokens ``[N, H]``, as the encoder does.

        Returns:
            Tensor or tuple: ``out``, or ``(out, weights)``.
        """
        x = self.embed(data) if x is None else x
        checks.check_shape("x", x, check_graph_type(data).num_nodes, self.channels)
        hint = "the bond types that readers give"
        checks.check_shape("edge_attr", data.edge_attr, "E", _BOND_FEATURES, hint=hint)
        bonds = data.edge_attr.to(x.dtype)
        norms = iter(self.norms)
        for conv in self.atom_convs:
            x = x + conv(next(norms)(x), data.edge_index, bonds)
        h, weights = self.encoder(x, data.token_layout(), return_attention_weights=True)
        graph = token_graph(data, h)
        for conv in self.token_convs:
            h = h + conv(next(norms)(h), graph.edge_index)
        pool = _READOUTS[self.config["readout"]]
        if pool is not None:
            h = pool(h, graph.batch, getattr(data, "num_graphs", 1))
        out = self.head(h)
        return (out, weights) if return_attention_weights else out

    def save_pretrained(self, folder: Union[str, Path]) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder.

        The latter holds the arguments of this model (``config``; a subclass with others
        puts them there), and ``metadata``, a dictionary of your own of what JSON can
        hold, such as the names of the targets; a ValueError tells what it cannot.
        """
        save = require_package("safetensors.torch", "save_pretrained").save_file
        content = {"model": self.config, "metadata": self.metadata}
        options: Any = {"indent": 2, "allow_nan": False}
        try:
            # What has `item` is a number of NumPy or torch.
            text = json.dumps(content, default=lambda value: value.item(), **options)
        except Exception as error:
            mend = "let it hold what JSON can."
            raise AtomEncodingError(f"'metadata': {error}; {mend}") from error
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Whole or not at all, also where an older model is written over.
        weights = {k: v.contiguous() for k, v in self.state_dict().items()}
        save(weights, folder / f"{_WEIGHTS}.tmp")
        (folder / f"{_CONFIG}.tmp").write_text(text + "\n", "utf-8")
        for name in (_WEIGHTS, _CONFIG):
            os.replace(folder / f"{name}.tmp", folder / name)

    @classmethod
    def from_pretrained(cls, folder: Union[str, Path]) -> "MoleculeEncoder":
        """The model that :meth:`save_pretrained` wrote, on the CPU, to predict with.

        Nothing in the files is executed. A ValueError says what is missing or unfit.
        """
        load = require_package("safetensors.torch", "from_pretrained").load_file
        folder = Path(folder)
        try:
            config = json.loads((folder / _CONFIG).read_text("utf-8"))
            weights = load(folder / _WEIGHTS)
            # In the type that they were saved in.
            model = cls(**config["model"]).to(next(iter(weights.values())).dtype)
            model.load_state_dict(weights)
            model.metadata = config["metadata"]
        except Exception as error:
            why = f"holds no model of save_pretrained ({type(error).__name__}: {error})"
            raise FileFormatError(f"{folder}: {why}. Save it anew.") from error
        return model.eval()


def _mlp(in_channels: int, out_channels: int, dropout: float) -> Sequential:
    dropping = torch.nn.Dropout(checks.check_dropout(dropout))
    hidden = Linear(in_channels, 2 * in_channels)
    return Sequential(hidden, ReLU(), dropping, Linear(2 * in_channels, out_channels))
