"""The one way out to the web, guarded and polite.

A fetch goes down this way: ``fetch`` (what the stages see) -> ``chase`` (is it allowed, whose turn is it, once more?)
-> ``exchange`` (one HTTP exchange under its caps). Beside them ``hosts`` and ``turns`` share the hosts among workers.
"""
