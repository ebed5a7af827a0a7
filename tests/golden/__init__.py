"""Records of every schema version, as they were written then."""
