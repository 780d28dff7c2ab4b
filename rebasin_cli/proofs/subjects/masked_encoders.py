"""BERT and its kin at toy sizes, with every kind of head."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rebasin_cli.proofs.proof import Subject, Trace
from rebasin_cli.proofs.subjects.pretrained import transformers_subject
from rebasin_cli.proofs.subjects.variants import under_other_keys, with_extra

_SIZES: Mapping[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "initializer_range": 0.2,  # the usual 0.02 makes attention so even that hardly anything changes it
}


def bert(model: str, family: str = "Bert", **config: Any) -> Subject:
    """A model of BERT's kin with 6 heads and width 48."""
    return transformers_subject(
        f"transformers {family}{model}", f"{family}Config", f"{family}{model}", **{**_SIZES, **config}
    )


def published_bert() -> Subject:
    """BERT as it was published: LayerNorm's gamma and beta, the tied decoder and position_ids in the file."""
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    name = "BertForPreTraining as it was published"
    renamed = under_other_keys(bert("ForPreTraining"), name, names)
    extra = {
        "bert.embeddings.position_ids": torch.arange(20)[None],
        "cls.predictions.decoder.weight": renamed.state["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": renamed.state["cls.predictions.bias"].clone(),
    }
    return with_extra(renamed, name, extra)


def old_tagger() -> Subject:
    """A classifier of tokens whose file holds a pooler that it does not read, as older ones do."""
    generator = torch.Generator().manual_seed(5)
    pooler = {
        "bert.pooler.dense.weight": torch.randn(48, 48, dtype=torch.float64, generator=generator),
        "bert.pooler.dense.bias": torch.randn(48, dtype=torch.float64, generator=generator),
    }
    return with_extra(bert("ForTokenClassification"), "BertForTokenClassification with a pooler", pooler)


_FAIRSEQ = {
    "roberta.": "decoder.sentence_encoder.",
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "embeddings.LayerNorm": "emb_layer_norm",
    "encoder.layer.": "layers.",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
    "classifier.dense": "classification_heads.mnli.dense",
    "classifier.out_proj": "classification_heads.mnli.out_proj",
    "lm_head": "decoder.lm_head",
}


def fairseq_roberta(model: str, **config: Any) -> Subject:
    """RoBERTa under its authors' keys, which have no types of tokens: they are added to every position alike."""
    subject = under_other_keys(bert(model, "Roberta", **config), f"Roberta{model} in fairseq's layout", _FAIRSEQ)
    types = "decoder.sentence_encoder.embeddings.token_type_embeddings.weight"
    added = torch.zeros_like(subject.state[types])
    run = subject.run
    state = {key: tensor for key, tensor in subject.state.items() if key != types}
    return replace(subject, state=state, run=lambda tensors, trace: run({**tensors, types: added}, trace))


def fused_roberta() -> Subject:
    """RoBERTa as its first files have it: one tensor for queries, keys and values."""
    subject = fairseq_roberta("ForMaskedLM")
    fused: dict[str, Tensor] = {}
    for key, tensor in subject.state.items():
        if ".q_proj." in key:
            parts = [subject.state[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            fused[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", key):
            fused[key] = tensor

    def run(tensors: Mapping[str, Tensor], trace: Trace | None) -> Mapping[str, Tensor]:
        apart: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            letters = "qkv" if "in_proj_" in key else ""
            names = [key.replace("in_proj_", f"{letter}_proj.") for letter in letters] or [key]
            apart |= dict(zip(names, tensor.chunk(len(names)), strict=True))
        return subject.run(apart, trace)

    return replace(subject, name=f"{subject.name}, fused", state=fused, run=run)


def electra(model: str) -> Subject:
    """ELECTRA, whose embedding is narrower than its stream."""
    return bert(model, "Electra", embedding_size=28)


def albert(model: str, **config: Any) -> Subject:
    """ALBERT in four layers of two groups, whose embedding is narrower than its stream."""
    groups = {"embedding_size": 28, "num_hidden_layers": 4, "num_hidden_groups": 2}
    return bert(model, "Albert", **groups, **config)


def deberta(model: str, **config: Any) -> Subject:
    """DeBERTa V2, with keys shared between words and positions as in V3 unless `config` says otherwise."""
    return bert(
        model, "DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8,
        norm_rel_ebd="layer_norm", position_biased_input=False, type_vocab_size=0,
        **{"share_att_key": True, "num_labels": 5, **config},
    )  # fmt: skip


def distilbert(model: str) -> Subject:
    """DistilBERT with 6 heads and width 48."""
    return transformers_subject(
        f"transformers DistilBert{model}", "DistilBertConfig", f"DistilBert{model}", dim=48, n_layers=2, n_heads=6,
        hidden_dim=40, max_position_embeddings=20, initializer_range=0.2,
    )  # fmt: skip


SUBJECTS: Mapping[str, tuple[Callable[[], Subject], ...]] = {
    "bert": (
        partial(bert, "ForPreTraining"),
        partial(bert, "ForMaskedLM"),
        partial(bert, "ForMaskedLM", tie_word_embeddings=False),
        partial(bert, "ForSequenceClassification", num_labels=5),
        partial(bert, "ForTokenClassification", num_labels=5),
        partial(bert, "ForQuestionAnswering"),
        partial(bert, "Model"),
        published_bert,
        old_tagger,
        partial(bert, "ForMaskedLM", "Roberta"),
        partial(bert, "ForSequenceClassification", "XLMRoberta", num_labels=5),
        partial(bert, "ForTokenClassification", "Roberta", num_labels=5),
        partial(electra, "ForPreTraining"),
        partial(electra, "ForMaskedLM"),
    ),
    "roberta-fairseq": (
        partial(fairseq_roberta, "ForMaskedLM"),
        partial(fairseq_roberta, "ForSequenceClassification", num_labels=5),
        fused_roberta,
    ),
    "albert": (
        partial(albert, "ForPreTraining"),
        partial(albert, "ForMaskedLM"),
        partial(albert, "ForMaskedLM", tie_word_embeddings=False),
        partial(albert, "ForSequenceClassification", num_labels=5),
        partial(albert, "ForTokenClassification", num_labels=5),
        partial(albert, "ForQuestionAnswering"),
        partial(albert, "Model"),
    ),
    "distilbert": (
        partial(distilbert, "ForMaskedLM"),
        partial(distilbert, "ForSequenceClassification"),
        partial(distilbert, "ForTokenClassification"),
        partial(distilbert, "ForQuestionAnswering"),
        partial(distilbert, "Model"),
    ),
    "deberta-v2": (
        partial(deberta, "ForMaskedLM"),
        partial(deberta, "ForMaskedLM", legacy=False),
        partial(deberta, "ForSequenceClassification"),
        partial(deberta, "ForTokenClassification", share_att_key=False),
        partial(deberta, "ForQuestionAnswering", conv_kernel_size=3, conv_act="gelu", num_labels=2),
        partial(deberta, "Model"),
    ),
    "mpnet": (
        partial(bert, "ForMaskedLM", "MPNet"),
        partial(bert, "ForSequenceClassification", "MPNet", num_labels=5),
        partial(bert, "ForTokenClassification", "MPNet", num_labels=5),
        partial(bert, "Model", "MPNet"),
    ),
}
