"""Tempting symmetries that decoders do not have: a spec that claims one is refuted, and the dim is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.proofs.subjects import classic_decoders, rotary_decoders
from rebasin_cli.spec import detect
from tests.architectures.refuting import Claim, check_refuted

ROTATED_HEADS_MOVE_INSIDE = {
    "head_dim: [": "qk.{i}: [",
    "(kv.{i} q.{i} _:head_dim)": "(kv.{i} q.{i} qk.{i})",
    "(kv.{i} _:head_dim)": "(kv.{i} qk.{i})",
    "\ndims:": "\ndims:\n  qk.{i}: within kv.{i}",
}
QUERY_HEADS_LEAVE_THEIR_KEY_HEAD = {
    "  q.{i}: within kv.{i} ": "  #",
    "  v.{i}: within kv.{i} ": "  #",
    "(kv.{i} q.{i} _:head_dim)": "(head.{i} _:head_dim)",
    "(kv.{i} _:head_dim)": "_",
    "(kv.{i} v.{i})": "_",
    "(kv.{i} q.{i} v.{i})": "(head.{i} _:head_dim)",
}
QUERY_HEADS_STRIDED = {"(kv.{i} q.{i} ": "(q.{i} kv.{i} "}
VALUES_PER_QUERY_HEAD = {
    "  v.{i}: within kv.{i} ": "  o.{i}: within q.{i} #",
    "(kv.{i} v.{i})": "(kv.{i} _:head_dim)",
    "(kv.{i} q.{i} v.{i})": "(kv.{i} q.{i} o.{i})",
}
ONE_HEAD_AFTER_ANOTHER = {
    "(head.{i} qk.{i}) + (head.{i} qk.{i}) + (head.{i} v.{i})": "(head.{i} (qk.{i} + qk.{i} + v.{i}))"
}
THREE_BLOCKS = {
    "(head.{i} (_:rotated + free.{i} + _:rotated + free.{i} + v.{i}))":
    "(head.{i} (_:rotated + free.{i})) + (head.{i} (_:rotated + free.{i})) + (head.{i} v.{i})"
}  # fmt: skip
FREE_HEADS = {"fixed because ALiBi gives every head a slope of its own": "{}", "  head.{i}: {}\n": ""}

CLAIMS = {
    "LLaMA: rotated dims move": Claim("llama", rotary_decoders.llama, ROTATED_HEADS_MOVE_INSIDE, "qk"),
    "Qwen3: rotated dims move": Claim("qwen3", rotary_decoders.qwen3, {
        **ROTATED_HEADS_MOVE_INSIDE, "_norm.weight: _:head_dim": "_norm.weight: qk.{i}", "qk.{i}: within kv.{i}": "",
    }, "qk"),
    "OLMo 2: rotated dims move": Claim("olmo2", rotary_decoders.olmo2, ROTATED_HEADS_MOVE_INSIDE, "qk"),
    "NeoX: rotated dims move": Claim("gpt-neox", classic_decoders.neox, {
        "[head_dim - rotated]": "[head_dim - rotated + rotated]", "_:rotated + free.{i}": "free.{i}",
    }, "free"),
    "Mamba-2: heads move across groups": Claim("mamba2", classic_decoders.mamba2, {
        "  head.{i}: within group.{i}\n": "", "group.{i} head.{i}": "head.{i}", "  state.{i}: within group.{i}\n": "",
        "2 group.{i} state.{i}": "2 2 state.{i}", "  group.{i}: [config.n_groups]\n": "  head.{i}: 6\n",
    }, "head"),
    "Nemotron: rotated dims move": Claim("nemotron", rotary_decoders.nemotron, {
        "[head_dim - rotated]": "[head_dim - rotated + rotated]", "(_:rotated + free.{i})": "free.{i}",
    }, "free"),
    "GPT-J: rotated dims move": Claim("gpt-j", classic_decoders.gptj, {
        "[head_dim - rotated]": "[head_dim - rotated + rotated]", "(_:rotated + free.{i})": "free.{i}",
    }, "free"),
    "LLaMA: query heads leave their key head": Claim(
        "llama", rotary_decoders.llama, QUERY_HEADS_LEAVE_THEIR_KEY_HEAD, "head"
    ),
    "LLaMA: query heads of a key head are strided": Claim("llama", rotary_decoders.llama, QUERY_HEADS_STRIDED, "q"),
    "LLaMA: value dims of their own for every query head": Claim(
        "llama", rotary_decoders.llama, VALUES_PER_QUERY_HEAD, "o"
    ),
    "LLaMA: gate and up move apart": Claim("llama", rotary_decoders.llama, {
        "mlp.up_proj.weight: mlp.{i} embed": "mlp.up_proj.weight: up.{i} embed",
    }, "up"),
    "Phi-3: gate and up alternate": Claim("phi3", rotary_decoders.phi3, {"(2 mlp.{i})": "(mlp.{i} 2)"}, "mlp"),
    "Phi-3: query, key and value head by head": Claim("phi3", rotary_decoders.phi3, {
        "(kv.{i} q.{i} (_:rotated + free.{i})) + (kv.{i} (_:rotated + free.{i})) + (kv.{i} v.{i})":
        "(kv.{i} ((q.{i} (_:rotated + free.{i})) + _:rotated + free.{i} + v.{i}))",
    }, "kv"),
    "Mixtral: gate and up move apart": Claim("mixtral", rotary_decoders.mixtral, {
        "w3.weight: mlp.{i} embed": "w3.weight: up.{i} embed",
        "\ndims:": "\ndims:\n  up.{i}: within expert.{i}",
    }, "up"),
    "GPT-2: queries and keys move apart": Claim("gpt2", classic_decoders.gpt2, {
        "(head.{i} qk.{i}) + (head.{i} qk.{i})": "(head.{i} qk.{i}) + (head.{i} k.{i})",
        "\ndims:": "\ndims:\n  k.{i}: within head.{i}",
        "sizes:": "sizes:\n  qk.{i}: [config.n_embd / config.n_head]\n  k.{i}: [config.n_embd / config.n_head]",
    }, "qk"),
    "GPT-2: values and outputs move apart": Claim("gpt2", classic_decoders.gpt2, {
        "c_proj.weight: (head.{i} v.{i}) embed": "c_proj.weight: (head.{i} o.{i}) embed",
        "\ndims:": "\ndims:\n  o.{i}: within head.{i}",
        "sizes:": "sizes:\n  v.{i}: [config.n_embd / config.n_head]",
    }, "o"),
    "GPT-2: one head after another": Claim("gpt2", classic_decoders.gpt2, ONE_HEAD_AFTER_ANOTHER, "head"),
    "GPT-BigCode: values of their own for every query head": Claim("gpt-bigcode", classic_decoders.bigcode, {
        "c_proj.weight: embed (head.{i} v.{i})": "c_proj.weight: embed (head.{i} o.{i})",
        "\nsizes:": "\ndims:\n  o.{i}: within head.{i}\nsizes:",
    }, "o"),
    "NeoX: [3, head, dim]": Claim("gpt-neox", classic_decoders.neox, THREE_BLOCKS, "head"),
    "BLOOM: heads move": Claim("bloom", classic_decoders.bloom, FREE_HEADS, "head"),
    "MPT: heads move": Claim("mpt", classic_decoders.mpt, FREE_HEADS, "head"),
    "Mamba: a row and its gate alternate": Claim(
        "mamba", classic_decoders.mamba, {"(2 inner.{i})": "(inner.{i} 2)"}, "inner"
    ),
    "Mamba: B and C have states of their own": Claim("mamba", classic_decoders.mamba, {
        "rank.{i} + state.{i} + state.{i}": "rank.{i} + state.{i} + c.{i}",
    }, "c"),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_wrong_symmetry_is_refuted_and_named(claim: Claim, tmp_path: Path) -> None:
    check_refuted(claim, tmp_path)


def test_without_config_a_norm_over_heads_is_not_one_of_a_head() -> None:
    subject = rotary_decoders.olmoe(num_key_value_heads=6)
    with pytest.raises(ContentError, match="2 architectures fit"):
        detect({key: tuple(tensor.shape) for key, tensor in subject.state.items()})
