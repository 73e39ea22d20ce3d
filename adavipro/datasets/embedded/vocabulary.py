"""What the small world contains, by name: the classes that the small CLIP learned to tell apart."""

import string

DIGITS = tuple(f"digit {word}" for word in "zero one two three four five six seven eight nine".split())

# The capitals I and O are left out: in most fonts they are strokes of the digits one and zero.
LETTERS = tuple(f"letter {c}" for c in string.ascii_lowercase if c not in "io")

SYMBOLS = {
    "star": "★", "heart": "♥", "airplane": "✈", "anchor": "⚓", "chess knight": "♞", "moon": "☾",
    "scissors": "✂", "umbrella": "☂", "triangle": "▲", "snowflake": "❄", "cloud": "☁", "sun": "☀",
    "telephone": "☎", "skull": "☠", "yin yang": "☯", "smiling face": "☺", "spade": "♠", "club": "♣",
    "diamond": "♦", "musical note": "♪", "gear": "⚙", "lightning bolt": "⚡", "envelope": "✉",
    "pencil": "✏", "check mark": "✓", "flag": "⚑", "arrow": "➜", "scales": "⚖", "crown": "♛",
    "coffee cup": "☕",
}  # fmt: skip

_PATTERNS = "striped checkered dotted ringed gridded zigzag wavy brick bubbly spiral rayed speckled".split()
TEXTURES = tuple(f"{word} texture" for word in _PATTERNS)

CLASS_NAMES = (*DIGITS, *LETTERS, *SYMBOLS, *TEXTURES)

COLOURS = {
    "red": (0.85, 0.10, 0.10), "green": (0.10, 0.60, 0.15), "blue": (0.10, 0.20, 0.85),
    "yellow": (0.95, 0.88, 0.10), "black": (0.05, 0.05, 0.05), "white": (0.97, 0.97, 0.97),
    "orange": (0.95, 0.50, 0.05), "purple": (0.50, 0.10, 0.60), "pink": (0.95, 0.55, 0.75),
    "brown": (0.45, 0.25, 0.10), "cyan": (0.10, 0.80, 0.85), "gray": (0.50, 0.50, 0.50),
}  # fmt: skip
