"""The command line of the offline side: `python -m training`, console script `twinstar-train`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.contract.errors import ContractError
from service.stores.base import StoreError
from training.config import load_config
from training.errors import TrainingError
from training.pipeline import PER_MODEL, STAGES, Step, StepResult, run_steps, steps_of

app = typer.Typer(
    help="Twinstar, offline: from logs to a verified, published artefact.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, width=None if sys.stderr.isatty() else 200)

ConfigArgument = Annotated[Path, typer.Argument(help="pipeline configuration, YAML", metavar="CONFIG")]
ForceOption = Annotated[bool, typer.Option("--force", help="run stages that are up to date too")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="one JSON object a stage on standard output, no bars")
]
ModelOption = Annotated[str | None, typer.Option(help="only this model of the config; all where not given")]
RegistryOption = Annotated[Path | None, typer.Option(help="registry folder, instead of publish.registry")]
StoreOption = Annotated[str | None, typer.Option(help="store URL, instead of publish.store")]


@app.command()
def run(config: ConfigArgument, force: ForceOption = False, json: JsonOption = False) -> None:
    """Run every stage whose inputs changed, then publish."""
    loaded = load_config(config)
    show(run_steps(loaded, steps_of(loaded), force=force, quiet=json), json=json)


def _add_stage_command(stage: str) -> None:
    """Give a stage a command of its own."""
    help_text = f"Run the stage `{stage}` alone, if its inputs changed."

    def of_all(config: ConfigArgument, force: ForceOption = False, json: JsonOption = False) -> None:
        show(run_steps(load_config(config), (Step(stage),), force=force, quiet=json), json=json)

    def of_model(
        config: ConfigArgument,
        model: ModelOption = None,
        force: ForceOption = False,
        json: JsonOption = False,
    ) -> None:
        loaded = load_config(config)
        if model is not None and model not in loaded.models:
            raise TrainingError(f"{config} has no model {model!r}; it has {', '.join(loaded.models)}")
        steps = tuple(Step(stage, name) for name in loaded.models if model in (None, name))
        show(run_steps(loaded, steps, force=force, quiet=json), json=json)

    app.command(stage, help=help_text)(of_model if stage in PER_MODEL else of_all)


for _stage in STAGES[:-1]:
    _add_stage_command(_stage)


@app.command()
def publish(
    config: ConfigArgument,
    registry: RegistryOption = None,
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Publish verified artefacts and life cycles to a registry and a store, and put them in force."""
    loaded = load_config(config)
    changed = {"registry": registry, "store": store}
    target = loaded.publish.model_copy(update={k: v for k, v in changed.items() if v is not None})
    loaded = loaded.model_copy(update={"publish": target})
    show(run_steps(loaded, (Step("publish"),), quiet=json), json=json)


@app.command()
def demo(
    config: Annotated[Path, typer.Argument(help="pipeline configuration", metavar="CONFIG")] = Path(
        "configs/demo.yaml"
    ),
) -> None:
    """Run the main job on real data, serve it, send real requests, and show what a person wants to see."""
    from training.report.demo import run_demo

    run_demo(load_config(config), show=show)


@app.command()
def study(
    config: Annotated[Path, typer.Argument(help="study configuration, YAML", metavar="CONFIG")],
    rows: Annotated[
        list[str] | None,
        typer.Option("--rows", help="only these rows, repeated or with commas; all otherwise"),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="fit nothing, write the page again")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="one JSON object a fit on standard output, no bars")
    ] = False,
) -> None:
    """Fit the rows of a study that are not fitted yet, within its budget, and write tables and plots."""
    from training.study.command import run

    names = [name for each in rows or [] for name in each.split(",")]
    if not run(config, names, report_only=report_only, json=json):
        sys.exit(1)


def show(results: Iterable[StepResult], *, json: bool = False) -> list[StepResult]:
    """Print steps as they finish: JSON lines, or a table of stages at the end."""
    done: list[StepResult] = []
    for result in results:
        done.append(result)
        if json:
            record = {
                "stage": result.step.stage,
                "model": result.step.model,
                "ran": result.ran,
                "seconds": result.seconds,
                "peak_memory_mib": result.peak_memory_mib,
                **result.summary,
            }
            sys.stdout.write(orjson.dumps(record, default=str).decode() + "\n")
            sys.stdout.flush()
        else:
            state = f"{result.seconds:7.1f} s" if result.ran else "up to date"
            facts = "  ".join(f"{name} {_text(value)}" for name, value in result.summary.items())
            console.print(f"[bold]{result.step.name:<16}[/] {state:>10}  {escape(facts)}", highlight=False)
    if not json:
        console.print(stage_table(done))
    return done


def stage_table(results: list[StepResult]) -> Table:
    """Return seconds and peak memory of each stage."""
    table = Table(title="stages", title_justify="left")
    for column, justify in (("stage", "left"), ("seconds", "right"), ("peak memory, MiB", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for result in results:
        seconds = f"{result.seconds:.1f}" if result.ran else f"({result.seconds:.1f}, up to date)"
        table.add_row(result.step.name, seconds, str(result.peak_memory_mib))
    table.add_row("all", f"{sum(r.seconds for r in results if r.ran):.1f}", "", style="bold")
    return table


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Run the command line; what a person can mend is one message and exit code 1, never a stack trace."""
    try:
        app()
    except (TrainingError, ContractError, StoreError) as error:
        _fail(str(error))
    except OSError as error:  # no permission, no room, no such folder
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}")


def _fail(reason: str) -> None:
    console.print(f"[bold red]error[/] {escape(reason)}", highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
