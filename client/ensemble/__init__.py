"""The ensemble that comes back, and how it grades the site's own patients."""
