"""What answers the requests of pages and clients."""
