"""The hard cases of the language, each a small spec bound to the shapes of a small network: dims, sizes, pieces."""

from __future__ import annotations

from tests.spec.building import bound, owners, shown, sizes, still


def test_resnet_18_where_the_stem_is_the_first_stage() -> None:
    layout = bound(
        """
        tensors:
          conv1.weight: s.1 _ _ _
          layer{s}.{b}.conv1.weight: in.{s}.{b} s.{s} _ _
          layer{s}.0.conv1.weight: in.{s}.0 s.{s-1} _ _
          layer1.0.conv1.weight: in.1.0 s.1 _ _
          layer{s}.{b}.conv2.weight: s.{s} in.{s}.{b} _ _
          layer{s}.0.downsample.0.weight: s.{s} s.{s-1} _ _
          fc.weight: _ s.{last s}
        """,
        {
            "conv1.weight": (4, 3, 3, 3),
            "layer1.0.conv1.weight": (5, 4, 3, 3),
            "layer1.0.conv2.weight": (4, 5, 3, 3),
            "layer1.1.conv1.weight": (6, 4, 3, 3),
            "layer1.1.conv2.weight": (4, 6, 3, 3),
            "layer2.0.conv1.weight": (7, 4, 3, 3),
            "layer2.0.conv2.weight": (8, 7, 3, 3),
            "layer2.0.downsample.0.weight": (8, 4, 1, 1),
            "layer2.1.conv1.weight": (9, 8, 3, 3),
            "layer2.1.conv2.weight": (8, 9, 3, 3),
            "fc.weight": (10, 8),
        },
    )
    assert sizes(layout) == {"s.1": 4, "s.2": 8, "in.1.0": 5, "in.1.1": 6, "in.2.0": 7, "in.2.1": 9}
    assert still(layout) == {}
    assert shown(layout, "layer2.0.conv1.weight") == ["0: in.2.0 7*36, s.1 4*9, _ 9*1"]
    assert shown(layout, "layer2.0.downsample.0.weight") == ["0: s.2 8*4, s.1 4*1"]
    assert layout.users["s.2"] == (
        "layer2.0.conv2.weight",
        "layer2.0.downsample.0.weight",
        "layer2.1.conv1.weight",
        "layer2.1.conv2.weight",
        "fc.weight",
    )


def test_vgg_with_gaps_between_the_numbers_and_batchnorm() -> None:
    layout = bound(
        """
        dims:
          fc.{last d}: fixed because these are the outputs
        tensors:
          features.{c}.weight: conv.{c} conv.{prev c} _ _
          features.{c}.bias?: conv.{c}
          features.{c+1}.{weight,bias}?: conv.{c}
          classifier.{first d}.weight: fc.{d} (conv.{last c} _)
          classifier.{d}.weight: fc.{d} fc.{prev d}
          classifier.{d}.bias: fc.{d}
        """,
        {
            "features.0.weight": (4, 3, 3, 3),
            "features.0.bias": (4,),
            "features.1.weight": (4,),
            "features.1.bias": (4,),
            "features.7.weight": (6, 4, 3, 3),
            "features.8.weight": (6,),
            "features.8.bias": (6,),
            "classifier.0.weight": (5, 24),
            "classifier.0.bias": (5,),
            "classifier.3.weight": (10, 5),
            "classifier.3.bias": (10,),
        },
    )
    assert sizes(layout) == {"conv.0": 4, "conv.7": 6, "fc.0": 5, "fc.3": 10}
    assert still(layout) == {"fc.3": "these are the outputs"}
    assert shown(layout, "features.0.weight") == ["0: conv.0 4*27, _ 27*1"]
    assert shown(layout, "features.7.weight") == ["0: conv.7 6*36, conv.0 4*9, _ 9*1"]
    assert shown(layout, "features.8.bias") == ["0: conv.7 6*1"]
    assert shown(layout, "classifier.0.weight") == ["0: fc.0 5*24, conv.7 6*4, _ 4*1"]
    assert shown(layout, "classifier.3.weight") == ["0: _ 10*5, fc.0 5*1"]


