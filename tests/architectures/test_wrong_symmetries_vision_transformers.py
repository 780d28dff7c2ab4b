"""Tempting symmetries that vision transformers do not have: a spec that claims one is refuted, and the dim is named."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from rebasin_cli.proofs.subjects import token_mixers
from rebasin_cli.proofs.subjects import vision_transformers as networks
from tests.architectures.refuting import Claim, check_refuted

ONE_HEAD_AFTER_ANOTHER = {
    "(head.{i} qk.{i}) + (head.{i} qk.{i}) + (head.{i} v.{i})": "(head.{i} (qk.{i} + qk.{i} + v.{i}))"
}

CLAIMS = {
    "ViT: one head after another": Claim(
        "vit", partial(networks.timm_vit, "with a head"), ONE_HEAD_AFTER_ANOTHER, "head"
    ),
    "torchvision: one head after another": Claim(
        "vit-torchvision", networks.torchvision_vit, ONE_HEAD_AFTER_ANOTHER, "head"
    ),
    "ViT: queries and keys move apart": Claim("vit", partial(networks.timm_vit, "with a head"), {
        "(head.{i} qk.{i}) + (head.{i} qk.{i})": "(head.{i} qk.{i}) + (head.{i} k.{i})",
        "\ndims:": "\ndims:\n  k.{i}: within head.{i}",
        "sizes:": "sizes:\n  qk.{i}: 8\n  k.{i}: 8",
    }, "k"),
    "DINOv2: a row and its gate alternate": Claim("vit", networks.timm_gated, {"(_ mlp.{i})": "(mlp.{i} _)"}, "mlp"),
    "ViT: the stream moves although it is the output": Claim(
        "vit", partial(networks.timm_vit, "without a head", num_classes=0),
        {"  embed: fixed without head.weight": "  embed: fixed without blocks.{i}.attn.qkv.weight"}, "embed",
    ),
    "BEiT: heads move without their bias": Claim("vit", networks.timm_beit, {
        "relative_position_bias_table?: _ head.{i}": "relative_position_bias_table?: _ _",
        "head.{i}: [": "head.{i}: [6, ",
    }, "head"),
    "Swin: heads move without their bias": Claim("swin", networks.timm_swin, {
        "relative_position_bias_table: _ head.{s}.{b}": "relative_position_bias_table: _ _",
        "\ndims:": "\nsizes:\n  head.0.{b}: 2\n  head.1.{b}: 3\ndims:",
    }, "head"),
    "Swin: patches are merged channel by channel": Claim(
        "swin", networks.timm_swin, {"(4 s.{s-1})": "(s.{s-1} 4)"}, "s"
    ),
    "XCiT: keys move apart from values": Claim("xcit", token_mixers.xcit, {
        "(head.{i} kv.{i}) + (head.{i} kv.{i})": "(head.{i} k.{i}) + (head.{i} kv.{i})",
        "\ndims:": "\n  k.{i}: 6\ndims:\n  k.{i}: within head.{i}",
    }, "k"),
    "CaiT: a head of the values is one of the queries": Claim("cait", token_mixers.cait, {
        "mixed.{i} head.{i}": "mixed.{i} vhead.{i}", "proj_w.weight: vhead.{i} mixed": "proj_w.weight: head.{i} mixed",
        "proj_w.bias: vhead": "proj_w.bias: head",
    }, "head"),
    "gMLP: a row and its gate alternate": Claim(
        "gmlp", token_mixers.gmlp, {"(2 gated.{i})": "(gated.{i} 2)"}, "gated"
    ),
    "Mixer: a row and its gate alternate": Claim(
        "mlp-mixer", token_mixers.gated, {"(_ channels.{i})": "(channels.{i} _)"}, "channels"
    ),
    "DINOv2: only the class token is classified": Claim(
        "vit-hf", partial(networks.transformers_vit, "Dinov2", "ForImageClassification", mlp_ratio=2),
        {"_ (_ embed)": "_ (embed _)"}, "embed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_wrong_symmetry_is_refuted_and_named(claim: Claim, tmp_path: Path) -> None:
    check_refuted(claim, tmp_path)
