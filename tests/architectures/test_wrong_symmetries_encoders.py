"""Tempting symmetries that encoders do not have: a spec that claims one is refuted, and the dim is named."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from rebasin_cli.proofs.subjects import encoder_decoders, masked_encoders, towers
from tests.architectures.refuting import Claim, check_refuted

KEY = "encoder.layer.{i}.attention.self.key"
KEYS_APART = {
    f"  {KEY}.weight: (head.{{i}} qk.{{i}}) embed\n": f"  {KEY}.weight: (head.{{i}} k.{{i}}) embed\n",
    f"  {KEY}.bias: (head.{{i}} qk.{{i}})\n": f"  {KEY}.bias: (head.{{i}} k.{{i}})\n",
    "\ndims:": "\ndims:\n  k.{i}: within head.{i}",
}  # fmt: skip
HEADS_OF_EACH_LAYER = {
    "(ehead ": "(ehead.{i} ", "within ehead": "within ehead.{i}", "_ ehead": "_ ehead.0",
    "cross.{i}: [config.num_heads, ehead]": "cross.{i}: [config.num_heads]\n  ehead.{i}: [config.num_heads]",
}  # fmt: skip
STREAMS_APART = {
    "decoder.block.{i}.layer.{0,1,2}.layer_norm.weight: embed":
    "decoder.block.{i}.layer.{0,1,2}.layer_norm.weight: dec",
    '"{encoder,decoder}.final_layer_norm.weight": embed':
    "encoder.final_layer_norm.weight: embed\n  decoder.final_layer_norm.weight: dec",
    "(dhead dqk.{i}) embed": "(dhead dqk.{i}) dec", "(dhead dv.{i}) embed": "(dhead dv.{i}) dec",
    "embed (dhead": "dec (dhead", "embed (cross": "dec (cross", "dmlp.{i} embed": "dmlp.{i} dec",
    "embed dmlp": "dec dmlp", "lm_head.weight?: _ embed": "lm_head.weight?: _ dec",
    "decoder.block.{i}.layer.1.EncDecAttention.q.weight: (cross.{i} xqk.{i}) embed":
    "decoder.block.{i}.layer.1.EncDecAttention.q.weight: (cross.{i} xqk.{i}) dec",
}  # fmt: skip

CLAIMS = {
    "BERT: queries and keys move apart": Claim("bert", partial(masked_encoders.bert, "ForMaskedLM"), KEYS_APART, "k"),
    "BERT: values and outputs move apart": Claim("bert", partial(masked_encoders.bert, "ForMaskedLM"), {
        "output.dense.weight: embed (head.{i} v.{i})": "output.dense.weight: embed (head.{i} o.{i})",
        "\ndims:": "\ndims:\n  o.{i}: within head.{i}",
    }, "o"),
    "BERT: heads are strided": Claim("bert", partial(masked_encoders.bert, "ForMaskedLM"), {
        "(head.{i} qk.{i})": "(qk.{i} head.{i})", "(head.{i} v.{i})": "(v.{i} head.{i})",
    }, "head"),
    "BERT: what a tied decoder reads has an order of its own": Claim(
        "bert", partial(masked_encoders.bert, "ForMaskedLM"), {
            "cls.predictions.transform.dense.weight?: token": "cls.predictions.transform.dense.weight?: mlm",
            "cls.predictions.transform.dense.bias?: token": "cls.predictions.transform.dense.bias?: mlm",
            "cls.predictions.transform.LayerNorm.{weight|gamma}?: token":
            "cls.predictions.transform.LayerNorm.{weight|gamma}?: mlm",
            "cls.predictions.transform.LayerNorm.{bias|beta}?: token":
            "cls.predictions.transform.LayerNorm.{bias|beta}?: mlm",
        }, "mlm",
    ),
    "RoBERTa: what a tied decoder reads has an order of its own": Claim(
        "bert", partial(masked_encoders.bert, "ForMaskedLM", "Roberta"), {
            '"{lm_head,generator_predictions}.dense.weight?": token':
            '"{lm_head,generator_predictions}.dense.weight?": mlm',
        }, "mlm",
    ),
    "BERT: a classifier of tokens reads the pooler that is in its file": Claim("bert", masked_encoders.old_tagger, {
        "  pooled: same as embed without cls.seq_relationship.weight\n": "",
    }, "pooled"),
    "ALBERT: the stream moves although it is the output": Claim("albert", partial(masked_encoders.albert, "Model"), {
        "  embed: fixed without {predictions.dense,classifier,qa_outputs}.weight because the hidden states are then "
        "the outputs\n": "",
    }, "embed"),
    "BERT: the stream moves although it is the output": Claim("bert", partial(masked_encoders.bert, "Model"), {
        "  embed: fixed without": "  embed: fixed without encoder.* or",
    }, "embed"),
    "DistilBERT: what a tied decoder reads has an order of its own": Claim(
        "distilbert", partial(masked_encoders.distilbert, "ForMaskedLM"),
        {"vocab_transform.weight?: embed": "vocab_transform.weight?: mlm"}, "mlm",
    ),
    "T5: heads of every layer in an order of their own": Claim("t5", encoder_decoders.t5, HEADS_OF_EACH_LAYER, "ehead"),
    "T5: encoder and decoder have streams of their own": Claim(
        "t5", partial(encoder_decoders.t5, feed_forward_proj="gated-gelu", tie_word_embeddings=False), STREAMS_APART,
        "dec",
    ),
    "Whisper: cross-attention reads the decoder": Claim("whisper", encoder_decoders.whisper, {
        "encoder_attn.k_proj.weight: (cross.{i} xqk.{i}) enc": "encoder_attn.k_proj.weight: (cross.{i} xqk.{i}) dec",
    }, "dec"),
    "Marian: the stream moves although sines are added to it": Claim(
        "bart", partial(encoder_decoders.bart, "MTModel", "Marian"),
        {"  embed: fixed without encoder.embed_positions.weight": "  embed: fixed without shared.weight"}, "embed",
    ),
    "CLIP: the space of embeddings moves": Claim("clip", towers.both, {
        "text_projection.weight: _": "text_projection.weight: joint",
        "visual_projection.weight: _": "visual_projection.weight: joint",
    }, "joint"),
    "CLIP: one head after another": Claim("clip-openai", towers.openai, {
        "(thead.{i} tqk.{i}) + (thead.{i} tqk.{i}) + (thead.{i} tv.{i})":
        "(thead.{i} (tqk.{i} + tqk.{i} + tv.{i}))",
    }, "thead"),
    "SigLIP: the probe has an order of its own": Claim("siglip", partial(towers.both, "Siglip", projection_size=60), {
        "vision_model.head.probe: _ _ vision": "vision_model.head.probe: _ _ probe",
    }, "probe"),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_wrong_symmetry_is_refuted_and_named(claim: Claim, tmp_path: Path) -> None:
    check_refuted(claim, tmp_path)
