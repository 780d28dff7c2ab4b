"""Tempting symmetries that networks of diffusion models do not have: a spec that claims one is refuted, and named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.proofs.proof import prove
from rebasin_cli.proofs.subjects import SUBJECTS
from tests.architectures.refuting import Claim, check_refuted, exchanged


def claim_on(spec: str, exchange: Mapping[str, str], dims: str, at: int = 0) -> Claim:
    """A claim on one of the networks that a spec is proved on."""
    return Claim(spec, SUBJECTS[spec][at], exchange, dims)


CLAIMS = {
    "UNet: channels cross the groups of a norm": claim_on("sd15-unet-original", {
        "  group.{at}.{n}: groups\n": "",
        "  inner.{at}.{n}: within group.{at}.{n}\n": "",
        "(group.{at}.{n} inner.{at}.{n})": "inner.{at}.{n}",
    }, "inner"),
    "UNet: a stream moves as if its next norm did not straddle a skip": claim_on("sd15-unet-original", {
        "  out.output_blocks.4: straddling.4\n": "  out.output_blocks.4: (pair.up.4 half.up.4 unit.up.4)\n",
    }, "pair half"),
    "UNet: a stream is free": claim_on("sdxl-unet-original", {
        "  out.output_blocks.4: straddling.2\n": "  out.output_blocks.4: loose\n",
    }, "loose"),
    "UNet: groups of a skip that straddles are cut the other way": claim_on("sd15-unet-original", {
        "(run.later.{m} three.later.{m}.1 cell.later.{m}.1)": "(three.later.{m}.1 run.later.{m} cell.later.{m}.1)",
        "three.later.{m}.1: within run.later.{m}": "run.later.{m}: within three.later.{m}.1",
        "cell.later.{m}.1: within three.later.{m}.1": "cell.later.{m}.1: within run.later.{m}",
    }, "three run"),
    "UNet: a straddling skip lies some cells off": claim_on("sdxl-unet-original", {
        "(two.later.{m}.0 cell.later.{m}.0) + (run.later.{m} three.later.{m}.1 cell.later.{m}.1)":
        "(run.later.{m} three.later.{m}.1 cell.later.{m}.1) + (two.later.{m}.0 cell.later.{m}.0)",
    }, "three run"),
    "UNet: diffusers' attention_head_dim is the size of a head": claim_on("sd15-unet-original", {
        "  head.{at}.{n}.{t}.{a}: [": "  qk.{at}.{n}.{t}.{a}: [",
    }, "head qk v"),
    "SDXL: 64 heads where a head has 64 dims": claim_on("sdxl-unet-original", {
        "  qk.{at}.{n}.{t}.{a}: head_dim\n": "  head.{at}.{n}.{t}.{a}: 64\n",
        "  head_dim: ['config.block_out_channels[1] / config.attention_head_dim[1]', 64]": "  # ",
    }, "head"),
    "GEGLU: the halves move apart": claim_on("sd15-unet-original", {
        "(2 ff.{at}.{n}.{t})": "gate.{at}.{n}.{t} + ff.{at}.{n}.{t}",
    }, "gate ff"),
    "autoencoder: channels cross the groups of a norm": claim_on("sd-vae", {
        "  group.{stream}.{b}: groups\n": "",
        "  unit.{stream}.{b}: within group.{stream}.{b}\n": "",
        "(group.{stream}.{b} unit.{stream}.{b})": "unit.{stream}.{b}",
    }, "unit"),
    "autoencoder: latents move where nothing maps them": claim_on("sd-vae", {
        "  codes: fixed without post_quant_conv.weight because they are the latents\n": "",
    }, "codes", at=1),
    "text encoder: the stream that a UNet reads moves": claim_on("sd-text-encoder", {
        "  embed: fixed because the UNet reads the hidden states\n": "",
    }, "embed"),
    "DiT: the stream moves under a computed position table": claim_on("dit", {
        "  embed: fixed without pos_embed.pos_embed because the position table is computed, not stored\n": "",
    }, "embed"),
    "DiT: shift and scale alternate": claim_on("dit", {
        "  embed: fixed without pos_embed.pos_embed because the position table is computed, not stored\n": "",
        "(6 embed)": "(embed 6)",
    }, "embed"),
    "SD 3: shift, scale and gate alternate": claim_on("sd3", {"(_ image)": "(image _)"}, "image"),
    "SD 3: text and image have heads of their own": claim_on("sd3-original", {
        "(head.{i} qk.{i}) + (head.{i} qk.{i}) + (head.{i} v.{i}) context":
        "(other.{i} _:64) + (other.{i} _:64) + (other.{i} _:64) context",
        "attn.proj.weight?: context (head.{i} v.{i})": "attn.proj.weight?: context (other.{i} _:64)",
        "  qk.{i}: within head.{i} without joint_blocks.{i}.x_block.attn.ln_q.weight\n": "  qk.{i}: fixed\n",
    }, "head other"),
    "Flux: rotary dims move": claim_on("flux", {
        "(head.{i} _:head_dim)": "(head.{i} qk.{i})",
        "norm_added_q,norm_added_k}.weight: _:head_dim": "norm_added_q,norm_added_k}.weight: qk.{i}",
    }, "qk"),
    "Flux: the MLP comes before attention in a single block": claim_on("flux-original", {
        "linear2.weight: embed (head1.{i} v1.{i}) + mlp1.{i}": "linear2.weight: embed mlp1.{i} + (head1.{i} v1.{i})",
    }, "head1 mlp1"),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_wrong_symmetry_is_refuted_and_named(claim: Claim, tmp_path: Path) -> None:
    check_refuted(claim, tmp_path)


def test_dims_under_a_norm_of_all_heads_are_not_each_heads_own(tmp_path: Path) -> None:
    wrong = exchanged("sd3", {" without transformer_blocks.{i}.attn.norm_q.weight": ""}, tmp_path)
    with pytest.raises(ContentError, match=r"dim qk\.0 is within head\.0, which does not stand in this tensor"):
        prove(wrong, SUBJECTS["sd3"][1]())


def test_streams_of_the_wrong_widths_are_refused(tmp_path: Path) -> None:
    wrong = exchanged("sd15-unet", {"sampled.1 + first.2": "sampled.1 + first.1"}, tmp_path)
    with pytest.raises(ContentError, match=r"up_blocks\.2\.resnets\.0"):
        prove(wrong, SUBJECTS["sd15-unet"][0]())