def test_densenet_whose_axes_are_concatenations() -> None:
    layout = bound(
        """
        tensors:
          features.conv0.weight: in.1 _ _ _
          features.denseblock{b}.denselayer{l}.norm1.weight: in.{b} + g.{b}.{<l}
          features.denseblock{b}.denselayer{l}.conv1.weight: mid.{b}.{l} in.{b} + g.{b}.{<l} _ _
          features.denseblock{b}.denselayer{l}.conv2.weight: g.{b}.{l} mid.{b}.{l} _ _
          features.transition{b}.conv.weight: in.{b+1} in.{b} + g.{b}.{*} _ _
          features.norm5.weight: in.{last b} + g.{last b}.{*}
          classifier.weight: _ in.{last b} + g.{last b}.{*}
        """,
        {
            "features.conv0.weight": (6, 3, 7, 7),
            "features.denseblock1.denselayer1.norm1.weight": (6,),
            "features.denseblock1.denselayer1.conv1.weight": (8, 6, 1, 1),
            "features.denseblock1.denselayer1.conv2.weight": (2, 8, 3, 3),
            "features.denseblock1.denselayer2.norm1.weight": (8,),
            "features.denseblock1.denselayer2.conv1.weight": (8, 8, 1, 1),
            "features.denseblock1.denselayer2.conv2.weight": (2, 8, 3, 3),
            "features.transition1.conv.weight": (5, 10, 1, 1),
            "features.denseblock2.denselayer1.norm1.weight": (5,),
            "features.denseblock2.denselayer1.conv1.weight": (8, 5, 1, 1),
            "features.denseblock2.denselayer1.conv2.weight": (2, 8, 3, 3),
            "features.norm5.weight": (7,),
            "classifier.weight": (10, 7),
        },
    )
    assert sizes(layout) == {
        "in.1": 6, "in.2": 5, "g.1.1": 2, "g.1.2": 2, "g.2.1": 2, "mid.1.1": 8, "mid.1.2": 8, "mid.2.1": 8,
    }  # fmt: skip
    assert still(layout) == {}
    assert shown(layout, "features.denseblock1.denselayer1.norm1.weight") == ["0: in.1 6*1"]
    assert shown(layout, "features.transition1.conv.weight") == [
        "0: in.2 5*10, in.1 6*1",
        "6: in.2 5*10, g.1.1 2*1",
        "8: in.2 5*10, g.1.2 2*1",
    ]
    assert shown(layout, "classifier.weight") == ["0: _ 10*7, in.2 5*1", "5: _ 10*7, g.2.1 2*1"]


def test_t5_whose_bias_table_ties_the_heads_of_a_whole_stack() -> None:
    layout = bound(
        """
        dims:
          eqk.{i}: within eh
          ev.{i}: within eh
        tensors:
          shared.weight: _ embed
          encoder.block.{i}.layer.0.SelfAttention.{q,k}.weight: (eh eqk.{i}) embed
          encoder.block.{i}.layer.0.SelfAttention.v.weight: (eh ev.{i}) embed
          encoder.block.{i}.layer.0.SelfAttention.o.weight: embed (eh ev.{i})
          encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight: _ eh
        """,
        {
            "shared.weight": (20, 6),
            **{f"encoder.block.{i}.layer.0.SelfAttention.{w}.weight": (12, 6) for i in (0, 1) for w in "qkv"},
            **{f"encoder.block.{i}.layer.0.SelfAttention.o.weight": (6, 12) for i in (0, 1)},
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 4),
        },
    )
    assert sizes(layout) == {"embed": 6, "eh": 4, "eqk.0": 3, "eqk.1": 3, "ev.0": 3, "ev.1": 3}
    assert owners(layout) == {"eqk.0": "eh", "eqk.1": "eh", "ev.0": "eh", "ev.1": "eh"}
    assert shown(layout, "encoder.block.1.layer.0.SelfAttention.o.weight") == ["0: embed 6*12, eh 4*3, ev.1<1 3*1"]
    assert layout.notes == ()


