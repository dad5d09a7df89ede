"""Computation of the tasks: code for workers, which loads numpy and matplotlib; recipes import the tasks alone."""
