"""The load strategies that come with the package, one per file; the registry names them."""