def test_swin_whose_merging_reads_four_neighbours() -> None:
    layout = bound(
        """
        tensors:
          patch_embed.weight: s.0 _ _ _
          layers.{s}.blocks.{b}.fc1.weight: mlp.{s}.{b} s.{s}
          layers.{s}.blocks.{b}.fc2.weight: s.{s} mlp.{s}.{b}
          layers.{s}.downsample.norm.weight: (4 s.{s})
          layers.{s}.downsample.reduction.weight: s.{s+1} (4 s.{s})
        """,
        {
            "patch_embed.weight": (3, 3, 4, 4),
            "layers.0.blocks.0.fc1.weight": (7, 3),
            "layers.0.blocks.0.fc2.weight": (3, 7),
            "layers.0.downsample.norm.weight": (12,),
            "layers.0.downsample.reduction.weight": (5, 12),
            "layers.1.blocks.0.fc1.weight": (7, 5),
            "layers.1.blocks.0.fc2.weight": (5, 7),
        },
    )
    assert sizes(layout) == {"s.0": 3, "s.1": 5, "mlp.0.0": 7, "mlp.1.0": 7}
    assert shown(layout, "layers.0.downsample.reduction.weight") == ["0: s.1 5*12, _ 4*3, s.0 3*1"]


def test_a_bidirectional_lstm_with_one_dim_on_two_sides() -> None:
    layout = bound(
        """
        tensors:
          weight_ih_l{k}: (4 f.{k}) f.{k-1} + r.{k-1}
          weight_hh_l{k}: (4 f.{k}) f.{k}
          bias_{ih,hh}_l{k}: (4 f.{k})
          weight_ih_l{k}_reverse: (4 r.{k}) f.{k-1} + r.{k-1}
          weight_hh_l{k}_reverse: (4 r.{k}) r.{k}
          bias_{ih,hh}_l{k}_reverse: (4 r.{k})
        """,
        {
            f"{what}_l{k}{end}": (12, *rest)
            for k, width in ((0, 5), (1, 6))
            for end in ("", "_reverse")
            for what, rest in (("weight_ih", (width,)), ("weight_hh", (3,)), ("bias_ih", ()), ("bias_hh", ()))
        },
    )
    assert sizes(layout) == {"f.0": 3, "f.1": 3, "r.0": 3, "r.1": 3}
    assert shown(layout, "weight_ih_l0") == ["0: _ 4*15, f.0 3*5, _ 5*1"]
    assert shown(layout, "weight_hh_l0_reverse") == ["0: _ 4*9, r.0 3*3, r.0 3*1"]
    assert shown(layout, "weight_ih_l1_reverse") == [
        "0: _ 4*18, r.1 3*6, f.0 3*1",
        "3: _ 4*18, r.1 3*6, r.0 3*1",
    ]


def test_mixtral_whose_experts_move_by_their_keys() -> None:
    block = "model.layers.0.block_sparse_moe"
    layout = bound(
        """
        dims:
          expert.{i}: index e in model.layers.{i}.*.experts.{e}.*
          ff.{i}: within expert.{i}
        tensors:
          model.embed_tokens.weight: _ embed
          model.layers.{i}.block_sparse_moe.gate.weight: expert.{i} embed
          model.layers.{i}.block_sparse_moe.experts.{e}.{w1,w3}.weight: ff.{i} embed
          model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight: embed ff.{i}
        """,
        {
            "model.embed_tokens.weight": (20, 6),
            f"{block}.gate.weight": (3, 6),
            **{f"{block}.experts.{e}.{w}.weight": (7, 6) for e in range(3) for w in ("w1", "w3")},
            **{f"{block}.experts.{e}.w2.weight": (6, 7) for e in range(3)},
        },
    )
    assert sizes(layout) == {"embed": 6, "expert.0": 3, "ff.0": 7}
    assert owners(layout) == {"ff.0": "expert.0"}
    w2 = layout.tensors[f"{block}.experts.1.w2.weight"]
    assert shown(layout, w2.key) == ["0: embed 6*7, ff.0<-1 7*1"]
    assert (w2.index_dim, w2.place) == ("expert.0", 1)
    assert w2.siblings == tuple(f"{block}.experts.{e}.w2.weight" for e in range(3))
    assert layout.tensors[f"{block}.gate.weight"].index_dim is None
    assert w2.dims() == ("expert.0", "embed", "ff.0")


