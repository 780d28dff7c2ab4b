"""Compare what two versions of the program write: `python -m tests.same_outputs OLD NEW` (two checkouts).

Runs the commands of README on the trained pair that ships, in either checkout, and compares every file, stdout and
exit code byte for byte. Times, versions, paths and memory are taken out of documents first. Exit code 1: some differ.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
VOLATILE = re.compile(r"(seconds|time|started|finished|version|created|date|host|machine|platform|memory|path|command)")
CLOCK = re.compile(r"\b\d+(\.\d+)? ?(ms|s|min|MB|GB|kB|B)\b|\b\d\.\d+\.\d+\b|\d{4}-\d\d-\d\d[T ][\d:.+Z]*")
INSIDE = re.compile(r"data:application/json;charset=utf-8;base64,([\w+/=]+)")
"""A document that a page has inside, to be downloaded."""

KEPT: list[object] = []

MODULE = """
import torch
def make(state, **options):
    sizes = [state["fc.0.weight"].shape[1]] + [t.shape[0] for k, t in state.items() if k.endswith("weight")]
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.ModuleList(torch.nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))
        def forward(self, x):
            for layer in self.fc[:-1]:
                x = torch.relu(layer(x))
            return self.fc[-1](x)
    return Net()
"""

COMMANDS = """
align a.safetensors b.safetensors --json
align a.safetensors b.safetensors -o r.safetensors --order random --start identity --seed 3 --json
align a.safetensors b.safetensors -o fw.safetensors --method frank-wolfe --json
align a.safetensors b.safetensors -o sh.safetensors --method sinkhorn --json
align a.safetensors b.safetensors -o s.safetensors --method sinkhorn --objective midpoint --epochs 2 --data d.npz --json
align a.safetensors b.safetensors -o act.safetensors --method activations --data d.npz --json
align a.safetensors b.safetensors -o ste.safetensors --method ste --data d.npz --epochs 2 --json
align a.safetensors b.safetensors -o high.safetensors --quality high --json
align a.safetensors b.safetensors -o restarts.safetensors --restarts 4 --json
align a.safetensors b.safetensors -o own.safetensors --network my_module:make --data d.npz --json
align a.safetensors b.safetensors -o frozen.safetensors --freeze h.0 --json
align a.safetensors b.safetensors -o plan.safetensors --dry-run
interpolate a.safetensors b.safetensors --steps 7 --data d.npz --json --plot p.png --report i.json
interpolate a.safetensors b.safetensors --at 0.5 -o merged.safetensors --json
interpolate a.safetensors b.safetensors --steps 5 -o path --json
interpolate a.safetensors b.safetensors --at best -o best.safetensors --data d.npz --steps 5 --json
interpolate a.safetensors b.safetensors --at 0.5 -o slerp.safetensors --combine slerp --weight fc.0.*=0.3 --json
interpolate a.safetensors b.safetensors --data d.npz --fit-data d.npz --repair repair --steps 5 --json
interpolate a.safetensors b.safetensors --data d.npz --steps 5 --metric macro-f1 --max-barrier 0.0001 --json
interpolate a.safetensors b.safetensors --data d.npz --steps 5 --resume sweep.json --json
merge m1.safetensors m2.safetensors m3.safetensors -o m.safetensors --data d.npz --json
merge m1.safetensors m2.safetensors m3.safetensors -o mm.safetensors --weights 1,2,1 --algorithm merge-many --json
merge m1.safetensors m2.safetensors m3.safetensors -o n.safetensors --method activations --fit-data d.npz --json
repair merged.safetensors --data d.npz --json
repair merged.safetensors --data d.npz --end a.safetensors --end b.aligned.safetensors --at 0.5 -o e.safetensors --json
apply b.permutation.safetensors b.safetensors -o again.safetensors --json
apply b.permutation.safetensors b.aligned.safetensors -o back.safetensors --inverse --json
inspect a.safetensors
inspect a.safetensors --json
inspect nowhere.safetensors
arch list
arch show llama
arch show mlp
arch check mlp a.safetensors
report i.json
report i.json --text -
report i.json --markdown i.md --html i.html
align a.safetensors m1.safetensors --ignore fc.2.* -o ig.safetensors --json
align a.safetensors --json
align a.safetensors d.npz
align gpt0.safetensors gpt1.safetensors --set head=12 --json
align gpt0.safetensors gpt1.safetensors --set head=12 --method frank-wolfe -o gptfw.safetensors --json
align llama0.safetensors llama1.safetensors --set head_dim=8 --quality high --json
align conv0.safetensors conv1.safetensors --json
align conv0.safetensors conv2.safetensors --json
align conv0.safetensors conv1.safetensors -o c.safetensors --seed 4 --order random --start identity --restarts 2 --json
align conv0.safetensors conv1.safetensors -o convh.safetensors --method sinkhorn --json
merge conv0.safetensors conv1.safetensors conv2.safetensors -o convm.safetensors --json
inspect conv0.safetensors
""".strip().splitlines()


def plain(value: Any) -> Any:
    """A document without what changes from run to run."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if not VOLATILE.search(k)}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


