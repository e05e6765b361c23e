"""The one training loop and what it needs: schedule, optimizer, checkpoints, several processes, log. Knows no boxes."""
