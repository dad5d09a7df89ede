"""The embedded web: generated scenes, the site that shows them, and what must become of every page and picture."""
