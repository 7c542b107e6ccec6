"""A site's exams: brought in, checked, and stored as tensors."""
