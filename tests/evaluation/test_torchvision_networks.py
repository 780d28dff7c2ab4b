"""The functional networks against torchvision's modules, with every tensor random."""

from __future__ import annotations

import pytest
import torch

from rebasin_cli.errors import UsageError
from rebasin_cli.evaluation.libraries import library
from tests.evaluation.building import assert_same_function, images, network_for, randomise

models = library("torchvision").models

CASES = [
    ("resnet-basic", "resnet18", 64),
    ("resnet-basic", "resnet34", 40),
    ("resnet-bottleneck", "resnet50", 64),
    ("resnet-bottleneck", "resnext50_32x4d", 40),
    ("vgg", "vgg11", 32),
    ("vgg", "vgg11_bn", 64),
    ("vgg", "vgg19_bn", 32),
    ("vgg", "alexnet", 96),
]


@pytest.mark.parametrize(("spec", "name", "size"), CASES, ids=[name for _, name, _ in CASES])
def test_equals_the_module(spec: str, name: str, size: int) -> None:
    kwargs = {} if "res" in name else {"dropout": 0.5}
    module = randomise(thin(getattr(models, name)(num_classes=7, **kwargs)))
    state = module.state_dict()
    network = network_for(spec, state)
    assert (network.classes, network.width, network.reads) == (7, 3, "images")
    assert_same_function(network, module, images(size))


def thin(module: torch.nn.Module) -> torch.nn.Module:
    """A classifier of 4096 units narrowed to 96, so that the test is quick; nothing else changes."""
    classifier = getattr(module, "classifier", None)
    if classifier is None:
        return module
    linears = [i for i, layer in enumerate(classifier) if isinstance(layer, torch.nn.Linear)]
    sizes = [classifier[linears[0]].in_features, 96, 96, 7]
    for place, i in enumerate(linears):
        classifier[i] = torch.nn.Linear(sizes[place], sizes[place + 1])
    return module


def test_a_wrapper_prefix_is_seen_through() -> None:
    module = randomise(models.resnet18(num_classes=5))
    state = {f"module.{key}": tensor for key, tensor in module.state_dict().items()}
    network = network_for("resnet-basic", state)
    assert network.prefix == "module."
    assert_same_function(network, module, images(40), prefix="module.")


def test_stem_options_change_the_function_as_they_say() -> None:
    module = randomise(models.resnet18(num_classes=5))
    module.conv1.stride = (1, 1)
    module.maxpool = torch.nn.Identity()
    network = network_for("resnet-basic", module.state_dict(), stem_stride="1", stem_pool="none")
    assert_same_function(network, module, images(24))


def test_other_norms_are_refused_with_running_statistics() -> None:
    with pytest.raises(UsageError, match="BatchNorm"):
        network_for("resnet-basic", models.resnet18().state_dict(), norm="layernorm")


def test_what_is_assumed_is_said() -> None:
    said = " ".join(network_for("resnet-basic", models.resnet18().state_dict()).assumptions)
    assert "7×7 stem has stride 2 and max pooling" in said
    assert "ReLU" in said
    assert "LayerNorm" not in said
