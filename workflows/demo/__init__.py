"""The embedded web: generated scenes, the pages that show them, and the server. The expected outcome is in tests."""
