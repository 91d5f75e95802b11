"""How the weights of the bundled proposer were made."""
