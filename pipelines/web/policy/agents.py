"""User agents of crawlers that feed AI models: what a site says to one of them, it says to us."""

from __future__ import annotations

__all__ = ["AI_AGENTS"]

AI_AGENTS = frozenset(
    {
        "ai2bot",
        "ai2bot-dolma",
        "amazonbot",
        "anthropic-ai",
        "applebot-extended",
        "bytespider",
        "ccbot",
        "claude-web",
        "claudebot",
        "cohere-ai",
        "cohere-training-data-crawler",
        "deepseekbot",
        "diffbot",
        "facebookbot",
        "google-cloudvertexbot",
        "google-extended",
        "gptbot",
        "imagesiftbot",
        "img2dataset",
        "laion-huggingface-processor",
        "laiondownloader",
        "meta-externalagent",
        "omgili",
        "omgilibot",
        "pangubot",
        "timpibot",
        "webzio-extended",
    }
)
"""Names in lower case: crawlers that collect training data, and tokens such as Google-Extended that stand for a use."""
