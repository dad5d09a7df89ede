"""Image files that are accepted, and their decoding under limits: downloads, training and evaluation share it."""
