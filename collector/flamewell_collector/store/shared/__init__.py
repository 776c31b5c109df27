"""A store that several collectors share, over object storage or a common folder."""
