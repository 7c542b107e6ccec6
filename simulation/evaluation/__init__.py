"""What a run's ensemble is worth on held-out exams."""
