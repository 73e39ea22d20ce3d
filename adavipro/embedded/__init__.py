"""The small world: what it draws, and how the small CLIP that ships with the project was trained."""
