"""The only source of randomness: one generator per purpose, keyed by what it is for."""

import hashlib

import torch


def generator(seed: int, stream: str, *counters: int) -> torch.Generator:
    """Return a CPU generator that depends on its key alone, never on what was drawn before.

    Batch order is keyed by (seed, "order", epoch), Gumbel noise by (seed, "gumbel", step), and so on. A run
    that was killed and resumed therefore draws what it would have drawn, on any device and with any number of
    loader workers.

    Args:
        seed: the run's seed.
        stream: what the numbers are for; streams with different names are independent.
        counters: where in the stream we are (an epoch, a step, an image).
    """
    key = ":".join([str(int(seed)), stream, *(str(int(c)) for c in counters)])
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
