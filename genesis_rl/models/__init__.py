"""GENESIS and its parts: networks only, from images to latents and back."""
