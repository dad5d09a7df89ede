"""Training objectives, a folder each: ``config.py``, which recipes import, and ``objective.py``, which imports torch.

``from training.objectives import albef`` gives ``albef.Config``. An objective of your own is a subclass of
:class:`training.objectives.config.ObjectiveConfig` beside a subclass of :class:`training.objectives.base.Objective`,
in any module: see docs/extending.md.
"""
