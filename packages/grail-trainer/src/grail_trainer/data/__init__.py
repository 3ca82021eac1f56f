"""What is learned from: verdicts, the files that their stake accepted, the trainer's own verification, the batch."""
