"""Texts that a model writes about images, a token at a time."""
