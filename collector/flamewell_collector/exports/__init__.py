"""Writers of foreign profile formats, each a pure function of a merged profile."""
