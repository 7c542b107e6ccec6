"""Text that people read: tables, names, figures, terminals."""
