"""What pretraining gives on real data, in one resumable command; see `__main__`."""
