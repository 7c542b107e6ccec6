"""From an invitation to a joined site: the command, and the steps that it takes."""
