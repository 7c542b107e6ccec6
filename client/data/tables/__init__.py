"""Tables: one reader for all of them, and what their rows mean."""
