"""The reading room: exams looked at, regions drawn and grades given by the site's readers."""
