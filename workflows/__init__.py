"""What to do: recipes are chains of stages; this package plans, runs, resumes and reports them."""
