"""A site's pages in the browser: each does what a command does, by the same function."""
