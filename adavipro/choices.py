"""What the paper leaves open, chosen in one place; each can be switched. docs/choices.md gives the reasons."""

from dataclasses import dataclass

from adavipro.settings import setting


@dataclass(frozen=True)
class OpenChoices:
    """Our choices where the paper's text is silent; none of these values is the paper's."""

    prompt_start_std: float = setting(
        1.0,
        "standard deviation of the normal distribution that the template starts from (VP's code: 1)",
        low=0,
    )
    edges: bool = setting(True, "take edges before the mask generator; without, it sees the image (Table 4)")
    edge_channels: int = setting(3, "channels of the edge map: 3, or 1 (mean of the colours)", low=1, high=3)
    edge_input: str = setting("normalised", "image whose edges are taken", choices=("normalised", "raw"))
    relu: bool = setting(True, "a ReLU between F_c and F_p")
    bias: bool = setting(True, "bias terms in F_c and F_p")
    on_bias: float = setting(0.0, "start of F_p's bias, on minus off")
    policy_scale: float = setting(1.0, "factor on F_p's start weights", low=0)
    standardise: bool = setting(False, "F_c's channels to mean 0 and spread 1 over each image, before F_p")
    hard: bool = setting(False, "0 or 1 with straight-through gradients in training; otherwise soft masks")
    random_share: float | None = setting(
        None, "no generator: each region on with this probability, whatever the image", low=0, high=1
    )
    where: str = setting(
        "gumbel",
        "what decides on a region: gumbel, the paper's; as controls sigmoid, the same generator with soft masks and no "
        "noise, or smm, SMM's masks of three channels",
        choices=("gumbel", "sigmoid", "smm"),
        later=True,
    )
    generator_momentum: float = setting(0.9, "momentum of SGD for the mask generator", low=0, high=0.9999)
