"""Which campaigns run here, as the site's people decided, and what they were asked."""
