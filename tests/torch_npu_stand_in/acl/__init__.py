"""A stand-in for acl, CANN's runtime in Python."""

from . import rt
