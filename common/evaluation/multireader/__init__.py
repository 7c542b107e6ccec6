"""Several readers of the same exams, as a sample of readers: do others gain as much, who grades how."""
