"""Configuration of the HTTP client: identification, politeness, limits, retries."""

from __future__ import annotations

import ipaddress
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from infra.config import Config, Runtime
from pipelines.web.policy.opt_outs import Policy

__all__ = ["Web"]


class Web(Config):
    """HTTP client options. Times are in seconds, sizes in bytes of the decoded body."""

    user_agent: str = Field(
        "clipline/0.1", description="product/version of the User-Agent header; robots.txt rules match the product name"
    )
    contact: str = Field(
        "", description="email address or URL where a site owner reaches you; appended to the user agent"
    )
    obey_robots: bool = Field(True, description="obey robots.txt; if off, it is not even fetched")
    obey_opt_out: bool = Field(
        True,
        description="drop what its site withholds from AI use (docs/rights.md); if off, its words are only recorded",
    )
    rights_files: tuple[Literal["tdmrep.json", "ai.txt", "trust.txt"], ...] = Field(
        (), description="files with opt-outs to fetch besides robots.txt, each one request per origin"
    )
    max_page_bytes: int = Field(4 << 20, gt=0, description="maximum size of a page, bytes decoded")
    max_image_bytes: int = Field(32 << 20, gt=0, description="maximum size of an image, bytes decoded")
    max_bytes_in_flight: Runtime[int] = Field(
        256 << 20, gt=0, description="bytes of bodies a worker holds at once, from response headers until processed"
    )
    max_redirects: int = Field(5, ge=0, description="maximum number of redirects per URL")
    concurrency: Runtime[int] = Field(512, gt=0, description="requests in flight per worker")
    host_concurrency: Runtime[int] = Field(2, gt=0, description="requests in flight per host, over all workers")
    target_concurrency: Runtime[float] = Field(
        0.0,
        ge=0,
        description="average requests in flight per host (AutoThrottle): the delay between requests becomes the host's "
        "latency divided by this; 0: host_concurrency",
    )
    delay_s: Runtime[float] = Field(
        0.0, ge=0, description="minimum delay between requests to one host; Crawl-delay raises it"
    )
    max_delay_s: Runtime[float] = Field(
        30.0,
        ge=0,
        description="longest Crawl-delay and Retry-After to wait for; URLs of a host that asks for more end as "
        "rate_limited at once",
    )
    deadline_s: Runtime[float] = Field(30.0, gt=0, description="timeout of one request, from connecting to last byte")
    connect_s: Runtime[float] = Field(5.0, gt=0, description="timeout of opening a connection")
    min_rate: Runtime[float] = Field(
        1000.0, gt=0, description="minimum average transfer rate of a body after 5 s, bytes per second"
    )
    retries: Runtime[int] = Field(2, ge=0, description="further attempts after a transient failure")
    retry_s: Runtime[float] = Field(1.0, ge=0, description="wait before the first retry; doubles each time, jittered")
    breaker_failures: Runtime[int] = Field(
        5,
        gt=0,
        description="consecutive requests without any answer after which a host counts as down, or"
        " pauses of max_delay_s without a file between them after which it is left to rest",
    )
    breaker_s: Runtime[float] = Field(
        30.0, gt=0, description="how long a host counts as down at first; doubles each time it still does not respond"
    )
    dns_threads: Runtime[int] = Field(64, gt=0, description="concurrent DNS lookups")
    connect_to: Runtime[dict[str, str]] = Field(
        {}, description='host pattern -> "address[:port]" to connect to instead, private ones too; first match wins'
    )
    allow_private: Runtime[tuple[str, ...]] = Field(
        (), description="networks that may be reached although they are not public, e.g. 10.0.0.0/8"
    )

    @field_validator("allow_private")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value

    @model_validator(mode="after")
    def _budget_holds_two_bodies(self) -> Self:
        if self.max_bytes_in_flight < (least := 2 * max(self.max_page_bytes, self.max_image_bytes)):
            raise ValueError(f"max_bytes_in_flight of at least {least}, twice the largest body allowed")
        return self

    @property
    def agent(self) -> str:
        """Product token, as robots.txt and scoped headers name it."""
        return self.user_agent.partition("/")[0]

    @property
    def policy(self) -> Policy:
        """Opt-out policy for this agent."""
        return Policy(self.agent)

    @property
    def user_agent_header(self) -> str:
        return f"{self.user_agent} (+{self.contact})" if self.contact else self.user_agent
