"""Where to compute, in words that every engine understands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Devices:
    """Where to compute: GPUs by number, or else a number of CPU contexts.

    Attributes:
        gpus: numbers of the GPUs; empty for the CPU.
        cpus: number of CPU contexts, which share the cores.
    """

    gpus: tuple[int, ...] = ()
    cpus: int = 1

    @property
    def count(self) -> int:
        """Number of contexts."""
        return len(self.gpus) or self.cpus

    def names(self) -> list[str]:
        """Return the contexts' names, such as "gpu(0)"."""
        kind, numbers = ("gpu", self.gpus) if self.gpus else ("cpu", range(self.cpus))
        return [f"{kind}({number})" for number in numbers]
