"""What reports are made of: figures, documents, and progress while they are awaited."""
