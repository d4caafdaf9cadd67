"""Two of a command at once into one place: each does its work or says why it does not."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from faults_base import Bench, Ended, Fault, Loss, Trial, must_run, results, running
from faults_work import LISTS, RELEASED, evaluation, models, trained, training, voc

Arguments = Callable[[Bench, Path], list[object]]

_OTHER = "voc_rna-a1_cls21_s8_coco"
_ROWS = ("voc-a1", "voc-a1-coco")


def _together(trial: Trial, commands: Sequence[list[object]]) -> list[Ended]:
    """Start commands within a second of each other, often within a few hundredths."""
    with ExitStack() as stack:
        started = []
        for arguments in commands:
            started.append(stack.enter_context(running(trial.folder, arguments)))
            time.sleep(trial.random.choice([0, 0, 0.05, trial.random.random()]))
        ended = [command.wait() for command in started]
        for command in started:
            command.must_leave_nothing()
    for one in ended:
        if one.status:
            one.must_explain()
    if all(one.status for one in ended):
        raise Loss(f"none was done: {' / '.join(one.last_words() for one in ended)}")
    return ended


def _one_result(trial: Trial, *, name: str, commands: Sequence[Arguments]) -> None:
    """Two commands with different results: one result has to be there, whole."""

    def alone(folder: Path, arguments: Arguments) -> dict[str, str]:
        LISTS.prepare(trial.bench, folder) if name == "data-lists" else None
        must_run(folder, arguments(trial.bench, folder / "out"))
        return results(folder / "out")

    expected = [
        trial.bench.once(f"pair {name} {number}", partial(alone, arguments=arguments))
        for number, arguments in enumerate(commands)
    ]
    if name == "data-lists":
        LISTS.prepare(trial.bench, trial.folder)
    ended = _together(
        trial, [arguments(trial.bench, trial.folder / "out") for arguments in commands]
    )
    found = results(trial.folder / "out")
    # Of the two that were done one came last.
    whole = [expected[number] for number, one in enumerate(ended) if not one.status]
    if found not in whole:
        differ = sorted(key for key in found if found[key] != whole[0].get(key))
        missing = sorted(whole[0].keys() - found.keys())
        statuses = [one.status for one in ended]
        raise Loss(
            f"exit statuses {statuses}: the result is neither's: {len(differ)} files differ "
            f"({', '.join(differ[:3])}), {len(missing)} are missing ({', '.join(missing[:3])})"
        )


def _rows(trial: Trial) -> None:
    """Two `reproduce` into one report: both rows have to be in it in the end."""

    def second(folder: Path) -> Path:
        shutil.copytree(models(trial.bench), folder, dirs_exist_ok=True)
        file = folder / f"{RELEASED}_ep-0001.params"
        shutil.copy(file, folder / f"{_OTHER}_ep-0001.params")
        return folder

    where = ["--data", voc(trial.bench).parent, "--models", trial.bench.once("two models", second)]
    where += ["--output", trial.folder / "out", "--unverified", "--cpus", 1]
    commands: list[list[object]] = [["reproduce", row, *where] for row in _ROWS]
    for command, ended in zip(commands, _together(trial, commands)):
        if ended.status:  # it said that another is at work: now it is not
            must_run(trial.folder, command)
    report = json.loads((trial.folder / "out" / "report.json").read_text())
    rows = {row["row"]: row["verdict"] for row in report["rows"]}
    if any(rows.get(row) != "unverified" for row in _ROWS):
        raise Loss(f"the report has {rows}, expected both rows tested")


def _train(seed: int, *further: object) -> Arguments:
    return lambda bench, output: training(bench, output, "--seed", seed, *further)


def _evaluate(epoch: int) -> Arguments:
    return lambda bench, output: evaluation(bench, output, weights=trained(bench, epoch))


def _convert(epoch: int) -> Arguments:
    def arguments(bench: Bench, output: Path) -> list[object]:
        output.mkdir(exist_ok=True)
        return ["convert", trained(bench, epoch), output / "weights.safetensors", "--overwrite"]

    return arguments


def _make(seed: int) -> Arguments:
    return lambda bench, output: ["data", "make", "voc", "--root", output, "--seed", seed]


def _lists(bench: Bench, output: Path) -> list[object]:
    return LISTS.arguments(bench, output.parent)


_PAIRS: list[tuple[str, str, int, Sequence[Arguments]]] = [
    ("train", "two trainings with other seeds in one `--output`", 6, (_train(0), _train(1))),
    (
        "resume",
        "two of the same training by `--resume` in one `--output`",
        6,
        (_train(0, "--resume"), _train(0, "--resume")),
    ),
    ("evaluate", "two tests of other weights in one `--output`", 6, (_evaluate(20), _evaluate(6))),
    ("convert", "two conversions into one file", 6, (_convert(20), _convert(6))),
    ("data-lists", "two `data lists` in one root", 6, (_lists, _lists)),
    ("data-make", "two `data make` into one root", 6, (_make(0), _make(1))),
]
FAULTS = [
    Fault(f"pair-{name}", what, times, partial(_one_result, name=name, commands=commands))
    for name, what, times, commands in _PAIRS
]
FAULTS.append(Fault("pair-reproduce", "two `reproduce` into one report", 4, _rows))
