"""The command line: `ask` has the commands of all tasks, each other command a file of its own."""
