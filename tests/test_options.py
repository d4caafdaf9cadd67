"""Options are declared once: command line, checks and records follow from the fields."""

from __future__ import annotations

import ast
import dataclasses
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from commands import options_of

from ademx import options as declare
from ademx.cli import main
from ademx.cli.options import from_class
from ademx.convert.files import Reading
from ademx.devices import Devices
from ademx.published import RESULTS
from ademx.reproduction.inputs import SearchFolders
from ademx.reproduction.options import RecipeOptions, ReproduceOptions
from ademx.reproduction.recipes import RECIPES
from ademx.reproduction.stages import plan_stages
from ademx.testing.options import published_options


@dataclasses.dataclass(frozen=True)
class Baking:
    kind: str = declare.option("rye", "What to bake.", choices=("rye", "wheat"))
    loaves: int = declare.option(2, "How many.", least=1)
    heats: tuple[int, ...] = declare.option((), "Degrees, one after another.")
    span: tuple[float, float] = declare.option((0.5, 2.0), "Least and most.")
    covered: bool = declare.option(True, "Leave it open.", names=("--no-covered",))
    seeds: bool = declare.option(False, "Strew seeds.", is_recorded=False)
    ovens: int | None = declare.option(None, "How many to use.", least=1, decides=False)

    def __post_init__(self) -> None:
        declare.check(self)


@dataclasses.dataclass(frozen=True)
class Rolls(Baking):
    loaves: int = declare.other_default(Baking, "loaves", 12)


@click.command()
@from_class(Rolls)
def bake(**arguments: object) -> None:
    click.echo(repr(Rolls(**arguments)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([], Rolls()),
        (["--kind", "wheat", "--loaves", "3"], Rolls("wheat", 3)),
        (["--heats", "250,200", "--span", "1,3"], Rolls(heats=(250, 200), span=(1.0, 3.0))),
        (["--no-covered", "--seeds", "--ovens", "1"], Rolls(covered=False, seeds=True, ovens=1)),
    ],
)
def test_the_command_line_makes_the_options(line, expected):
    result = CliRunner().invoke(bake, line)
    assert (result.exit_code, result.output.strip()) == (0, repr(expected))


def test_help_says_types_defaults_and_bounds():
    text = " ".join(CliRunner().invoke(bake, ["--help"]).output.split())
    assert "--kind [rye|wheat] What to bake. [default: rye]" in text
    assert "How many. [default: 12; x>=1]" in text  # the subclass's
    assert "--span LOW,HIGH Least and most. [default: (0.5,2.0)]" in text
    assert "--heats N[,N…] Degrees, one after another. --span" in text
    assert "--no-covered Leave it open. --seeds Strew seeds. --ovens" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "oat"}, "--kind oat: choose one of rye, wheat"),
        ({"loaves": 0}, "--loaves 0: expected 1 or above"),
        ({"ovens": 0}, "--ovens 0: expected 1 or above"),
    ],
)
def test_values_are_checked_without_a_command_line_too(changes, message):
    with pytest.raises(ValueError, match=message):
        Rolls(**changes)
    line = [f"--{name}={value}" for name, value in changes.items()]
    assert CliRunner().invoke(bake, line).exit_code == 2


def test_a_record_holds_what_decides():
    plain = {"kind": "rye", "loaves": 12, "heats": [], "span": [0.5, 2.0], "covered": True}
    assert declare.deciding(Rolls(ovens=5)) == plain
    assert declare.deciding(Rolls(seeds=True)) == {**plain, "seeds": True}


def test_the_record_of_a_training_has_the_keys_that_it_always_had(tmp_path):
    from ademx.training.options import SegmentationTrainOptions

    options = SegmentationTrainOptions(
        tmp_path, 2, tmp_path, model="voc_rna-a1_cls21_s8", batch_images=4, exif="turn"
    )
    assert options.settings([]) == {
        "label": "voc_rna-a1_cls21_s8",
        **{"to_epoch": 2, "dataset": None, "split": "train", "batch_images": 4, "crop_size": 500},
        **{"choose_interp_method": True, "exif": "turn", "sampler": "shuffled"},
        **{"lr_type": "fixed", "base_lr": 0.0016, "lr_steps": [], "momentum": 0.9},
        **{"weight_decay": 5e-4, "from_epoch": 0, "seed": 0, "width": 1.0, "pool": "pad"},
        **{"frozen_statistics": None, "precision": "float32", "origin_size": None},
        **{"scale_rate_range": [0.7, 1.3], "loss": "ohem", "head": "2conv", "weights_md5": None},
        **dict.fromkeys(("samples_md5", "labels_md5"), "d41d8cd98f00b204e9800998ecf8427e"),
    }


def test_the_record_of_a_test_has_the_keys_that_it_always_had(tmp_path):
    from ademx.testing.crf import CrfParameters
    from ademx.testing.options import ClassificationOptions, SegmentationOptions

    files = ((tmp_path / "a.params",), tmp_path, tmp_path)
    common = {
        **{"split": "val", "test_scales": [320], "test_flipping": False},
        **{"choose_interp_method": True, "pool": "pad"},
        **{"precision": "float32", "backend": "auto"},  # a run records which one it is
    }
    plain = ClassificationOptions(*files, (320,), split="test", batch_images=3, class_ids=tmp_path)
    assert declare.deciding(plain) == {**common, "split": "test", "test_3crops": False}
    plain = SegmentationOptions(*files, (320,), absent_classes="skip", near_ties=True)
    assert declare.deciding(plain) == {**common, "test_steps": 1}
    refined = SegmentationOptions(*files, (320,), exif="turn", crf=CrfParameters())
    assert declare.deciding(refined) == {
        **{**common, "test_steps": 1, "exif": "turn"},
        "crf": {
            **{"bilateral_weight": 4, "bilateral_xy": 67, "bilateral_rgb": 3},
            **{"gaussian_weight": 3, "gaussian_xy": 1, "iterations": 10},
        },
    }


