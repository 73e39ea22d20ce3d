"""AdaViPro (arXiv 2403.13282): learn what to add to an image for a frozen CLIP, and where to add it."""
