"""Models that are wrong on purpose: conformance has to find each fault."""
