"""What happened at the site: its own log, the audit log, and the exact replies that left."""
