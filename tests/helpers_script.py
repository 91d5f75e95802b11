"""A model that says what a test wants, with everything around it real."""

import torch
from transformers import LogitsProcessor


class Script(LogitsProcessor):
    """Makes chosen tokens the likeliest, one a step, leaving the others a chance.

    Remembers the ids of each prompt and the probability of each token it made the model say.
    """

    def __init__(self, fo1, text, *, stop=True):
        self.ids = fo1.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        if stop:
            self.ids.append(fo1.processor.stop_token_id)
        self.prompts: list[list[int]] = []
        self.probabilities: list[float] = []

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - len(self.prompts[-1])
        wanted = self.ids[min(step, len(self.ids) - 1)]
        scores = scores.clone()
        scores[:, wanted] = scores.max() + 1
        self.probabilities.append(float(torch.softmax(scores[0].float(), -1)[wanted]))
        return scores


def say(monkeypatch, fo1, text, *, stop=True):
    """Let `fo1` answer every question with `text`, then the stop token."""
    script = Script(fo1, text, stop=stop)
    generate = type(fo1.model).generate

    def scripted(input_ids, *args, logits_processor=(), **options):
        script.prompts.append(input_ids[0].tolist())
        processors = [script, *logits_processor]
        return generate(fo1.model, input_ids, *args, logits_processor=processors, **options)

    monkeypatch.setattr(fo1.model, "generate", scripted)
    return script
