"""A site's folder as evidence: what an auditor reads, and what left the site."""
