import os
import pickle
import sys
import types
import zipfile

import pytest
import torch

from pyg_atomenc.checkpoints.tensor_file import read_tensors


def test_reads_a_file_with_foreign_classes_that_are_not_installed(tmp_path):
    # What omegaconf leaves in the hyper-parameters of a Lightning checkpoint.
    module = types.ModuleType("omegaconf_made_up")

    class DictConfig(dict):
        def __init__(self, **values):
            super().__init__(values)
            self.parent = None

    class Node:
        def __init__(self):
            self.value = torch.nn.Linear(2, 2)

    for kind in (DictConfig, Node):
        kind.__module__, kind.__qualname__ = "omegaconf_made_up", kind.__name__
        setattr(module, kind.__name__, kind)
    sys.modules["omegaconf_made_up"] = module
    state = {"a.weight": torch.randn(3, 2), "b": torch.nn.Parameter(torch.ones(2))}
    content = {
        "state_dict": state,
        "hyper_parameters": {"config": DictConfig(x=1, node=Node()), "n": Node()},
        "callbacks": {Node(): [Node()]},
    }
    torch.save(content, tmp_path / "model.ckpt")
    del sys.modules["omegaconf_made_up"]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "model.ckpt", weights_only=True)
    found = read_tensors(tmp_path / "model.ckpt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("where", ["beside", "as the key", "in the state"])
def test_runs_nothing_of_a_malicious_file(tmp_path, where):
    target = tmp_path / "made"
    tensor = torch.ones(2)
    content = {"state_dict": {"a": tensor}, "more": Evil(str(target))}
    if where == "as the key":
        content = {"state_dict": {"a": tensor}, Evil(str(target)): 1}
    if where == "in the state":
        content = {"state_dict": {"a": tensor, "b": Evil(str(target))}}
    torch.save(content, tmp_path / "model.ckpt")
    assert read_tensors(tmp_path / "model.ckpt").keys() == {"a"}
    assert not target.exists()
    # The file does harm where it is trusted.
    torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert target.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_truncated_file(tmp_path, share, suffix):
    path = tmp_path / f"model{suffix}"
    state = {"a": torch.randn(200)}
    if suffix == ".ckpt":
        torch.save({"state_dict": state}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"{path.name}.*anew"):
        read_tensors(path)


def test_a_damaged_pickle(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.randn(3)}, path)
    broken = tmp_path / "broken.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(broken, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:20] if name.endswith("data.pkl") else data)
    with pytest.raises(ValueError, match="broken.pt: not readable"):
        read_tensors(broken)


def test_other_bad_input(tmp_path):
    with pytest.raises(ValueError, match="'path_or_state_dict' is of type NoneType"):
        read_tensors(None)
    with pytest.raises(ValueError, match="there is no such file"):
        read_tensors(tmp_path / "missing.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="text.ckpt: not readable"):
        read_tensors(tmp_path / "text.ckpt")
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="list.pt holds no tensors by name"):
        read_tensors(tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        read_tensors({"state_dict": {}})


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"a": torch.ones(2)}, tmp_path / "m.safetensors")
    assert torch.equal(read_tensors(tmp_path / "m.safetensors")["a"], torch.ones(2))
