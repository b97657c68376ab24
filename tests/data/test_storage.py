"""What follows ``atom_to_token``, whatever sets it."""

import copy
import pickle

import pytest
import torch
import torch_geometric.transforms as T
from torch._dynamo.testing import CompileCounter
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader, PrefetchLoader
from torch_geometric.transforms.pad import AttrNamePadding

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData
from pyg_atomenc.data import AtomTokenLoader


def graph(num_atoms=4, num_tokens=3, **kwargs):
    index = torch.randint(0, num_tokens, (num_atoms,))
    bonds = torch.tensor([[0, 1], [1, 0]])
    x = torch.randn(num_atoms, 5)
    return AtomTokenData(x, bonds, atom_to_token=index, num_tokens=num_tokens, **kwargs)


def loaded(**kwargs):
    graphs = [graph(), graph(9, 5), graph(4, 3)]
    return next(iter(AtomTokenLoader(graphs, batch_size=3, **kwargs)))


def encode_by_loop(data, encoder):
    """Token by token, each alone."""
    rows = []
    for token in range(int(torch.as_tensor(data.num_tokens).sum())):
        atoms = (data.atom_to_token == token).nonzero().flatten()
        rows.append(encoder(data.x[atoms], torch.zeros_like(atoms), dim_size=1))
    return torch.cat(rows)


def set_index(batch):
    batch.atom_to_token = batch.atom_to_token.flip(0)
    return batch


def set_item(batch):
    batch["atom_to_token"] = batch.atom_to_token.flip(0)
    return batch


def edit_in_place(batch):
    batch.atom_to_token[:3] = 1
    return batch


def edit_a_view(batch):
    batch.atom_to_token.view(-1)[-1] = 8
    return batch


def edit_then_copy(batch):
    return copy.deepcopy(edit_in_place(batch))


def copy_then_edit(batch):
    return edit_in_place(copy.deepcopy(batch))


def edit_then_pickle(batch):
    return pickle.loads(pickle.dumps(edit_in_place(batch)))


def more_tokens(batch):
    batch.num_tokens = batch.num_tokens + 1
    return batch


def more_tokens_in_place(batch):
    batch.num_tokens += 1
    return batch


def update(batch):
    return batch.update({"atom_to_token": batch.atom_to_token.flip(0)})


def delete(batch):
    index = batch.atom_to_token
    del batch.atom_to_token
    assert batch._store.kept_layout() is None
    batch.atom_to_token = index.flip(0)
    return batch


def put_tensor(batch):
    batch.put_tensor(torch.tensor([0, 0]), attr_name="atom_to_token", index=[2, 3])
    return batch