def digest(data: bytes, folder: Path) -> str:
    """Of a file or of stdout, as text where it is short, so that differences can be read."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return hashlib.sha256(data).hexdigest()
    text = text.replace("\\_", "_").replace(str(folder), "DIR").replace(os.environ["PYTHONPATH"], "TREE")
    try:
        return json.dumps(plain(json.loads(text)), indent=1, sort_keys=True)
    except ValueError:
        return CLOCK.sub("#", INSIDE.sub(lambda found: digest(base64.b64decode(found[1]), folder), text))


def run_all(folder: Path) -> dict[str, str]:
    """Run every command in `folder`, and what each printed and left there."""
    from safetensors.torch import load_file

    from rebasin_cli.cli import main
    from tests.small import save, shuffled

    os.chdir(folder)
    sys.path.insert(0, str(folder))
    shutil.copy(DATA / "digits_mlp_a.safetensors", "a.safetensors")
    shutil.copy(DATA / "digits_mlp_b.safetensors", "b.safetensors")
    shutil.copy(DATA / "digits.npz", "d.npz")
    Path("my_module.py").write_text(MODULE)
    states = [load_file("a.safetensors"), load_file("b.safetensors"), shuffled(load_file("a.safetensors"), 3)]
    for i, state in enumerate(states):
        save(folder / f"m{i + 1}.safetensors", state)
    for name, several in networks().items():
        for i, state in enumerate(several):
            save(folder / f"{name}{i}.safetensors", state)
    found: dict[str, str] = {}
    seen: dict[Path, float] = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    for line in COMMANDS:
        out, errors = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = main(line.split())
            out.flush()
            errors.flush()
        found[f"{line} · exit code"] = str(code)
        found[f"{line} · stdout"] = digest(out.buffer.getvalue(), folder)  # type: ignore[attr-defined]
        found[f"{line} · stderr"] = digest(errors.buffer.getvalue(), folder)  # type: ignore[attr-defined]
        for path in sorted(folder.rglob("*")):
            if (
                path.is_file()
                and not {"__pycache__", ".cache"} & set(path.parts)
                and seen.get(path) != path.stat().st_mtime_ns
            ):
                seen[path] = path.stat().st_mtime_ns
                found[f"{line} · {path.relative_to(folder)}"] = digest(content(path), folder)
    return found


def content(path: Path) -> bytes:
    """A file's bytes; of a safetensors file without the volatile part of its metadata."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    kept = {key: value for key, value in metadata.items() if not VOLATILE.search(key)}
    return json.dumps([header, sorted(kept.items())]).encode() + hashlib.sha256(data[8 + length :]).hexdigest().encode()


def networks() -> dict[str, list[dict[str, Tensor]]]:
    """Untrained networks of other kinds: heads, pairs of rotary positions, convolutions with BatchNorm."""
    operators = torch.library.Library("torchvision", "DEF")  # torchvision's wheel is built for CUDA
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    KEPT.append(operators)
    import torchvision
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    made: dict[str, list[dict[str, Tensor]]] = {"gpt": [], "llama": [], "conv": []}
    for seed in (0, 1):
        torch.manual_seed(seed)
        gpt = GPT2LMHeadModel(
            GPT2Config(n_layer=2, n_embd=48, n_head=4, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0)
        )
        llama = LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4,
                num_key_value_heads=2, vocab_size=50, tie_word_embeddings=False,
            )
        )  # fmt: skip
        conv = torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
        for name, module in (("gpt", gpt), ("llama", llama), ("conv", conv)):
            made[name].append({k: v.detach().clone() for k, v in module.state_dict().items()})
    del made["gpt"][0]["lm_head.weight"], made["gpt"][1]["lm_head.weight"]
    noise = torch.Generator().manual_seed(9)
    near = made["conv"][0]
    made["conv"].append(
        {k: v + 0.01 * torch.randn(v.shape, generator=noise) if v.is_floating_point() else v for k, v in near.items()}
    )
    return made


def of_tree(tree: Path) -> dict[str, str]:
    """What the program of a checkout gives; the commands and this script are those of the caller."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve()
        environment = os.environ | {
            "PYTHONPATH": str(tree),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": folder + "/.cache",
        }
        code = (
            "import sys, json, runpy; tests = runpy.run_path(sys.argv[1], run_name='same');"
            "json.dump(tests['run_all'](tests['Path'](sys.argv[2])), open(sys.argv[3], 'w'))"
        )
        result = Path(folder + ".json")
        try:
            subprocess.run(
                [sys.executable, "-c", code, __file__, str(place), str(result)], check=True, env=environment, cwd=tree
            )
            found: dict[str, str] = json.loads(result.read_text())
        finally:
            result.unlink(missing_ok=True)
        return found


def main(arguments: list[str]) -> int:
    """Print what differs."""
    old, new = (of_tree(Path(name).resolve()) for name in arguments)
    differing = [name for name in old | new if old.get(name) != new.get(name)]
    for name in differing:
        print(f"--- {name}")
        for side, found in (("old", old), ("new", new)):
            print(f"{side}: {found.get(name, 'absent')[:3000]}")
    print(f"{len(old | new)} compared, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