def test_the_command_line_of_any_options_makes_them_again():
    for options in (
        Rolls(),
        Rolls("wheat", 3, (250, 200), (1.0, 3.5), covered=False, seeds=True, ovens=1),
    ):
        line = declare.command_line(options)
        assert CliRunner().invoke(bake, line).output.strip() == repr(options)
    assert declare.command_line(Rolls(loaves=3)) == ["--loaves", "3"]


def test_options_of_a_test_survive_their_command_line(tmp_path):
    from ademx.testing.crf import CrfParameters
    from ademx.testing.options import SegmentationOptions

    paths = tuple(tmp_path / name for name in ("a.params", "b.params"))
    for path in paths:
        path.touch()
    options = SegmentationOptions(
        *(paths, tmp_path, tmp_path / "out", (400, 500)),
        **{"model": "voc_rna-a1_cls21_s8", "devices": Devices(gpus=(0, 2)), "exif": "turn"},
        **{"crf": CrfParameters(iterations=5), "reading": Reading(drop_extra=True)},
        **{"save_results": False, "choose_interp_method": False, "resume": True},
        **{"tile": (64, 96), "overlap": 0},
    )
    command = ["evaluate", "segmentation", *declare.command_line(options)]
    assert options_of(command) == options


@pytest.mark.parametrize("row", [row for row in RESULTS if row.label], ids=lambda row: row.name)
def test_the_command_of_a_published_row_is_its_test(row, tmp_path):
    weights = tmp_path / f"{row.label}_ep-0001.params"
    weights.touch()
    options = published_options(
        row, weights=weights, data_root=tmp_path, output=tmp_path / "out", backend="torch"
    )
    assert options_of(["evaluate", options.task, *declare.command_line(options)]) == options


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_of_a_recipe_are_its_stages(name, tmp_path):
    chosen = RecipeOptions(
        *(SearchFolders(tmp_path, tmp_path), tmp_path / "out", Devices(cpus=2)),
        **{"recipe": name, "base_lr": 0.007, "width": 0.25, "prefetcher": "thread"},
        **{"backend": "torch"},
    )
    for stage in plan_stages(chosen):
        options = dataclasses.replace(stage.options, data_root=tmp_path)
        if options.weights:
            options = dataclasses.replace(options, weights=tmp_path / options.weights.name)
            options.weights.touch()
        planned = dataclasses.replace(stage, options=options)
        assert options_of(shlex.split(planned.command)[1:]) == options


def test_choices_stand_in_one_place():
    """No tuple or list of an option's choices is written a second time."""
    from ademx.prediction.images import PredictionOptions
    from ademx.testing import options as testing
    from ademx.training import options as training

    root = Path(declare.__file__).parents[1]
    found: dict[frozenset[str], list[str]] = {}
    for top in ("ademx", "symbols", "iters"):
        for path in (root / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Tuple, ast.List)) and len(node.elts) > 1:
                    texts = [getattr(one, "value", None) for one in node.elts]
                    if all(isinstance(text, str) for text in texts):
                        place = f"{path.relative_to(root)}:{node.lineno}"
                        found.setdefault(frozenset(texts), []).append(place)
    classes = (
        *(training.ClassificationTrainOptions, training.SegmentationTrainOptions, Reading),
        *(testing.ClassificationOptions, testing.SegmentationOptions, PredictionOptions),
        *(ReproduceOptions, RecipeOptions),
    )
    for options in classes:
        for one in dataclasses.fields(options):
            said = declare.declared(one)
            if said is not None and said.choices:
                places = found.get(frozenset(said.choices), [])
                assert len(places) <= 1, f"{one.name} of {options.__name__}: {places}"


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("train segmentation --data-root {0} --model voc_rna-a1_cls21_s8", "--to-epoch"),
        ("train classification --to-epoch 1", "--data-root"),
        ("evaluate segmentation --weights {1}", "--data-root"),
        ("predict photo.jpg --weights {1}", "--output"),
        ("unravel a1", "--weights"),
    ],
)
def test_what_a_command_cannot_do_without_is_asked_for(line, missing, tmp_path):
    weights = tmp_path / "voc_rna-a1_cls21_s8_ep-0001.params"
    weights.touch()
    result = CliRunner().invoke(main, shlex.split(line.format(tmp_path, weights)))
    assert result.exit_code == 2 and f"Missing option '{missing}'" in result.output


@pytest.mark.parametrize("command", ["train segmentation", "evaluate segmentation", "predict x"])
def test_a_file_in_place_of_the_output_folder_is_named(command, tmp_path):
    file = tmp_path / "file"
    file.touch()
    result = CliRunner().invoke(main, [*command.split(), "--output", str(file)])
    assert result.exit_code == 2
    assert f"Invalid value for '--output': Directory '{file}' is a file" in result.output


def test_settings_that_differ_are_told_as_they_are_typed(tmp_path):
    from ademx.testing.options import ClassificationOptions

    files = (tmp_path / "ilsvrc-cls_rna-a1_cls1000.params",), tmp_path, tmp_path
    options = ClassificationOptions(*files, (320,))
    before = {
        "abn": True,
        "test_10crops": True,
        "compile": False,
        "test_scales": [256],
        "weights_md5": "a",
    }
    now = {"compile": True, "test_scales": [], "weights_md5": "b"}
    assert declare.differences(options, before, now) == (
        "--abn was given, now not given; --compile/--no-compile was --no-compile, now --compile; "
        "--test-10crops was given, now not given; --test-scales was 256, now not given; "
        "weights_md5 was 'a', now 'b'"
    )
