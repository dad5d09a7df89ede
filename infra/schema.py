"""Names and types that cross stage borders: column schemas, statuses, and the reasons rows are dropped for.

Functions rather than constants where pyarrow is needed, so that planning never loads it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Drop", "Status", "images_schema", "pairs_schema"]


class Status(StrEnum):
    """img2dataset's statuses of a downloaded row."""

    SUCCESS = "success"
    FAILED_TO_DOWNLOAD = "failed_to_download"
    FAILED_TO_RESIZE = "failed_to_resize"


class Drop(StrEnum):
    """Reasons to drop a row, the same in every funnel, gallery and test. Rules of users add their own."""

    # crawl: a URL
    ROBOTS = "robots_disallowed"
    HTTP_ERROR = "http_error"  # 4xx and 5xx after retries
    NOT_HTML = "not_html"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    CONNECTION = "connection_failed"
    HOST_DOWN = "host_down"  # it failed several times in a row and is not asked for a while
    RATE_LIMITED = "rate_limited"  # the host asked for a longer rest than web.max_delay_s
    REFUSED = "refused_address"  # scheme, private address, redirect loop
    OFF_SITE = "off_site_redirect"
    REDIRECT = "redirected"  # replaced by its target
    BUDGET = "over_budget"
    NOT_SITEMAP = "not_a_sitemap"  # of a sitemap file
    TRAP = "crawler_trap"  # a URL pattern without end that leads to nothing new
    OPT_OUT = "opt_out"  # withheld from AI use (docs/rights.md); also of images
    # urls: a line of a list
    MALFORMED = "malformed_row"  # not UTF-8, not JSON, too few or too many fields
    # extract: a candidate image on a page
    NO_TEXT = "no_text"
    BAD_URL = "bad_url"
    TRACKING_PIXEL = "tracking_pixel"
    PLACEHOLDER = "placeholder_image"  # stands in for images, by its name; in dedup, by the bytes of many addresses
    DUPLICATE_PAIR = "duplicate_pair"
    # download: an image, besides the reasons of crawl
    NOT_AN_IMAGE = "not_an_image"
    DECODE = "decode_failed"
    TOO_SMALL = "image_too_small"
    ASPECT = "aspect_ratio_too_large"
    AREA = "image_area_too_large"
    TRUNCATED = "truncated"  # not all of its pixels are there
    TRANSPARENT = "fully_transparent"  # nothing to see
    UNFORESEEN = "unforeseen_error"  # our own code failed at what the row holds; the message says how and where
    HASH_MISMATCH = "hash_mismatch"  # another image than the list's hash says
    MISSING = "image_missing"  # a later stage's: the row says it has an image, and its tar has none
    # filter: kinds of its rules
    TEXT_LENGTH = "text_length"
    TEXT_WORDS = "text_words"
    TEXT_JUNK = "text_junk"
    LANGUAGE = "language"
    IMAGE_SIDE = "image_side"
    IMAGE_ASPECT = "image_aspect"
    SUBSET = "subset"  # of no id that a list has; also in reshard
    DIGITAL_SOURCE = "digital_source"  # made by AI, as its metadata says
    # score
    NO_EMBEDDING = "no_embedding"  # the row is not among the vectors that were adopted
    # dedup
    DUPLICATE_URL = "duplicate_url"
    DUPLICATE_BYTES = "duplicate_bytes"
    NEAR_DUPLICATE = "near_duplicate"
    DUPLICATE_TEXT = "duplicate_text"  # in textdedup: of the same words
    NEAR_DUPLICATE_TEXT = "near_duplicate_text"
    CONTAMINATED = "contaminated"  # in decontaminate: near an image of a test set
    SEMANTIC_DUPLICATE = "semantic_duplicate"  # in semdedup: of nearly the same vector as another
    # balance
    NO_MATCH = "no_metadata_match"
    BALANCED_AWAY = "balanced_away"


def pairs_schema() -> pa.Schema:
    """A row per (image, text, source). ``uid``: 32 hex digits, stable across runs."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            pa.field("uid", text, nullable=False),
            pa.field("url", text, nullable=False),
            pa.field("caption", text, nullable=False),
            ("page_url", text),
            ("source", text),  # alt | figcaption | title | og | twitter | json-ld
            ("language", text),  # of the page, BCP 47, as declared
            ("license", text),  # address of the image's licence (JSON-LD), else of the page's (rel=license)
            ("context", text),  # heading and paragraph next to the image, a line each, if asked for
            ("opt_out", text),  # words by which page or host withhold its images from AI use, whether obeyed or not
        ]
    )


def images_schema(pairs: pa.Schema) -> pa.Schema:
    """img2dataset's output columns: the input's, then the outcome of each row. ``sha256`` is of the bytes served."""
    import pyarrow as pa

    return pa.schema(
        [
            *pairs,
            ("key", pa.string()),
            ("status", pa.string()),
            ("error_message", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("original_width", pa.int32()),
            ("original_height", pa.int32()),
            ("exif", pa.string()),
            ("sha256", pa.string()),
        ]
    )
