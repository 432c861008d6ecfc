"""Small things around the core: files of configuration, JSON, what is installed."""