EDITS = {
    "set": set_index,
    "set item": set_item,
    "in place": edit_in_place,
    "a view": edit_a_view,
    "deepcopy after": edit_then_copy,
    "deepcopy before": copy_then_edit,
    "pickle": edit_then_pickle,
    "num_tokens": more_tokens,
    "num_tokens in place": more_tokens_in_place,
    "update": update,
    "delete": delete,
    "put_tensor": put_tensor,
    "apply": lambda batch: batch.apply(lambda x: x.flip(0), "atom_to_token", "x"),
    "apply with tokens": lambda batch: batch.apply(
        lambda x: x.flip(0) if isinstance(x, torch.Tensor) else x, "atom_to_token"
    ),
    "apply_": lambda batch: batch.apply_(lambda x: x[:4].zero_(), "atom_to_token"),
    "subgraph": lambda batch: batch.subgraph(torch.randperm(17)[:9]),
    "permuted": lambda batch: batch.subgraph(torch.randperm(17)),
    "mask": lambda batch: batch.subgraph(torch.rand(17) < 0.5),
    "one graph": lambda batch: batch[1],
    "graphs": lambda batch: Batch.from_data_list(batch[[2, 0]]),
    "batched again": lambda batch: Batch.from_data_list(batch.to_data_list()),
    "sorted": lambda batch: T.Compose([T.RemoveIsolatedNodes()])(batch),
    "from_dict": lambda batch: AtomTokenData.from_dict(batch.to_dict()),
    "drop_empty_tokens": lambda batch: batch.drop_empty_tokens(),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_layout_is_that_of_its_tokens_after_every_edit(name):
    batch = loaded()
    kept = batch.token_layout()
    assert kept is batch.token_layout()
    edited = EDITS[name](batch)
    encoder = AtomAttentionEncoder(5, 4, 2)
    found = encoder(edited.x, edited.token_layout())
    torch.testing.assert_close(found, encode_by_loop(edited, encoder))


MOVES = {
    "to": lambda batch: batch.to("cpu"),
    "to, without waiting": lambda batch: batch.to("cpu", non_blocking=True),
    "cpu": lambda batch: batch.cpu(),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda batch: pickle.loads(pickle.dumps(batch)),
    "detach_": lambda batch: batch.detach_(),
    "share_memory_": lambda batch: batch.share_memory_(),
    "apply of others": lambda batch: batch.apply(lambda x: x * 2, "x"),
    "set another": lambda batch: batch.update({"x": batch.x + 1}),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_layout_moves_along(name):
    batch = loaded()
    kept = batch.token_layout()
    moved = MOVES[name](batch)
    found = moved._store.kept_layout()
    assert found is not None and torch.equal(found.perm, kept.perm)
    assert found.device == moved.atom_to_token.device


# What a layout does not know, it does not survive.
@pytest.mark.parametrize("name", ["clone", "contiguous", "detach"])
def test_a_layout_is_built_anew_after_what_it_does_not_know(name):
    batch = getattr(loaded(), name)()
    assert torch.equal(batch.token_layout().atom_to_token, batch.atom_to_token)


@pytest.mark.parametrize("inference", [False, True])
def test_on_another_device_edits_are_noticed_without_reading_values(inference):
    with torch.inference_mode(inference):
        batch = loaded().to("meta")
        kept = batch.token_layout()
        assert kept.device.type == "meta" and kept.host_ptr.device.type == "cpu"
        assert copy.copy(batch).token_layout() is kept
        batch.atom_to_token[0] = 2
        assert batch._store.kept_layout() is None
        batch = loaded().to("meta")
        batch.num_tokens.add_(1)
        assert batch._store.kept_layout() is None
        batch = loaded().to("meta")
        batch.atom_to_token = batch.atom_to_token.flip(0)
        assert batch._store.kept_layout() is None
        batch = loaded().to("meta")
        EDITS["apply with tokens"](batch)
        assert batch._store.kept_layout() is None
        batch = loaded().to("meta")
        again = pickle.loads(pickle.dumps(batch))
        assert again._store.kept_layout() is None


def test_the_layout_is_no_attribute():
    batch, plain = loaded(), Batch.from_data_list([graph()])
    assert set(batch.keys()) == set(batch.to_dict()) == set(plain.keys())
    assert "ayout" not in str(batch)
    batch.layout = "mine"
    assert batch.layout == "mine" and batch.token_layout().num_tokens == 11


def test_prefetched_batches_carry_their_layout():
    graphs = [graph() for _ in range(4)]
    loader = PrefetchLoader(AtomTokenLoader(graphs, batch_size=2), torch.device("cpu"))
    batches = list(loader)
    assert len(batches) == 2
    assert all(batch._store.kept_layout() is not None for batch in batches)


class Stream:
    """Counts the tensors whose memory it was told of."""

    device = torch.device("cpu")


def test_a_layout_records_its_stream(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, s: seen.append(x))
    batch = loaded()
    layout = batch.token_layout()
    batch.record_stream(Stream())
    for value in (layout.perm, layout.ptr, layout.atom_to_token):
        assert any(value is other for other in seen)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]
)
def test_every_integer_type_becomes_int64(dtype):
    dtype = getattr(torch, dtype)
    count = 120
    index = torch.arange(count).to(dtype)
    edges = torch.stack([torch.arange(count), torch.arange(count)]).to(dtype)
    data = AtomTokenData(
        torch.ones(count, 1), atom_to_token=index, token_edge_index=edges
    )
    data.token_batch = torch.zeros(count, dtype=dtype)
    batch = Batch.from_data_list([data] * 300)
    assert batch.atom_to_token.dtype == batch.token_edge_index.dtype == torch.int64
    assert torch.equal(batch.atom_to_token, torch.arange(300 * count))
    assert torch.equal(batch.token_edge_index[1], torch.arange(300 * count))
    assert batch.token_batch.max() == 299
    assert batch.total_num_tokens == 300 * count
    plain = Data(x=torch.ones(count, 1), atom_to_token=index, num_tokens=count)
    later = AtomTokenData(x=torch.ones(count, 1))
    later.update(plain)
    assert later.atom_to_token.dtype == torch.int64


@pytest.mark.parametrize("key", ["atom_to_token", "token_edge_index", "token_batch"])
@pytest.mark.parametrize("value", [torch.tensor([True]), torch.tensor([0.0]), [0]])
def test_what_is_no_integer_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"'{key}' is of type .*integers"):
        setattr(AtomTokenData(), key, value)
    with pytest.raises(ValueError, match=f"'{key}' "):
        AtomTokenData(**{key: value})
    data = graph()
    with pytest.raises(ValueError, match="'atom_to_token' is of type torch.float32"):
        data.apply(lambda x: x.float())


def padded(data, transform):
    with pytest.warns(UserWarning, match="each gets a token of its own") as caught:
        out = transform(data)
    assert "If they belong to token 0, delete 'atom_to_token'" in str(caught[0].message)
    return out


