"""Training in stages: which parameters train on which data, and a loop that can be killed."""
