"""Fusion encoders: a transformer that reads the tokens of an image and of a text together."""
