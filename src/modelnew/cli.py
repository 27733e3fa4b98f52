"""The commands. They parse, call `modelnew.api`, and print."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelnew import __version__, console, tables
from modelnew.errors import EXIT_BAD_INPUT, EXIT_NOT_MET, UsageError
from modelnew.outputs import default_output, require_places, require_writable

if TYPE_CHECKING:
    from modelnew import api
    from modelnew.check.report import Report as CheckReport

app = typer.Typer(
    help="A PyTorch model in, the same model on custom fused kernels out: built, verified against float64, timed.",
    epilog="Exit codes: 0 good, 1 verdict or speed not met, 2 bad usage or input, 3 a bug in modelnew.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Reference = Annotated[Path, typer.Argument(metavar="FILE.py", help="Defines Model, get_inputs and get_init_inputs.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Changes a constant of the file, as batch_size=64. Repeatable."),
]
Device = Annotated[
    str, typer.Option(metavar="auto|cuda|cpu", help="Where to run; auto takes a GPU where there is one.")
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="fp64|fp32|fp16|bf16", help="Dtype of parameters and inputs; the file's own if not given."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Show = Annotated[
    str | None, typer.Option(metavar="PASS", help="Print what this pass made of the graph; 'all' for every pass.")
]


def main() -> None:
    """Entry point of the `modelnew` script."""
    gc.set_threshold(
        100_000, 20, 50
    )  # importing and tracing make objects that stay: looking at them took a sixth of the time
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print_text(f"modelnew {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def optimize(
    file: Reference,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT.py", help="What to write; FILE_new.py in this folder if not given."
        ),
    ] = None,
    sets: Set = None,
    device: Device = "auto",
    dtype: Dtype = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Verify the result against float64.")] = True,
    bench: Annotated[bool, typer.Option("--bench/--no-bench", help="Time it, and keep only what is faster.")] = True,
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|emulated|ieee",
            help="Of fp32 products: as accurate on tensor cores, also untimed, or the library's own.",
        ),
    ] = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Replace an output that modelnew did not write.")] = False,
    show: Show = None,
    as_json: Json = False,
) -> None:
    """Write the model of FILE.py on custom kernels to a file of its own, verify it and time it."""
    with console.session(as_json=as_json) as progress:
        overrides = _overrides(sets)
        target = output or default_output(file)
        require_writable(target, file, force=force)
        from modelnew import api

        result = api.optimize_file(
            file,
            output=target,
            overrides=overrides,
            device=device,
            dtype=dtype,
            check=check,
            bench=bench,
            show=show,
            precision=precision,
            progress=progress,
        )
    if as_json:
        console.print_json({"output": str(result.output), "accepted": result.accepted, "report": result.report})
    else:
        console.print_text("\n".join(result.summary))
    if check and result.accepted is not True:
        raise typer.Exit(EXIT_NOT_MET)


@app.command()
def check(
    reference: Reference,
    candidates: Annotated[list[Path], typer.Argument(metavar="NEW.py...", help="Files that define ModelNew.")],
    sets: Set = None,
    device: Device = "auto",
    dtype: Dtype = None,
    seed: Annotated[
        int | None, typer.Option(help="Repeat the inputs of an earlier run; a fresh secret seed if not given.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="tf32|fp16|bf16", help="Accept products of this precision; else only the dtype's own."),
    ] = None,
    grad: Annotated[bool, typer.Option("--grad", help="Compare gradients too.")] = False,
    sandbox: Annotated[
        bool,
        typer.Option("--sandbox", help="Run each NEW.py in bubblewrap: no network, writes to its scratch folder only."),
    ] = False,
    limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For each answer; 600 for what may build kernels, else 60, if not given."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="OUT.xml", help="Write the cases as a JUnit document.")] = None,
    as_json: Json = False,
) -> None:
    """Judge whether the ModelNew of each NEW.py computes what the Model of FILE.py does. Exit 2: could not judge."""
    with console.session(as_json=as_json) as progress:
        require_places({"--junit": junit}, [reference, *candidates])
        from modelnew import api

        reports = api.check_files(
            reference,
            candidates,
            overrides=_overrides(sets),
            device=device,
            dtype=dtype,
            seed=seed,
            precision=precision,
            gradients=grad,
            sandbox=sandbox,
            time_limit=limit,
            progress=progress,
        )
    try:
        if as_json:
            console.print_json({"reports": [report.as_dict() for report in reports]})
        else:
            _show_verdicts(candidates, reports)
    finally:  # a closed pipe ends the command, too
        if junit is not None:
            with console.session(as_json=False):
                api.write_junit(junit, reports)
    if any(report.accepted is False for report in reports):
        raise typer.Exit(EXIT_NOT_MET)
    if any(report.accepted is None for report in reports):
        raise typer.Exit(EXIT_BAD_INPUT)


def _show_verdicts(candidates: list[Path], reports: list[CheckReport]) -> None:
    for candidate, report in zip(candidates, reports, strict=True):
        console.print_text(f"{candidate}: {report.headline}")
        console.print_table(tables.CHECK_COLUMNS, report.rows())
        console.print_text(tables.check_notes(report))


@app.command()
def bench(
    file: Annotated[Path, typer.Argument(metavar="FILE.py|DIR", help="A reference file, or a folder of them.")],
    candidates: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[NEW.py...]", help="Files that define ModelNew; made here if not given."),
    ] = None,
    sets: Set = None,
    device: Device = "auto",
    dtype: Dtype = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help='Beside eager: "torch.compile", "torch.compile max-autotune". Repeatable.'),
    ] = None,
    budget: Annotated[float, typer.Option(metavar="SECONDS", help="Time for the timing itself.")] = 20.0,
    sweep: Annotated[
        str | None, typer.Option(metavar="NAME=A,B,C", help="Time it at each value of a constant.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="OUT.csv", help="Write the figures as a table.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="OUT.svg|png", help="Write a picture.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write one page with all of it.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For a folder: where what is done is kept; NAME_bench here if not given."),
    ] = None,
    limit: Annotated[
        float, typer.Option(metavar="SECONDS", help="For a folder: after this long a file is given up.")
    ] = 1800.0,
    as_json: Json = False,
) -> None:
    """Time each ModelNew against eager PyTorch, torch.compile and the time the hardware cannot beat. Exit 1: one could
    not be timed, or not believed."""
    with console.session(as_json=as_json) as progress:
        require_places({"--csv": csv, "--plot": plot, "--html": html}, [file, *(candidates or [])])
        from modelnew import api

        if plot is not None or html is not None:
            api.require_drawing(plot)
        found = api.measure(
            file,
            candidates or [],
            swept=sweep,
            results=results,
            overrides=_overrides(sets),
            device=device,
            dtype=dtype,
            baselines=baseline or ["torch.compile"],
            budget_s=budget,
            limit_s=limit,
            progress=progress,
        )
    try:
        if as_json:
            console.print_json(found.document)
        else:
            _show(found)
    finally:  # a closed pipe ends the command, too; stdout has its one document already
        with console.session(as_json=False):
            api.save_measurement(found, csv=csv, plot=plot, html=html)
    if not found.good:
        raise typer.Exit(EXIT_NOT_MET)


def _show(found: api.Measurement) -> None:
    if not found.reports:
        tasks = found.document["tasks"]
        console.print_table(tables.FOLDER_COLUMNS, [tables.folder_cells(task) for task in tasks])
        console.print_text(tables.folder_summary(found.document["summary"], len(tasks)))
    for value, report, reason in found.reports:
        if report is None:
            console.print_text(f"{value}: {reason}")
        else:
            title = tables.bench_title(report)
            rows = [tables.bench_cells(row) for row in report.rows()]
            console.print_table(tables.BENCH_COLUMNS, rows, title=f"{value}: {title}" if value else title)
            if report.caveats:
                console.print_text("\n".join(report.caveats))


@app.command()
def compare(
    old: Annotated[
        Path, typer.Argument(metavar="OLD.json", help="What `bench --json` printed, or a report of `optimize`.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW.json", help="The same, measured later.")],
    threshold: Annotated[float, typer.Option(help="Share by which a variant may be slower.")] = 0.05,
    as_json: Json = False,
) -> None:
    """Say what became slower between two measurements; exit 1 where something did beyond the threshold, or has no time now."""
    with console.session(as_json=as_json):
        from modelnew import api

        comparison = api.compare_files(old, new, threshold=threshold)
    if as_json:
        console.print_json(comparison.as_dict())
    else:
        console.print_table(tables.COMPARE_COLUMNS, [tables.compare_cells(change) for change in comparison.changes])
    if comparison.regressed:
        raise typer.Exit(EXIT_NOT_MET)


@app.command()
def explain(
    file: Reference,
    sets: Set = None,
    device: Device = "auto",
    dtype: Dtype = None,
    source: Annotated[bool, typer.Option("--source", help="Print the kernels' source too.")] = False,
    show: Show = None,
    as_json: Json = False,
) -> None:
    """Say what would be fused and why not more, with bytes, flops and the floor, without running the model."""
    with console.session(as_json=as_json) as progress:
        from modelnew import api

        explanation = api.explain_file(
            file,
            overrides=_overrides(sets),
            device=device,
            dtype=dtype,
            source=source,
            show=show,
            progress=progress,
        )
    if as_json:
        console.print_json(explanation.as_dict())
    else:
        console.print_text(explanation.text())


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine has for building kernels, what is missing, and how to get it. Exit 1: something is missing."""
    with console.session(as_json=as_json):
        from modelnew.doctor import examine

        findings = examine()
    if as_json:
        entries = [{"name": f.name, "ok": f.ok, "blocks": f.blocks, "detail": f.detail, "fix": f.fix} for f in findings]
        console.print_json(entries)
    else:
        rows = [("ok" if f.ok else "missing" if f.blocks else "note", f.name, f.detail, f.fix) for f in findings]
        console.print_table(("", "what", "found", "to do"), rows)
    if any(finding.blocks for finding in findings):
        raise typer.Exit(EXIT_NOT_MET)


def _overrides(sets: list[str] | None) -> dict[str, str]:
    """{"batch_size": "64"} of ["batch_size=64"]; the last of several for one name counts. Raises UsageError."""
    found: dict[str, str] = {}
    for text in sets or []:
        name, equals, value = text.partition("=")
        if not (equals and name.strip().isidentifier() and value.strip()):
            raise UsageError(
                f"{text!r} is not NAME=VALUE", doing="reading --set", hint="Write it as --set batch_size=64."
            )
        found[name.strip()] = value.strip()
    return found
