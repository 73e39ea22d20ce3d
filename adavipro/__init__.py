"""AdaViPro (arXiv 2403.13282): learn what to add to an image for a frozen CLIP, and where to add it.

The names below are the public ones; each is imported when it is first used.
"""

import importlib
from typing import Any

_HOME = {
    "prompts": ["FramePrompt"],
    "where": ["EdgeDetector", "MaskGenerator"],
    "method": ["AdaViPro", "Prompted"],
    "classifier": ["FrozenClassifier", "FrozenClip"],
    "data": ["Split"],
    "recipe": ["Recipe", "SettingError"],
    "evaluation": ["Evaluation"],
    "training": ["TrainingDiverged"],
    "checkpoints": ["CheckpointError"],
    "prompted": ["PromptedClassifier", "evaluate", "fit", "load"],
    "experiment": ["Experiment", "preset", "restore", "run"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'adavipro' has no attribute {name!r}")
    return getattr(importlib.import_module(f"adavipro.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
