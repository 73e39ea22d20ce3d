"""How to train: the recipe, and its schedules of learning rate and temperature."""

import math
from dataclasses import dataclass

from adavipro.settings import SettingError, setting


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the paper's. Two schedules can be given for the whole run instead of by step."""

    epochs: int = setting(1000, "passes over the training images", low=1)
    batch_size: int = setting(256, "images in a step", low=1)
    prompt_lr: float = setting(40.0, "learning rate of the template", low=0)
    generator_lr: float = setting(1.0, "learning rate of the mask generator", low=0)
    momentum: float = setting(0.9, "momentum of SGD for the template", low=0, high=0.9999)
    warmup_steps: int = setting(1000, "steps of linear warm-up", low=0)
    warmup_share: float | None = setting(
        None, "warm-up as a share of the run, instead of steps", low=0, high=1
    )
    temperature_start: float = setting(5.0, "Gumbel-Softmax temperature of the first epoch", above=0)
    temperature_gamma: float = setting(0.98, "factor on the temperature after each epoch", above=0, high=1)
    temperature_end: float | None = setting(
        None, "temperature of the last epoch, instead of a factor: the fall is spread over the run", above=0
    )
    temperature_floor: float = setting(0.1, "least temperature", above=0)


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then cosine to 0, by step (VP's schedule). Returns the factor on the learning rate."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def temperature_at(epoch: int, recipe: Recipe) -> float:
    """Temperature of an epoch: start * gamma^epoch, or spread from start to end; never under the floor."""
    value = recipe.temperature_start * recipe.temperature_gamma**epoch
    if recipe.temperature_end is not None:
        ratio = recipe.temperature_end / recipe.temperature_start
        value = recipe.temperature_start * ratio ** (epoch / max(1, recipe.epochs - 1))
    return max(recipe.temperature_floor, value)


def steps_an_epoch(recipe: Recipe, images: int) -> int:
    """Steps that one pass over `images` takes; the last may have fewer images."""
    return math.ceil(images / recipe.batch_size)


def warmup_length(recipe: Recipe, total_steps: int) -> int:
    """Steps of warm-up, from the share of the run where one is given.

    Raises:
        SettingError: if the run would never leave its warm-up.
    """
    steps = recipe.warmup_steps if recipe.warmup_share is None else round(recipe.warmup_share * total_steps)
    if steps >= total_steps:
        raise SettingError(
            f"warm-up takes {steps} steps, but the run has {total_steps} and would never leave it: lower "
            "warmup_steps, or give warmup_share"
        )
    return steps
