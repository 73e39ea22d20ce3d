"""The commands of `adavipro`, a module for each kind."""
