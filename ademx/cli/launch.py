"""`ademx launch`: several workers of one training on this machine."""

from __future__ import annotations

import sys

import click

from ademx.cli import options as shared
from ademx.cli.train import train
from ademx.engines.backends import resolve_backend
from ademx.options import option
from ademx.training.launch import SAVING_SECONDS
from ademx.training.launch import launch as run


@click.command(context_settings={"ignore_unknown_options": True})
@shared.from_signature
@click.option(
    "--scheduler-port", type=click.IntRange(1, 65535), help="TCP port.  [default: a free one]"
)
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
def launch(
    arguments: tuple[str, ...],
    scheduler_port: int | None,
    workers: int = option(2, "Processes.", least=1),
    servers: int = option(1, "Processes that hold the parameters (MXNet).", least=1),
    grace: float = option(
        SAVING_SECONDS, "Seconds that workers have to save and end in after a signal.", least=0
    ),
) -> None:
    """Run `ademx ARGUMENTS` as several workers that train together on this machine.

    For example: ademx launch --workers 2 -- train segmentation --kvstore dist_sync …, or by
    PyTorch: ademx launch --workers 2 -- train segmentation --backend torch …

    Worker 0's output comes through as it is, that of the others prefixed on stderr; a mistake that
    all of them find is told once. Ctrl-C, SIGTERM and SIGHUP are passed on to the workers, which
    save first; what has not ended after --grace, as where a worker hangs, is killed; when a process
    dies, all end. A second signal ends all at once. The workers of a machine share out its --gpus;
    several GPUs of one machine are better used by one process: --gpus 0,1 --kvstore device.

    Several machines by PyTorch: torchrun or srun start the workers. By MXNet on Slurm:
    tools/slurm_train.sh. By MXNet over ssh, in a network that you trust (a server runs what
    workers send it): give every process DMLC_PS_ROOT_URI (the first host's address),
    DMLC_PS_ROOT_PORT, DMLC_NUM_WORKER, DMLC_NUM_SERVER and its own DMLC_ROLE; start
    `python -c "from ademx.engines.mxnet.server import serve; serve()"` once with
    DMLC_ROLE=scheduler on the first host and with DMLC_ROLE=server on every host, and
    `ademx train … --kvstore dist_sync` with DMLC_ROLE=worker on every host. DMLC_INTERFACE=eth1
    chooses the network card. Nothing ends the other hosts' processes when one dies: Slurm does
    that, ssh does not.
    """
    by_torch = arguments[0] == "train" and _engine(arguments) == "torch"
    if arguments[0] == "train" and not by_torch and not any("dist_" in one for one in arguments):
        raise click.UsageError(
            "without --kvstore dist_sync, dist_device_sync or dist_async each worker would train "
            "alone: add it to the arguments of train, or --backend torch"
        )
    command = [sys.executable, "-m", "ademx", *arguments]
    status = run(
        command,
        workers=workers,
        servers=None if by_torch else servers,
        scheduler_port=scheduler_port,
        grace=grace,
    )
    click.get_current_context().exit(status)


def _engine(arguments: tuple[str, ...]) -> str:
    """Return what workers with these arguments of `ademx train` compute by, as it finds it.

    What is wrong with them is the workers' to say.
    """
    command = train.commands.get("".join(arguments[1:2]))
    if command is None:
        return "mxnet"
    given = command.make_context("train", list(arguments[2:]), resilient_parsing=True).params
    return resolve_backend(
        given.get("backend") or "auto",
        shared.chosen_devices(given.get("gpus"), given.get("cpus")),
        precision=given.get("precision") or "float32",
    )
