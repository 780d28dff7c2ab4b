"""Published ensembles, as they ship in wheels: read, aligned with their function kept, and judged truly when merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rebasin_cli.checkpoints.opening import open_checkpoint
from tests import ensembles
from tests.cli.conftest import Rebasin

CELU = nn.CELU(0.1)  # as ANI has it


def package(name: str) -> Path:
    """The folder of a package, or the test is left out."""
    found = ensembles.folder_of(name)
    if found is None:
        pytest.skip(f"{name} is not installed (tests/requirements-networks.txt)")
    return found


def state_of(path: str) -> dict[str, Tensor]:
    """The tensors of a member, without importing what its file names."""
    with open_checkpoint(Path(path)) as checkpoint:
        return {key: checkpoint[key] for key in checkpoint}


def answers(state: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Of Chemprop's network with the weights of a member."""
    network = ensembles.Molecules(tasks=state["predictor.ffn.1.2.bias"].numel())
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    with torch.no_grad():
        return network(inputs)


def test_molecules_are_merged_and_judged_truly(rebasin: Rebasin, workplace: Path) -> None:
    members = [str(path) for path in ensembles.molecules(package("admet_ai"))[:2]]
    (workplace / "chemprop.yaml").write_text(ensembles.MOLECULES)
    network = ("--arch", "chemprop.yaml", "--network", "tests.ensembles:molecule_network")
    aligned = rebasin("align", *members, "-o", "aligned.safetensors", *network, "--quality", "fast")
    assert aligned.code == 0, aligned.err
    assert aligned.document["architecture"]["checked"]["error"] < 1e-5
    inputs = ensembles.molecule_inputs(40, seed=1)
    own = [answers(state_of(path), inputs) for path in members]
    torch.testing.assert_close(answers(load_file("aligned.safetensors"), inputs), own[1], rtol=1e-4, atol=1e-4)
    targets = (own[0] + own[1]) / 2
    np.savez("data.npz", inputs=inputs.numpy(), targets=targets.numpy())
    judged = ("--data", "data.npz", "--loss", "mse", "--steps", "3", "--quality", "fast")
    merged = rebasin("merge", *members, "-o", "merged.safetensors", *network, *judged)
    assert merged.code == 0, merged.err
    verdict = merged.document["verdict"]
    loss = float((answers(load_file("merged.safetensors"), inputs) - targets).square().mean())
    single = sum(float((answer - targets).square().mean()) for answer in own) / 2
    assert verdict["loss"] == pytest.approx(loss, rel=1e-3)
    assert verdict["members"] == pytest.approx(single, rel=1e-3)
    assert verdict["bad"] is (loss > single)


def test_members_of_energies_are_aligned_in_one_file(rebasin: Rebasin, workplace: Path) -> None:
    members = ensembles.energies(package("torchani"))[:3]
    assert [len(state) for state in members] == [32] * 3
    together = {f"models.{i}.{key}": t.clone() for i, state in enumerate(members) for key, t in state.items()}
    save_file(together, "ani.safetensors")
    (workplace / "ani.yaml").write_text(ensembles.ENERGIES)
    named = ("ani.safetensors:models.0", "ani.safetensors:models.*")
    done = rebasin("align", *named, "-o", "out", "--arch", "ani.yaml", "--quality", "fast")
    assert done.code == 0, done.err
    aligned = done.document["members"]["members"]
    assert aligned[0]["distance"]["cosine_after"] == pytest.approx(1)
    assert all(m["distance"]["after"] < m["distance"]["before"] for m in aligned[1:])
    surroundings = torch.rand(20, 384, generator=torch.Generator().manual_seed(0))
    for i, state in enumerate(members):
        moved = load_file(f"out/ani.models.{i}.safetensors")
        for element in ensembles.ELEMENTS:
            torch.testing.assert_close(energy(moved, element, surroundings), energy(state, element, surroundings))


def energy(state: dict[str, Tensor], element: str, x: Tensor) -> Tensor:
    """Of an atom in each of the surroundings x (n, 384), in float64."""
    x = x.double()
    for layer in range(4):
        x = x @ state[f"{element}.{2 * layer}.weight"].double().T + state[f"{element}.{2 * layer}.bias"].double()
        x = CELU(x) if layer < 3 else x
    return x
