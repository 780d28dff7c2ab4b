"""Tempting symmetries that networks of diffusion models do not have: a spec that claims one is refuted, and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from rebasin_cli.errors import ContentError
from rebasin_cli.proofs.proof import prove
from rebasin_cli.proofs.subjects import SUBJECTS, Subject
from rebasin_cli.spec import PermutationSpec, load_spec
from tests.architectures.refuting import permutations_of


@dataclass(frozen=True, slots=True)
class Claim:
    """A wrong claim: what to exchange in the shipped spec, and the dims that a proof must name."""

    spec: str
    exchange: Mapping[str, str]
    dims: set[str]
    at: int = 0

    @property
    def make(self) -> Callable[[], Subject]:
        """What makes the network."""
        return SUBJECTS[self.spec][self.at]


CLAIMS = {
    "UNet: channels cross the groups of a norm": Claim("sd15-unet-original", {
        "  group.{at}.{n}: groups\n": "",
        "  inner.{at}.{n}: within group.{at}.{n}\n": "",
        "(group.{at}.{n} inner.{at}.{n})": "inner.{at}.{n}",
    }, {"inner"}),
    "UNet: a stream moves as if its next norm did not straddle a skip": Claim("sd15-unet-original", {
        "  out.output_blocks.4: straddling.4\n": "  out.output_blocks.4: (pair.up.4 half.up.4 unit.up.4)\n",
    }, {"pair", "half"}),
    "UNet: a stream is free": Claim("sdxl-unet-original", {
        "  out.output_blocks.4: straddling.2\n": "  out.output_blocks.4: loose\n",
    }, {"loose"}),
    "UNet: groups of a skip that straddles are cut the other way": Claim("sd15-unet-original", {
        "(run.later.{m} three.later.{m}.1 cell.later.{m}.1)": "(three.later.{m}.1 run.later.{m} cell.later.{m}.1)",
        "three.later.{m}.1: within run.later.{m}": "run.later.{m}: within three.later.{m}.1",
        "cell.later.{m}.1: within three.later.{m}.1": "cell.later.{m}.1: within run.later.{m}",
    }, {"three", "run"}),
    "UNet: a straddling skip lies some cells off": Claim("sdxl-unet-original", {
        "(two.later.{m}.0 cell.later.{m}.0) + (run.later.{m} three.later.{m}.1 cell.later.{m}.1)":
        "(run.later.{m} three.later.{m}.1 cell.later.{m}.1) + (two.later.{m}.0 cell.later.{m}.0)",
    }, {"three", "run"}),
    "UNet: diffusers' attention_head_dim is the size of a head": Claim("sd15-unet-original", {
        "  head.{at}.{n}.{t}.{a}: [": "  qk.{at}.{n}.{t}.{a}: [",
    }, {"head", "qk", "v"}),
    "SDXL: 64 heads where a head has 64 dims": Claim("sdxl-unet-original", {
        "  qk.{at}.{n}.{t}.{a}: head_dim\n": "  head.{at}.{n}.{t}.{a}: 64\n",
        "  head_dim: ['config.block_out_channels[1] / config.attention_head_dim[1]', 64]": "  # ",
    }, {"head"}),
    "GEGLU: the halves move apart": Claim("sd15-unet-original", {
        "(2 ff.{at}.{n}.{t})": "gate.{at}.{n}.{t} + ff.{at}.{n}.{t}",
    }, {"gate", "ff"}),
    "autoencoder: channels cross the groups of a norm": Claim("sd-vae", {
        "  group.{stream}.{b}: groups\n": "",
        "  unit.{stream}.{b}: within group.{stream}.{b}\n": "",
        "(group.{stream}.{b} unit.{stream}.{b})": "unit.{stream}.{b}",
    }, {"unit"}),
    "autoencoder: latents move where nothing maps them": Claim("sd-vae", {
        "  codes: fixed without post_quant_conv.weight because they are the latents\n": "",
    }, {"codes"}, 1),
    "text encoder: the stream that a UNet reads moves": Claim("sd-text-encoder", {
        "  embed: fixed because the UNet reads the hidden states\n": "",
    }, {"embed"}),
    "DiT: the stream moves under a computed position table": Claim("dit", {
        "  embed: fixed without pos_embed.pos_embed because the position table is computed, not stored\n": "",
    }, {"embed"}),
    "DiT: shift and scale alternate": Claim("dit", {
        "  embed: fixed without pos_embed.pos_embed because the position table is computed, not stored\n": "",
        "(6 embed)": "(embed 6)",
    }, {"embed"}),
    "SD 3: shift, scale and gate alternate": Claim("sd3", {"(_ image)": "(image _)"}, {"image"}),
    "SD 3: text and image have heads of their own": Claim("sd3-original", {
        "(head.{i} qk.{i}) + (head.{i} qk.{i}) + (head.{i} v.{i}) context":
        "(other.{i} _:64) + (other.{i} _:64) + (other.{i} _:64) context",
        "attn.proj.weight?: context (head.{i} v.{i})": "attn.proj.weight?: context (other.{i} _:64)",
        "  qk.{i}: within head.{i} without joint_blocks.{i}.x_block.attn.ln_q.weight\n": "  qk.{i}: fixed\n",
    }, {"head", "other"}),
    "Flux: rotary dims move": Claim("flux", {
        "(head.{i} _:head_dim)": "(head.{i} qk.{i})",
        "norm_added_q,norm_added_k}.weight: _:head_dim": "norm_added_q,norm_added_k}.weight: qk.{i}",
    }, {"qk"}),
    "Flux: the MLP comes before attention in a single block": Claim("flux-original", {
        "linear2.weight: embed (head1.{i} v1.{i}) + mlp1.{i}": "linear2.weight: embed mlp1.{i} + (head1.{i} v1.{i})",
    }, {"head1", "mlp1"}),
}  # fmt: skip


def wrong(claim: Claim, folder: Path) -> PermutationSpec:
    """The shipped spec with the exchanges made, every one of which must be there to be made."""
    text = permutations_of(claim.spec)
    for old, new in claim.exchange.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "wrong.yaml").write_text(text, encoding="utf-8")
    return load_spec(folder / "wrong.yaml")


@pytest.mark.parametrize("case", CLAIMS)
def test_wrong_claim_is_refuted_and_named(case: str, tmp_path: Path) -> None:
    claim = CLAIMS[case]
    proof = prove(wrong(claim, tmp_path), claim.make())
    assert not proof.holds
    assert proof.error > 1e-6
    assert claim.dims <= set(proof.breaking)


def test_dims_under_a_norm_of_all_heads_are_not_each_heads_own(tmp_path: Path) -> None:
    claim = Claim("sd3", {" without transformer_blocks.{i}.attn.norm_q.weight": ""}, set(), 1)
    with pytest.raises(ContentError, match=r"dim qk\.0 is within head\.0, which does not stand in this tensor"):
        prove(wrong(claim, tmp_path), claim.make())


def test_streams_of_the_wrong_widths_are_refused(tmp_path: Path) -> None:
    claim = Claim("sd15-unet", {"sampled.1 + first.2": "sampled.1 + first.1"}, set())
    with pytest.raises(ContentError, match=r"up_blocks\.2\.resnets\.0"):
        prove(wrong(claim, tmp_path), claim.make())
