"""The centre's pages in the browser."""
