"""Contrastive pretraining: model, loss, data, loop, checkpoint; Ray Train launches it."""
