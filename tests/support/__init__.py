"""What several tests use: commands and small runs, programs that are started by them, and slow references."""
