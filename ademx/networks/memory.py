"""What one device holds while it trains; the engines work it out for theirs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingMemory:
    """What one device holds while it trains on batches of a graph's size, in bytes, float32.

    Attributes:
        parameters: weights and moving statistics.
        gradients: one for each weight.
        momentum: one for each weight.
        inputs: images and labels of a batch.
        plan: activations and their gradients, as the engine lays them out.
        workspace: the most that a convolution may take besides on a GPU; not in the total.
    """

    parameters: int
    gradients: int
    momentum: int
    inputs: int
    plan: int
    workspace: int

    @property
    def total(self) -> int:
        """Bytes that every update needs. The engine itself and the CUDA context come on top."""
        return self.parameters + self.gradients + self.momentum + self.inputs + self.plan
