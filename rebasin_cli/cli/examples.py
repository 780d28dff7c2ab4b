"""The examples that `--help` ends with; a test runs every one of them on the pair that ships."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "": {
        "B with its units in A's order": "rebasin align a.safetensors b.safetensors",
        "the loss on the way from A to B": "rebasin interpolate a.safetensors b.safetensors --data digits.npz",
    },
    "align": {
        "write B aligned, the permutation and a run document beside B": "rebasin align a.safetensors b.safetensors",
        "search longer, and say where it goes": (
            "rebasin align a.safetensors b.safetensors -o x.safetensors --quality high"
        ),
        "go on with the path between them": (
            "rebasin align a.safetensors b.safetensors -f | rebasin interpolate --steps 9"
        ),
        "many networks onto A": "rebasin align a.safetensors b.safetensors c.safetensors -o aligned",
    },
    "interpolate": {
        "the barrier, before and after": "rebasin interpolate a.safetensors b.safetensors --data digits.npz",
        "write the network halfway": "rebasin interpolate a.safetensors b.safetensors --at 0.5 -o half.safetensors",
        "fail if the barrier is high, on what was aligned before": (
            "rebasin interpolate --data digits.npz --max-barrier 0.1 < b.rebasin.json"
        ),
    },
    "plane": {
        "both basins on the terminal": "rebasin plane a.safetensors b.safetensors --data digits.npz",
        "and as a picture": (
            "rebasin plane a.safetensors b.safetensors --data digits.npz --plot plane.png \\\n    --steps 5"
        ),
    },
    "merge": {
        "the mean of three models in one order": (
            "rebasin merge a.safetensors b.safetensors c.safetensors -o m.safetensors"
        ),
        "and what it is worth": "rebasin merge a.safetensors b.safetensors -o n.safetensors --data digits.npz",
        "its weights fitted to its models' outputs": (
            "rebasin merge a.safetensors b.safetensors -o p.safetensors \\\n"
            "    --data digits.npz --polish least-squares"
        ),
    },
    "apply": {
        "the same permutation on another checkpoint": (
            "rebasin apply b.permutation.safetensors b.safetensors -o out.safetensors"
        ),
        "and back": "rebasin apply b.permutation.safetensors out.safetensors --inverse \\\n    -o b2.safetensors",
    },
    "repair": {
        "bring a merge's statistics to fit its weights": (
            "rebasin repair half.safetensors --data digits.npz --end a.safetensors \\\n    --end b.aligned.safetensors"
        ),
    },
    "inspect": {
        "tensors, architecture and dims": "rebasin inspect a.safetensors",
        "one fact for a script": "rebasin inspect a.safetensors --json | jq .architecture.name",
    },
    "report": {
        "a run on the terminal": "rebasin report b.rebasin.json",
        "a page to send": "rebasin report b.rebasin.json --html page.html",
        "a model card": "rebasin align a.safetensors b.safetensors -f | rebasin report --markdown -",
    },
    "rerun": {"whether the run comes out the same": "rebasin rerun b.rebasin.json --into again"},
    "arch": {"which specs there are": "rebasin arch list resnet", "what one says": "rebasin arch show llama"},
    "arch list": {"all of them": "rebasin arch list", "some": "rebasin arch list resnet"},
    "arch show": {
        "dims, and where they stand": "rebasin arch show llama",
        "the number of symmetries of a checkpoint": "rebasin arch show mlp a.safetensors --count",
    },
    "arch check": {"whether every tensor is covered": "rebasin arch check mlp a.safetensors"},
    "arch derive": {
        "print the spec of your own network": "rebasin arch derive my_module:make",
        "with inputs of your own, into a file": "rebasin arch derive my_module:make --inputs 4x64 -o my.yaml",
    },
    "arch prove": {
        "a spec that ships, on real networks": "rebasin arch prove mlp",
        "one of your own": "rebasin arch prove my.yaml --network my_module:make",
    },
}
"""By command, what each does and how it is typed; every line fits 80 columns."""


def epilog(command: str) -> str:
    """The last lines of a command's help."""
    lines = [line for what, typed in EXAMPLES[command].items() for line in (f"# {what}", *typed.split("\n"))]
    more = (
        ()
        if command
        else ("", "`rebasin help COMMAND` shows all of one, `rebasin COMMAND -h` its options of every day.")
    )
    return "Examples:\n" + "\n".join("  " + line if line else "" for line in (*lines, *more))