@pytest.mark.parametrize("as_tensor", [False, True])
def test_padded_atoms_get_tokens_of_their_own(as_tensor):
    data = graph(
        token_y=torch.ones(3), token_x=torch.ones(3, 2), token_name=list("abc")
    )
    if as_tensor:
        (data,) = Batch.from_data_list([data]).to_data_list()
        data.token_name = list("abc")
    data.pair_attr = torch.rand(data.token_layout().num_pairs, 2)
    encoder = AtomAttentionEncoder(5, 4, 2)
    before = encoder(data.x, data.token_layout())
    for out, added in (
        (padded(data, T.VirtualNode()), 1),
        (padded(data, T.Pad(9)), 5),
        (padded(data, T.Pad(9, 30, add_pad_mask=True)), 5),
        (padded(data, T.Pad(9, node_pad_value=AttrNamePadding({"x": -1.0}, 0.5))), 5),
    ):
        assert out.validate()
        assert out.atom_to_token[4:].tolist() == list(range(3, 3 + added))
        assert out.total_num_tokens == 3 + added
        assert out.token_y.tolist() == [1.0] * 3 + [0.0] * added
        assert out.token_x.shape == (3 + added, 2)
        assert out.token_name == list("abc") + [""] * added
        assert torch.equal(out.pair_attr[: len(data.pair_attr)], data.pair_attr)
        assert not out.pair_attr[len(data.pair_attr) :].any()
        after = encoder(out.x, out.token_layout())
        torch.testing.assert_close(after[:3], before)
        batch = Batch.from_data_list([out, out])
        assert batch.validate() and batch.total_num_tokens == 2 * (3 + added)
    assert data.validate() and data.num_nodes == 4


def test_a_token_that_is_asked_for_is_taken():
    data = graph()
    pad = T.Pad(6, node_pad_value=AttrNamePadding({"atom_to_token": 2}))
    assert pad(data).atom_to_token[4:].tolist() == [2, 2]
    with pytest.raises(ValueError, match="negative token id -1"):
        T.Pad(6, node_pad_value=-1)(data).validate()
    with pytest.raises(ValueError, match="holds token id 3"):
        padding = AttrNamePadding({"atom_to_token": 3})
        T.Pad(6, node_pad_value=padding)(data).validate()
    out = T.Pad(6, exclude_keys=["atom_to_token", "num_tokens"])(data)
    assert "atom_to_token" not in out and out.num_nodes == 6
    longer = torch.cat([data.atom_to_token, torch.zeros(2).long()])
    del data.atom_to_token
    data.atom_to_token = longer
    assert torch.equal(data.atom_to_token, longer)


def test_nodes_are_not_added_to_a_batch():
    batch = loaded()
    for transform in (T.VirtualNode(), T.Pad(30)):
        with pytest.raises(ValueError, match="before they are batched"):
            transform(batch)


def test_what_was_made_of_atoms_refuses_other_atoms():
    data = graph(radius_edge_index=torch.tensor([[0, 1], [1, 2]]))
    other = data.atom_to_token.clone()
    with pytest.raises(ValueError, match="'radius_edge_index' was made.*subgraph"):
        data.atom_to_token = other.flip(0).clone()
    with pytest.raises(ValueError, match="'radius_edge_index'"):
        data.atom_to_token = other[:3]
    del data.radius_edge_index
    data.atom_to_token = other
    data.pair_attr = torch.ones(data.token_layout().num_pairs)
    with pytest.raises(ValueError, match="'pair_attr'"):
        data.atom_to_token = (other + 1) % 3
    assert data.validate()
    data.atom_to_token = None
    assert "pair_attr" not in data


def test_graphs_are_concatenated_by_batches():
    (data,) = Batch.from_data_list([graph()]).to_data_list()
    with pytest.raises(ValueError, match="Batch.from_data_list"):
        data.concat(data)
    plain = AtomTokenData(x=torch.ones(2, 1))
    assert plain.concat(plain).x.shape == (4, 1)


def test_layouts_come_out_of_workers():
    # By the other start method: test_atom_token_loader.py.
    graphs = [graph() for _ in range(4)]
    options = {"num_workers": 2, "multiprocessing_context": "fork"}
    for batch in AtomTokenLoader(graphs, batch_size=2, **options):
        kept = batch._store.kept_layout()
        assert torch.equal(kept.atom_to_token, batch.atom_to_token)
    for batch in DataLoader(graphs, batch_size=2, **options):
        assert batch._store.kept_layout() is None


@pytest.mark.parametrize("inference", [False, True])
def test_compiled_steps_take_the_layout_out_of_the_batch(inference):
    torch._dynamo.reset()
    encoder = AtomAttentionEncoder(5, 4, 2)
    counter = CompileCounter()

    def step(batch):
        return encoder(batch.x, batch.token_layout())

    graphs = [graph(n, 3) for n in (4, 6, 5, 9, 7, 8)]
    compiled = torch.compile(step, backend=counter, fullgraph=True, dynamic=True)
    with torch.inference_mode(inference):
        for batch in AtomTokenLoader(graphs, batch_size=2):
            torch.testing.assert_close(compiled(batch), step(batch))
        assert counter.frame_count == 1
        batch.atom_to_token[:2] = 2 - batch.atom_to_token[:2].clamp(max=1)
        with pytest.raises(RuntimeError, match="edited in place"):
            compiled(batch)
    torch._dynamo.reset()


def test_nested_tensors_are_kept():
    nested = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(1, 3)])
    data = AtomTokenData(x=torch.randn(2, 3), xs=nested)
    assert data.xs is nested
