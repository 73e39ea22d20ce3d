"""What stands behind the notebooks: figures, teaching drawings, explorers, pages, and the run of the whole series."""