NEOX = """
    sizes:
      head.{i}: config.num_attention_heads
      rot: config.rotary_pct * config.hidden_size / config.num_attention_heads
    dims:
      qk.{i}: within head.{i}
      v.{i}: within head.{i}
    tensors:
      layers.{i}.attention.query_key_value.weight: (head.{i} (_:rot + qk.{i} + _:rot + qk.{i} + v.{i})) embed
      layers.{i}.attention.query_key_value.bias: (head.{i} (_:rot + qk.{i} + _:rot + qk.{i} + v.{i}))
      layers.{i}.attention.dense.weight: embed (head.{i} v.{i})
"""
NEOX_SHAPES = {
    "layers.0.attention.query_key_value.weight": (48, 16),
    "layers.0.attention.query_key_value.bias": (48,),
    "layers.0.attention.dense.weight": (16, 16),
}


def test_neox_interleaved_by_head_with_partial_rotary() -> None:
    config = {"num_attention_heads": 2, "hidden_size": 16, "rotary_pct": 0.25}
    layout = bound(NEOX, NEOX_SHAPES, config=config)
    assert sizes(layout) == {"embed": 16, "head.0": 2, "qk.0": 6, "v.0": 8}
    assert layout.sizes == {"rot": 2}
    assert shown(layout, "layers.0.attention.query_key_value.bias") == [
        "0: head.0 2*24, _ 2*1",
        "2: head.0 2*24, qk.0<0 6*1",
        "8: head.0 2*24, _ 2*1",
        "10: head.0 2*24, qk.0<0 6*1",
        "16: head.0 2*24, v.0<0 8*1",
    ]
    assert shown(layout, "layers.0.attention.dense.weight") == ["0: embed 16*16, head.0 2*8, v.0<1 8*1"]


def test_neox_with_every_dim_rotated_leaves_an_empty_segment() -> None:
    config = {"num_attention_heads": 2, "hidden_size": 16, "rotary_pct": 1.0}
    layout = bound(NEOX, NEOX_SHAPES, config=config)
    assert sizes(layout) == {"embed": 16, "head.0": 2, "qk.0": 0, "v.0": 8}
    assert shown(layout, "layers.0.attention.query_key_value.bias") == [
        "0: head.0 2*24, _ 8*1",
        "8: head.0 2*24, _ 8*1",
        "16: head.0 2*24, v.0<0 8*1",
    ]
    assert "qk.0" not in layout.moving()


def test_timm_whose_qkv_is_fused_without_interleaving() -> None:
    layout = bound(
        """
        dims:
          qk.{i}: within head.{i}
          v.{i}: within head.{i}
        tensors:
          blocks.{i}.attn.qkv.weight: (head.{i} qk.{i}) + (head.{i} qk.{i}) + (head.{i} v.{i}) embed
          blocks.{i}.attn.proj.weight: embed (head.{i} v.{i})
        """,
        {"blocks.0.attn.qkv.weight": (18, 6), "blocks.0.attn.proj.weight": (6, 6)},
        overrides={"head": 2},
    )
    assert sizes(layout) == {"embed": 6, "head.0": 2, "qk.0": 3, "v.0": 3}
    assert shown(layout, "blocks.0.attn.qkv.weight") == [
        "0: head.0 2*18, qk.0<0 3*6, embed 6*1",
        "36: head.0 2*18, qk.0<0 3*6, embed 6*1",
        "72: head.0 2*18, v.0<0 3*6, embed 6*1",
    ]


