"""Recipes as chains of stages, and all that plans, runs, resumes and reports them."""
