"""What a run of a campaign leaves on disk, and how one is begun: folder, evidence, list, submission."""
