"""`ademx reproduce`: published rows tested again, or their networks trained."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from ademx.cli import options as shared
from ademx.engines.backends import worker_devices
from ademx.options import option, option_name
from ademx.published import METRIC_NAMES, RESULTS
from ademx.reproduction.inputs import SearchFolders
from ademx.reproduction.options import RecipeOptions, ReproduceOptions
from ademx.reproduction.outcomes import (
    WHAT_TO_LOOK_AT,
    Outcome,
    numbered,
    numbered_reasons,
    verdict_with_numbers,
)
from ademx.reproduction.recipes import RECIPES
from ademx.reproduction.rows import reproduce as reproduce_rows
from ademx.reproduction.stages import differences_from_recipe, plan_stages, train_recipe
from ademx.text import printable
from iters.datasets import DATASETS

_TESTING, _TRAINING = (
    [field.name for field in dataclasses.fields(options)]
    for options in (ReproduceOptions, RecipeOptions)
)


@click.command()
@click.argument("rows", nargs=-1, metavar="[ROW]...")
@shared.from_signature
@shared.from_class(ReproduceOptions, RecipeOptions)
@click.option("--dry-run", is_flag=True, help="Training: print the stages and their commands.")
@shared.log_file
def reproduce(
    list_rows: bool = option(False, "Print the rows and recipes, and end.", names=("--list",)),
    data: tuple[str, ...] = option(
        (),
        "Folder that holds the datasets' folders; voc=DIR is one dataset's own folder.  "
        "[default: data]",
        metavar="DIR",
    ),
    models: Path = option(Path("models"), "Folder of .params files.", path="output"),
    **arguments: Any,
) -> None:
    """The published table beside ours: test ROWs, all by default, or train one.

    For each row the data and the weights are looked for below --data and --models, verified,
    and tested as was published. A row is reproduced if every score lies within a tolerance of
    the published one that follows from its rounding and from the last digits of our outputs;
    else it differs, or it is not run, and what is missing is named with the place where it goes.
    Where a score is another one, what usually makes it so is tested for, and told with the most
    likely cause first: labels, weights and classes by what is on disk, scale, crop, filter, colours
    and pooling by a few images tested again. The reports OUTPUT/report.md, .json and .html are
    complete after every row. A call that was interrupted goes on; rows that are done are not
    computed again.

    --train runs the stages of a recipe one after another, each in its folder below OUTPUT/train,
    and leaves the last one's weights in --models, where testing finds them. It goes on where it
    was stopped; SIGTERM, SIGHUP and Ctrl-C save first.

    The exit status is 1 if a row differs, fails or cannot be trained, 143, 130 or 129 after a
    signal that stopped a training, else 0: rows that are not run are no failure.
    """
    if list_rows:
        click.echo(_table())
        return
    _check_usage(arguments)
    arguments["places"] = _places(data, models)
    if arguments["recipe"]:
        _train(arguments)
    else:
        _test(ReproduceOptions(**{name: arguments[name] for name in _TESTING}))


def _check_usage(arguments: dict[str, Any]) -> None:
    """Raise UsageError for options that do not go together."""
    training = bool(arguments["recipe"])
    if training and arguments["rows"]:
        raise click.UsageError("--train takes the one row; give no others beside it")
    own, others = (_TRAINING, _TESTING) if training else (_TESTING, [*_TRAINING, "dry_run"])
    for name in others:
        if name not in own and arguments[name]:
            when = "not with" if training else "only with"
            raise click.UsageError(f"{option_name(name)}: {when} --train")


def _places(data: tuple[str, ...], models: Path) -> SearchFolders:
    folders, roots = [], {}
    for text in data:
        name, equals, root = text.partition("=")
        if equals and name in DATASETS:
            roots[name] = Path(root)
        else:
            folders.append(Path(text))
    if len(folders) > 1:
        raise click.UsageError(
            f"--data {folders[0]} and {folders[1]}: give one folder of all datasets, and others "
            f"as NAME=DIR, where NAME is one of {', '.join(DATASETS)}"
        )
    folder = folders[0] if folders else Path("data")
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--data {folder}: expected a folder")
    return SearchFolders(folder, models, roots)


def _test(options: ReproduceOptions) -> None:
    failures = 0
    for are_not_run, outcomes in groupby(
        reproduce_rows(options), lambda one: one.verdict == "not run"
    ):
        if are_not_run:
            click.echo(not_run_text(list(outcomes)))
            continue
        for outcome in outcomes:
            click.echo(outcome_text(outcome))
            failures += outcome.is_failure
    reports = printable(options.output / "report.md")
    click.echo(f"\nreports: {reports}, .json and .html", err=True)
    if failures:
        raise click.ClickException(f"{failures} of {len(options.chosen())} rows differ or failed")


def not_run_text(outcomes: list[Outcome]) -> str:
    """Return a line for each row, then what is missing, once each."""
    numbers = numbered_reasons(outcomes)
    lines = [f"{one.row.name}: {verdict_with_numbers(one, numbers)}" for one in outcomes]
    return "\n".join([*lines, *(f"  ({n}) {printable(reason)}" for reason, n in numbers.items())])


def outcome_text(outcome: Outcome) -> str:
    """Return the verdict on a row, its scores beside the published ones, and what to look at."""
    scores = [
        f"  {one.metric} {one.ours}, published {one.published}, difference {one.difference} "
        f"({one.tolerance})"
        for one in outcome.texts()
        if one.tolerance
    ]
    reasons = [f"  - {printable(reason)}" for reason in outcome.reasons]
    if outcome.diagnosis:
        reasons += [f"  {WHAT_TO_LOOK_AT}:", *(f"    {one}" for one in numbered(outcome.diagnosis))]
    return "\n".join([f"{outcome.row.name}: {outcome.verdict}", *scores, *reasons])


def _train(arguments: dict[str, Any]) -> None:
    dry_run = arguments["dry_run"]
    if not dry_run:
        arguments["devices"] = worker_devices(arguments["backend"], arguments["devices"])
    options = RecipeOptions(**{name: arguments[name] for name in _TRAINING})
    recipe = options.row
    stages = plan_stages(options)
    for line in differences_from_recipe(options):
        click.echo(f"Warning: {line}", err=True)
    if dry_run:
        click.echo(f"{recipe.name}, {recipe.origin}: {recipe.source}")
        click.echo(f"hardware: {recipe.hardware}; time: {recipe.time}")
        problems = dict.fromkeys(line for stage in stages for line in stage.problems)
        lines = [stage.command for stage in stages] + [f"  - {line}" for line in problems]
        click.echo("\n".join(lines))
        return
    path, signal = train_recipe(options, stages)
    click.echo(path)
    if signal is not None:
        click.get_current_context().exit(128 + signal)


def _table() -> str:
    """Return the rows with what was published, then the recipes."""
    lines = []
    for row in RESULTS:
        values = ", ".join(f"{METRIC_NAMES[name]} {row.printed(name)}" for name in row.values)
        trained = ", --train" if row.name in RECIPES else ""
        tested = "released weights" if row.is_released else "no released weights"
        lines.append(f"{row.name}\n  {row.description}, {row.setting}")
        lines.append(f"  {values} ({tested}{trained})")
    lines.append("\nRecipes for --train, as the release states them or ours:")
    lines += [f"  {recipe.name}: {recipe.origin}" for recipe in RECIPES.values()]
    return "\n".join(lines)