def test_geglu_whose_rows_move_in_pairs() -> None:
    layout = bound(
        """
        tensors:
          ff.{i}.proj.weight: (2 ff.{i}) embed
          ff.{i}.out.weight: embed ff.{i}
        """,
        {"ff.0.proj.weight": (10, 3), "ff.0.out.weight": (3, 5)},
    )
    assert sizes(layout) == {"ff.0": 5, "embed": 3}
    assert shown(layout, "ff.0.proj.weight") == ["0: _ 2*15, ff.0 5*3, embed 3*1"]


def test_group_norm_whose_channels_stay_inside_their_groups() -> None:
    text = """
        sizes:
          group.{i}: [config.norm_num_groups, 32]
        dims:
          ch.{i}: within group.{i}
        tensors:
          res.{i}.in.weight: (group.{i} ch.{i}) _ _ _
          res.{i}.norm.{weight,bias}: (group.{i} ch.{i})
          res.{i}.out.weight: _ (group.{i} ch.{i}) _ _
        """
    shapes = {
        "res.0.in.weight": (64, 3, 3, 3),
        "res.0.norm.weight": (64,),
        "res.0.norm.bias": (64,),
        "res.0.out.weight": (3, 64, 3, 3),
    }
    layout = bound(text, shapes)
    assert sizes(layout) == {"group.0": 32, "ch.0": 2}
    assert owners(layout) == {"ch.0": "group.0"}
    assert shown(layout, "res.0.norm.bias") == ["0: group.0 32*2, ch.0<0 2*1"]
    assert shown(layout, "res.0.out.weight") == ["0: _ 3*576, group.0 32*18, ch.0<1 2*9, _ 9*1"]
    assert sizes(bound(text, shapes, config={"norm_num_groups": 8})) == {"group.0": 8, "ch.0": 8}


def test_llama_with_grouped_query_attention() -> None:
    text = """
        sizes:
          head_dim: [config.head_dim, config.hidden_size / config.num_attention_heads]
        dims:
          q.{i}: within kv.{i}
          v.{i}: within kv.{i}
        tensors:
          layers.{i}.q_proj.weight: (kv.{i} q.{i} _:head_dim) embed
          layers.{i}.k_proj.weight: (kv.{i} _:head_dim) embed
          layers.{i}.v_proj.weight: (kv.{i} v.{i}) embed
          layers.{i}.o_proj.weight: embed (kv.{i} q.{i} v.{i})
        """
    shapes = {
        "layers.0.q_proj.weight": (24, 24),
        "layers.0.k_proj.weight": (8, 24),
        "layers.0.v_proj.weight": (8, 24),
        "layers.0.o_proj.weight": (24, 24),
    }
    for config in ({"head_dim": 4}, {"head_dim": None, "hidden_size": 24, "num_attention_heads": 6}):
        layout = bound(text, shapes, config=config)
        assert sizes(layout) == {"embed": 24, "kv.0": 2, "q.0": 3, "v.0": 4}
        assert shown(layout, "layers.0.q_proj.weight") == ["0: kv.0 2*288, q.0<0 3*96, _ 4*24, embed 24*1"]
        assert shown(layout, "layers.0.o_proj.weight") == ["0: embed 24*24, kv.0 2*12, q.0<1 3*4, v.0<1 4*1"]


def test_a_concatenation_of_streams_with_one_of_them_twice() -> None:
    layout = bound(
        "tensors:\n  a: v\n  b: e\n  c: s\n  joint: v + e + s + v _\n",
        {"a": (2,), "b": (3,), "c": (4,), "joint": (11, 5)},
    )
    assert shown(layout, "joint") == ["0: v 2*5, _ 5*1", "10: e 3*5, _ 5*1", "25: s 4*5, _ 5*1", "45: v 2*5, _ 5*1"]
