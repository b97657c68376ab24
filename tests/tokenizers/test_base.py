import pytest
import torch

from pyg_atomenc.tokenizers import Tokens
from pyg_atomenc.tokenizers.base import tokenize


def test_holds_tokens_and_what_is_known_of_them():
    tokens = Tokens(torch.tensor([0, 2, 0]), 4, {"token_name": ["a", "b", "c", "d"]})
    assert tokens.num_tokens == 4 and tokens.attributes["token_name"][3] == "d"


@pytest.mark.parametrize(
    "index, num_tokens, attributes, message",
    [
        ([0, 1], 2, {}, "'atom_to_token' is of type list"),
        (torch.tensor([0.0]), 1, {}, "'atom_to_token' is of type torch.float32"),
        (torch.zeros(2, 1).long(), 1, {}, r"has shape \[2, 1\]"),
        (torch.tensor([0, 3]), 3, {}, "values from 0 to 3 for 3 tokens"),
        (torch.tensor([-1, 0]), 3, {}, "values from -1 to 0"),
        (torch.tensor([0]), 1, {"name": ["a"]}, "'attributes' names 'name'"),
        (
            torch.tensor([0]),
            2,
            {"token_name": ["a"]},
            "'token_name' has 1 rows for 2 tokens",
        ),
    ],
)
def test_bad_tokens(index, num_tokens, attributes, message):
    with pytest.raises(ValueError, match=message):
        Tokens(index, num_tokens, attributes)


def test_a_tokenizer_must_give_every_atom_a_token():
    with pytest.raises(ValueError, match=r"'tokenizer\(...\)' is of type list"):
        tokenize(lambda source: [0], None, 1)
    one = Tokens(torch.tensor([0]), 1)
    with pytest.raises(ValueError, match="1 rows for 2 atoms: the tokenizer must"):
        tokenize(lambda source: one, None, 2)
    assert tokenize(lambda source: one, None, 1) is one


@pytest.mark.parametrize("tokenizer", ["residue", Tokens])
def test_what_is_no_tokenizer(tokenizer):
    with pytest.raises(ValueError, match="'tokenizer' is .*pass a function, or an obj"):
        tokenize(tokenizer, None, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_tokens=1.5), "'num_tokens' is 1.5"),
        (dict(num_tokens=-1), "'num_tokens' is -1"),
        (dict(attributes={"token_a": 3}), "'token_a' has no rows"),
        (dict(attributes={"token_a": "ab"}), "'token_a' has no rows"),
        (dict(representative=[0, 2]), "'representative' is"),
        (dict(representative=torch.tensor([0, -1])), "'representative' is"),
        (dict(representative=torch.tensor([0.0, 2.0])), "'representative' is"),
    ],
)
def test_other_bad_tokens(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tokens(
            **{"atom_to_token": torch.tensor([0, 0, 1]), "num_tokens": 2, **arguments}
        )
