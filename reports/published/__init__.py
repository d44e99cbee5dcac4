"""Numbers that others have published, beside ours: which ones there are, which match, and how they compare."""

from reports.published.facts import PUBLICATIONS, Protocol, Published, protocols, published_results
from reports.published.matching import Effect, Match, matches
from reports.published.section import published_frame, published_section

__all__ = [
    "PUBLICATIONS",
    "Effect",
    "Match",
    "Protocol",
    "Published",
    "matches",
    "protocols",
    "published_frame",
    "published_results",
    "published_section",
]
