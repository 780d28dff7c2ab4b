"""Tempting symmetries that convolutional networks do not have: a spec that claims one is refuted, and named."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rebasin_cli.errors import ContentError
from rebasin_cli.proofs.proof import prove
from rebasin_cli.proofs.subjects import Subject, branching_convnets, convnets, depthwise_convnets, images, paper
from rebasin_cli.proofs.subjects.modules import module_subject, randomise
from rebasin_cli.spec import bind, detect, find_spec
from tests.architectures.refuting import Claim, check_refuted, exchanged

RESNEXT = convnets.SUBJECTS["resnet-bottleneck"][1]
REGNET = convnets.SUBJECTS["regnet"][0]
CROSS_GROUPS = {
    "  a.{s}.{b}: within g.{s}.{b}\n": "",
    "  c.{s}.{b}: within g.{s}.{b}\n": "",
    "c.{s}.{b}) a.{s}.{b} _ _": "c.{s}.{b}) _ _ _",
    "(g.{s}.{b} a.{s}.{b})": "a.{s}.{b}",
    "(g.{s}.0 a.{s}.0)": "a.{s}.0",
    "(g.{s}.{b} c.{s}.{b})": "c.{s}.{b}",
}
STREAMS_APART = {"  s.{i}: same as s.{i-1} if equal\n": "  s.0: {}\n"}

CLAIMS = {
    "GhostNet: made channels lie beside their own": Claim("ghostnet", branching_convnets.ghostnet, {
        "(2 e.{i}.{b})": "(e.{i}.{b} 2)",
    }, "e"),
    "Res2Net: parts are added to none": Claim("res2net", branching_convnets.res2net, {
        "dims:\n  x.{s}.{b}.{k}: same as q.{s}.{b}.{k-1}\n": "",
    }, "x"),
    "HRNet: a fusion writes to a stream of its own": Claim("hrnet", branching_convnets.hrnet, {
        "fuse_layers.{i}.{j}.0.weight: w.{i} w": "fuse_layers.{i}.{j}.0.weight: up.{i} w",
        "fuse_layers.{i}.{j}.1.{weight,bias}: w": "fuse_layers.{i}.{j}.1.{weight,bias}: up",
        "fuse_layers.{i}.{j}.1.running_{mean,var}: w": "fuse_layers.{i}.{j}.1.running_{mean,var}: up",
    }, "up"),
    "Inception: 6a passes its input on first": Claim("inception", branching_convnets.inception, {
        "c.6a.branch3x3 + c.6a.branch3x3dbl_3 + out.5d": "out.5d + c.6a.branch3x3 + c.6a.branch3x3dbl_3",
    }, "c"),
    "ResNet: the stem is not stage 1": Claim("resnet-basic", convnets.SUBJECTS["resnet-basic"][1], {
        "dims:\n  s.0: same as s.1 if equal\n": "",
    }, "s"),
    "ResNet: a shortcut keeps its input's order": Claim("resnet-basic", convnets.SUBJECTS["resnet-basic"][1], {
        ".weight: s.{s} s.{s-1} _ _": ".weight: _ s.{s-1} _ _",
    }, "s"),
    "ResNeXt: channels cross groups": Claim("resnet-bottleneck", RESNEXT, {
        **CROSS_GROUPS, "(g.1.0 a.1.0)": "a.1.0",
    }, "a"),
    "RegNet: channels cross groups": Claim("regnet", REGNET, CROSS_GROUPS, "c"),
    "VGG: pixels before channels": Claim(
        "vgg", convnets.SUBJECTS["vgg"][0], {"fc.{d} (conv.{last c} _)": "fc.{d} (_ conv.{last c})"}, "conv"
    ),
    "VGG: running statistics stay": Claim("vgg", convnets.SUBJECTS["vgg"][1], {
        "features.{c+1}.running_{mean,var}?: conv.{c}": "features.{c+1}.running_{mean,var}?: _",
    }, "conv"),
    "DenseNet: new channels before old ones": Claim("densenet", convnets.SUBJECTS["densenet"][0], {
        "in.{b} + g.{b}.{<l}": "g.{b}.{<l} + in.{b}", "in.{b} + g.{b}.{*}": "g.{b}.{*} + in.{b}",
    }, "g"),
    "DenseNet: a transition sees new channels first": Claim("densenet", convnets.SUBJECTS["densenet"][0], {
        "conv.weight: in.{b+1} in.{b} + g.{b}.{*}": "conv.weight: in.{b+1} g.{b}.{*} + in.{b}",
    }, "in"),
    "MobileNetV2: every block has a stream of its own": Claim(
        "mobilenetv2", depthwise_convnets.mobilenetv2, {"dims:\n  s.{i}: same as s.{i-1} if equal\n": ""}, "s"
    ),
    "MobileNetV3: gates stay where channels move": Claim("mobilenetv3", convnets.SUBJECTS["mobilenetv3"][0], {
        "block.2.fc2.weight?: e.{i} se.{i}": "block.2.fc2.weight?: _ se.{i}",
    }, "e"),
    "EfficientNet: gates stay where channels move": Claim("efficientnet", convnets.SUBJECTS["efficientnet"][0], {
        "block.2.fc1.weight: se.{s}.{b} e.{s}.{b}": "block.2.fc1.weight: se.{s}.{b} _",
    }, "e"),
    "SqueezeNet: 3×3 channels before 1×1": Claim("squeezenet", convnets.SUBJECTS["squeezenet"][0], {
        "one.{prev f} + three.{prev f}": "three.{prev f} + one.{prev f}",
    }, "one"),
    "GoogLeNet: branches in another order": Claim("googlenet", convnets.googlenet, {
        "three.{prev at} + five.{prev at}": "five.{prev at} + three.{prev at}",
    }, "five"),
    "ConvNeXt: a block adds in the old order": Claim("convnext", convnets.SUBJECTS["convnext"][0], {
        "mlp.fc2.weight?: s.{s} mlp.{s}.{b}": "mlp.fc2.weight?: _ mlp.{s}.{b}",
    }, "s"),
    "ConvNeXt V2: response norm stays": Claim("convnext", convnets.SUBJECTS["convnext"][1], {
        "grn.{weight,bias}?: mlp.{s}.{b}": "grn.{weight,bias}?: _",
    }, "mlp"),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_a_wrong_symmetry_is_refuted_and_named(claim: Claim, tmp_path: Path) -> None:
    check_refuted(claim, tmp_path)


def test_squeeze_and_excitation_has_a_width_of_its_own(tmp_path: Path) -> None:
    tied = exchanged("mobilenetv3", {"se.{i}": "e.{i}"}, tmp_path)
    with pytest.raises(ContentError, match=r"dim e\.\d+ is \d+ by features"):
        prove(tied, convnets.SUBJECTS["mobilenetv3"][0]())


class PaddedBlock(paper.Block):
    """Shortcuts without weights: every other position, zeros for the channels that are not there (option A)."""

    def __init__(self, ins: int, outs: int, stride: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__(ins, outs, stride, norm)
        self.shortcut = nn.Sequential()
        self.stride, self.missing = stride, outs - ins

    def forward(self, x: Tensor) -> Tensor:
        """(N, ins, H, W) to (N, outs, H / stride, W / stride)."""
        inside = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        skip = x[:, :, :: self.stride, :: self.stride]
        return F.relu(inside + F.pad(skip, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2)))


def padded() -> Subject:
    torch.manual_seed(0)
    module = randomise(paper.ResNet20(12, blocks=2, block=PaddedBlock))
    return module_subject("ResNet with option A", module, (torch.randn(2, 3, 16, 16, dtype=torch.float64),))


def test_shortcuts_without_weights_are_not_taken_for_projections() -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in padded().state.items()}
    with pytest.raises(ContentError, match=r"no tensor fits `layer\{s\}\.0\.\{downsample"):
        bind(find_spec("resnet-basic"), shapes)
    with pytest.raises(ContentError, match="no architecture fits"):
        detect(shapes)


def test_and_they_do_break_the_function_if_they_are(tmp_path: Path) -> None:
    lines = [
        "{downsample.0|downsample.1|shortcut.0}.weight", "{downsample.1|downsample.2|shortcut.1}.{weight,bias}",
    ]  # fmt: skip
    careless = exchanged("resnet-basic", {line + ":": line + "?:" for line in lines}, tmp_path)
    proof = prove(careless, padded())
    assert not proof.holds
    assert proof.breaking == ("s",)


@pytest.mark.parametrize("groups", [4, 2])
def test_group_norm_is_not_layer_norm_of_the_same_shapes(groups: int) -> None:
    torch.manual_seed(0)
    module = randomise(paper.ResNet20(12, blocks=1, norm=partial(nn.GroupNorm, groups)))
    subject = module_subject("GroupNorm", module, (torch.randn(2, 3, 16, 16, dtype=torch.float64),))
    shapes = {key: tuple(tensor.shape) for key, tensor in subject.state.items()}
    assert detect(shapes).spec.name == "resnet-basic"
    proof = prove(find_spec("resnet-basic"), subject)
    assert not proof.holds
    assert set(proof.breaking) == {"s", "in"}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_group_norm_named_batch_norm_is_told_by_statistics(name: str) -> None:
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in images.torchvision_subject(name).state.items()
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    with pytest.raises(ContentError, match="no architecture fits"):
        detect(shapes)


def test_a_first_stage_that_expands_is_told_apart() -> None:
    subject = images.timm_subject("fbnetc_100")
    with pytest.raises(ContentError, match="no architecture fits"):
        detect({key: tuple(tensor.shape) for key, tensor in subject.state.items()})


def test_group_norm_of_one_group_is_all_channels_and_holds() -> None:
    torch.manual_seed(0)
    module = randomise(paper.ResNet20(12, blocks=1, norm=partial(nn.GroupNorm, 1)))
    subject = module_subject("GroupNorm(1)", module, (torch.randn(2, 3, 16, 16, dtype=torch.float64),))
    assert prove(find_spec("resnet-basic"), subject).holds
