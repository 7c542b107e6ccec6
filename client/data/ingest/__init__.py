"""From a hospital's tables and pictures to exams and arrays."""
