"""VLM-FO1: vision-language models that point at regions instead of guessing coordinates."""
