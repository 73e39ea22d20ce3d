"""One run on several processes, a GPU each: who takes which images, and what all of them know."""

import os
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Rows(NamedTuple):
    """Which rows of a batch of `of` images a process has. weight: what makes the mean of gradients the batch's."""

    part: slice
    of: int
    weight: float


@dataclass(frozen=True)
class Team:
    """The processes of a run. One alone is a team too, and its communication costs nothing."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> Self:
        """Join the processes that torchrun started, over NCCL for GPUs and gloo for CPUs; alone without torchrun."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), size)

    @staticmethod
    def device(wanted: str) -> str:
        """The device of this process: of several GPUs the one with its local rank."""
        return (
            f"cuda:{os.environ['LOCAL_RANK']}" if wanted == "cuda" and "LOCAL_RANK" in os.environ else wanted
        )

    def leave(self) -> None:
        """End the communication."""
        if self.size > 1:
            dist.destroy_process_group()

    def rows(self, images: int) -> Rows:
        """The share of a batch. With fewer images than processes some take one of the others' with weight 0."""
        low, high = (images * rank // self.size for rank in (self.rank, self.rank + 1))
        if low == high:
            return Rows(slice(0, 1), images, 0.0)
        return Rows(slice(low, high), images, (high - low) * self.size / images)

    def wrap(self, method: nn.Module) -> nn.Module:
        """The module whose gradients are averaged over the processes; frozen networks stay outside."""
        return nn.parallel.DistributedDataParallel(method) if self.size > 1 else method

    def sum(self, *values: float, device: torch.device) -> list[float]:
        """The sums of numbers over all processes, by way of their devices."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def all(self, value: Any) -> list[Any]:
        """What every process has, in the order of their ranks; none goes on before all have come here."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def gather(self, parts: list[Tensor]) -> Tensor:
        """The rows of all processes' tensors, in the order of their ranks."""
        if self.size > 1:
            parts = [part for found in self.all([p.cpu() for p in parts]) for part in found]
        return torch.cat(parts)


ALONE = Team()
