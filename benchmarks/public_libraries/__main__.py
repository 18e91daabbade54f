"""Models of public libraries beside ours.

    python -m benchmarks.public_libraries install [--libraries fuxictr,torch_rechub,deepctr_torch]
    python -m benchmarks.public_libraries quality CONFIG.yaml [--systems torch_rechub-din,...] [--seeds 1,2,3]
    python -m benchmarks.public_libraries speed CONFIG.yaml [--models dcnv2,din] [--rounds 3] [--rows 200000]

`quality` and `speed` need the pipeline of the config to have run up to `cluster`. `quality` resumes: a job that is done
is not done again, and rows of other systems in the file of results stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.environments import install
from benchmarks.public_libraries import quality, speed
from benchmarks.public_libraries.environments import LIBRARIES
from benchmarks.public_libraries.systems import DriverError, chosen_systems
from benchmarks.results import write_results
from training.config import load_config
from training.metrics.bootstrap import METRICS
from training.workbench import Workbench

PACKAGES = ("numpy", "torch")
VERSIONS = {library.distribution: library.version for library in LIBRARIES.values()}
SPEED_MODELS = ("dcnv2", "din")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("install", help="make each library's environment")
    make.add_argument("--libraries", default=",".join(LIBRARIES))
    for name in ("quality", "speed"):
        command = commands.add_parser(name)
        command.add_argument("config", type=Path)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--systems", help="by name, separated by commas; all without it")
        command.add_argument("--epochs", type=int)
        command.add_argument("--batch-rows", type=int)
        command.add_argument("--embedding-width", type=int)
    commands.choices["quality"].add_argument("--seeds", default="1")
    commands.choices["quality"].add_argument(
        "--learning-rates", default="0.001", help="each is tried; the best on validation is kept"
    )
    commands.choices["quality"].add_argument(
        "--leave-out", default="", help="features or sides that the models do not read: match, popularity"
    )
    commands.choices["quality"].add_argument(
        "--out", type=Path, default=Path("benchmarks/results/public_libraries.json")
    )
    commands.choices["speed"].add_argument("--models", default=",".join(SPEED_MODELS))
    commands.choices["speed"].add_argument("--rounds", type=int, default=3)
    commands.choices["speed"].add_argument("--learning-rate", type=float, default=quality.Sizes.learning_rate)
    commands.choices["speed"].add_argument("--rows", type=int, default=200_000)
    commands.choices["speed"].add_argument(
        "--out", type=Path, default=Path("benchmarks/results/training_speed.json")
    )
    arguments = parser.parse_args()
    try:
        if arguments.command == "install":
            for name in arguments.libraries.split(","):
                say(f"{name}: {LIBRARIES[name].folder}")
                install(LIBRARIES[name])
        elif arguments.command == "quality":
            run_quality(arguments)
        else:
            run_speed(arguments)
    except DriverError as error:
        parser.exit(1, f"{error}\n")


def run_quality(arguments: argparse.Namespace) -> None:
    """Measure quality, and write the results after every system."""
    systems = chosen_systems(arguments.systems)
    bench = Workbench(load_config(arguments.config))
    data, rows = quality.prepare(bench, say)
    say(f"tasks: {', '.join(quality.tasks_of(rows))}; measured: {bench.tasks[0].name}")
    found = _rows_before(arguments.out)
    for seed in (int(each) for each in arguments.seeds.split(",")):
        for system in systems:
            new = quality.measure(
                bench,
                data,
                rows,
                system,
                [
                    dataclasses.replace(_sizes(arguments), learning_rate=float(rate))
                    for rate in arguments.learning_rates.split(",")
                ],
                leave_out=tuple(filter(None, arguments.leave_out.split(","))),
                seed=seed,
                threads=arguments.threads,
                say=say,
            )
            key = (new[0]["library"], new[0]["name"], seed)
            found = [row for row in found if (row["library"], row["name"], row["seed"]) != key] + new
            write_results(arguments.out, found, packages=PACKAGES, versions=VERSIONS)
            for row in new:
                if row["split"] == "test":
                    numbers = "  ".join(f"{metric} {row[metric]:.4f}" for metric in METRICS)
                    print(f"{system.name:<20} {row['domain']:<8} {numbers}")


def run_speed(arguments: argparse.Namespace) -> None:
    """Measure speed, write the results and print the table."""
    rows = speed.measure(
        load_config(arguments.config),
        chosen_systems(arguments.systems, models=tuple(arguments.models.split(","))),
        sizes=dataclasses.replace(
            _sizes(arguments),
            epochs=arguments.epochs or 1,
            learning_rate=arguments.learning_rate,
        ),
        rows_max=arguments.rows,
        rounds=arguments.rounds,
        threads=arguments.threads,
        say=say,
    )
    write_results(arguments.out, rows, packages=PACKAGES, versions=VERSIONS)
    print(
        f"{'model':<6} {'library':<14} {'samples/s':>10} {'ours/it':>8} {'per cpu s':>10} {'ours/it':>8}"
        f" {'loss before':>12} {'after':>8} {'sd':>8}"
    )
    for row in rows:
        if row["kind"] == "summary":
            sd = row["validation_log_loss_sd"]
            print(
                f"{row['model']:<6} {row['library']:<14}"
                f" {row['train_samples_per_s']:>10,} {row['ours_over_it_train_samples_per_s']:>8.2f}"
                f" {row['train_samples_per_cpu_s']:>10,} {row['ours_over_it_train_samples_per_cpu_s']:>8.2f}"
                f" {row['first_validation_log_loss']:>12.4f} {row['validation_log_loss']:>8.5f}"
                f" {'' if sd is None else f'{sd:.5f}':>8}"
            )


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def _sizes(arguments: argparse.Namespace) -> quality.Sizes:
    given = {
        "epochs": arguments.epochs,
        "batch_rows": arguments.batch_rows,
        "embedding_width": arguments.embedding_width,
    }
    return quality.Sizes(**{name: value for name, value in given.items() if value is not None})


def _rows_before(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


if __name__ == "__main__":
    main()
