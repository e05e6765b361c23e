"""The training loop and what it needs: schedule, optimizer, checkpoints, several processes, log. No code on boxes."""
