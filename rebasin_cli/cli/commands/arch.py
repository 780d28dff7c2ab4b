"""`rebasin arch list | show | check | derive | prove`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rebasin_cli.cli import values as v
from rebasin_cli.cli.groups import Force, Talk, grouped
from rebasin_cli.cli.groups.matching import CheckpointPath, NamedSpecOptions, Seed, Set, SpecName, spec_choice
from rebasin_cli.cli.help import PlainCommand, PlainGroup, epilog
from rebasin_cli.cli.streams import print_payload, sources, working
from rebasin_cli.cli.values import file_path, pairs
from rebasin_cli.errors import GateError

if TYPE_CHECKING:
    from rebasin_cli.report.document import RunDocument

app = typer.Typer(
    help="List, show, derive, check and prove permutation specs.",
    invoke_without_command=True, epilog=epilog("arch"), cls=PlainGroup,
)  # fmt: skip


@app.callback()
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list", epilog=epilog("arch list"), cls=PlainCommand)
@grouped
def list_command(
    word: Annotated[
        str, typer.Argument(metavar="WORD", help="Only those with it in name, title or kind.", show_default=False)
    ] = "",
    *,
    talk: Talk,
) -> None:
    """List the shipped architectures, by kind."""
    from rebasin_cli.pipeline.architectures import list_architectures

    session = talk.session(shows=True)
    session.finish(list_architectures(word))


@app.command("show", epilog=epilog("arch show"), cls=PlainCommand)
@grouped
def show_command(
    spec: SpecName,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(readable=False, metavar="CKPT", help="Show its tensors and sizes instead of templates."),
    ] = None,
    *,
    count: Annotated[bool, typer.Option("--count", help="Tell the number of symmetries, as a power of ten.")] = False,
    options: NamedSpecOptions,
    talk: Talk,
) -> None:
    """Show a spec: its dims, the tensors they stand in, and with a checkpoint their sizes."""
    from rebasin_cli.pipeline.architectures import show_architecture

    session = talk.session(shows=True)
    with working() as cleanup:
        source = sources([checkpoint], cleanup, session)[0] if checkpoint else None
        document = show_architecture(spec, source, options.choice(), session, count=count)
    session.finish(document)


@app.command("check", epilog=epilog("arch check"), cls=PlainCommand)
@grouped
def check_command(spec: SpecName, checkpoint: CheckpointPath, options: NamedSpecOptions, talk: Talk) -> None:
    """Check a spec against a checkpoint: every tensor covered, every dim of one size. Exit code 1 if not."""
    from rebasin_cli.pipeline.architectures import check_architecture

    session = talk.session()
    with working() as cleanup:
        (source,) = sources([checkpoint], cleanup, session)
        document = check_architecture(spec, source, options.choice(), session)
    session.finish(document)
    _require_passed(document)


@app.command("derive", epilog=epilog("arch derive"), cls=PlainCommand)
@grouped
def derive_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="MODULE:FACTORY, a function that returns a module, or (module, inputs); or a folder."
        ),
    ],
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="CKPT", help="A checkpoint whose keys and sizes must be covered."),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(metavar="SIZES|FILE", help="4x3x32x32; token ids 4x16:1000; a file; MODULE:FUNCTION."),
    ] = None,
    network_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Passed to the factory: width=8.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", parser=file_path, metavar="FILE", help="Where the spec goes.")
    ] = None,
    sizes: Set = None,
    seed: Seed = 0,
    seconds: Annotated[
        float,
        typer.Option("--max-seconds", parser=v.SECONDS, metavar="SECONDS", help="Ends with what is known by then."),
    ] = 600.0,
    force: Force = False,
    talk: Talk,
) -> None:
    """Derive a spec from a network's own code and prove it; without -o it is printed. Exit code 1 if it fails.

    Of a Hugging Face or diffusers folder the config.json is read; the search runs on a small network of the same code.
    """
    from rebasin_cli.pipeline.derive import DeriveRequest, derive_architecture

    session = talk.session(shows=output is None, report=output)
    choice, options = spec_choice(sizes=sizes), pairs("--network-option", network_option)
    with working() as cleanup:
        opened = sources([checkpoint], cleanup, session)[0] if checkpoint else None
        request = DeriveRequest(source, options, opened, inputs, output, choice.sizes, seed, seconds, force=force)
        document = derive_architecture(request, session)
    if output is None and session.form != "json" and document.architecture is not None:
        print_payload(document.architecture.text)
    else:
        session.finish(document)
    _require_passed(document)


@app.command("prove", epilog=epilog("arch prove"), cls=PlainCommand)
@grouped
def prove_command(
    spec: SpecName,
    *,
    network: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Builds the network: returns a torch module and its inputs."),
    ] = None,
    sizes: Set = None,
    config: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="FILE", help="The network's config.json, for sizes that shapes do not tell."
        ),
    ] = None,
    seed: Seed = 0,
    talk: Talk,
) -> None:
    """Prove a spec: permute the real network at random; its outputs must not change. Exit code 1 if they do."""
    from rebasin_cli.pipeline.architectures import ProveRequest, prove_architecture

    session = talk.session()
    choice = spec_choice(sizes=sizes)
    with working():
        document = prove_architecture(ProveRequest(spec, network, choice.sizes, config, seed), session)
    session.finish(document)
    _require_passed(document)


def _require_passed(document: RunDocument) -> None:
    failed = [check for check in document.checks or () if not check.passed]
    if failed:
        raise GateError(
            f"{len(failed)} of {len(document.checks or ())} checks failed: {failed[0].name}: {failed[0].detail}",
            remedy="architectures/README.md shows how a spec is written and repaired",
        )
