"""The examples that `--help` ends with; a test runs every one of them on the pair that ships."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": (
        "rebasin align a.safetensors b.safetensors",
        "rebasin interpolate a.safetensors b.safetensors --data digits.npz",
    ),
    "align": (
        "rebasin align a.safetensors b.safetensors",
        "rebasin align a.safetensors b.safetensors -o x.safetensors --quality high",
        "rebasin align a.safetensors b.safetensors -f | rebasin interpolate --steps 9",
        "rebasin align a.safetensors b.safetensors c.safetensors -o aligned",
    ),
    "interpolate": (
        "rebasin interpolate a.safetensors b.safetensors --data digits.npz",
        "rebasin interpolate a.safetensors b.safetensors --at 0.5 -o half.safetensors",
        "rebasin interpolate --data digits.npz --max-barrier 0.1 < b.rebasin.json",
    ),
    "plane": (
        "rebasin plane a.safetensors b.safetensors --data digits.npz",
        "rebasin plane a.safetensors b.safetensors --data digits.npz --plot plane.png \\\n    --steps 5",
    ),
    "merge": (
        "rebasin merge a.safetensors b.safetensors c.safetensors -o m.safetensors",
        "rebasin merge a.safetensors b.safetensors -o n.safetensors --data digits.npz",
        "rebasin merge a.safetensors b.safetensors -o p.safetensors --data digits.npz \\\n    --polish least-squares",
    ),
    "apply": (
        "rebasin apply b.permutation.safetensors b.safetensors -o out.safetensors",
        "rebasin apply b.permutation.safetensors out.safetensors --inverse \\\n    -o b2.safetensors",
    ),
    "repair": (
        "rebasin repair half.safetensors --data digits.npz --end a.safetensors \\\n    --end b.aligned.safetensors",
    ),
    "inspect": (
        "rebasin inspect a.safetensors",
        "rebasin inspect a.safetensors --json | jq .architecture.name",
    ),
    "report": (
        "rebasin report b.rebasin.json",
        "rebasin report b.rebasin.json --html page.html",
        "rebasin align a.safetensors b.safetensors -f | rebasin report --markdown -",
    ),
    "rerun": ("rebasin rerun b.rebasin.json --into again",),
    "arch": ("rebasin arch list resnet", "rebasin arch show llama"),
    "arch list": ("rebasin arch list", "rebasin arch list resnet"),
    "arch show": ("rebasin arch show llama", "rebasin arch show mlp a.safetensors --count"),
    "arch check": ("rebasin arch check mlp a.safetensors",),
    "arch derive": (
        "rebasin arch derive my_module:make",
        "rebasin arch derive my_module:make --inputs 4x64 -o my.yaml",
    ),
    "arch prove": ("rebasin arch prove mlp", "rebasin arch prove my.yaml --network my_module:make"),
}
"""By command; each line, too, fits 80 columns."""


def epilog(command: str) -> str:
    """The last lines of a command's help."""
    return "Examples:\n" + "\n".join("  " + line for line in "\n".join(EXAMPLES[command]).split("\n"))
