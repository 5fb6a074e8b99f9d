"""Why a peer is missing."""

__all__ = ["UnavailableError"]


class UnavailableError(Exception):
    """Something that the peer needs is not installed, or does not work here."""
