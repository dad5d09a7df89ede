"""The only way out to the web: a guarded, polite HTTP client for pages and images.

``Fetcher`` (fetcher.py) is what the stages call; docs/web.md draws the way from a URL to its body. This package exports
the configuration and the types of its results, which are light; code that fetches imports ``pipelines.web.fetcher``.
"""

from pipelines.web.config import Web
from pipelines.web.response import FetchError, ResourceType, Response

__all__ = ["FetchError", "ResourceType", "Response", "Web"]
