"""A model that says what a test wants, with everything around it real."""

import torch

from vlm_fo1.engine import generate, local


class Script:
    """Makes chosen tokens the likeliest, one a step, leaving the others a chance.

    Remembers the ids of each prompt and the probability of each token it made the model say.
    """

    def __init__(self, fo1, text, *, stop=True):
        self.ids = fo1.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        if stop:
            self.ids.append(fo1.processor.stop_token_id)
        self.prompts: list[list[int]] = []
        self.probabilities: list[float] = []

    def said(self, logits_BV, rows):
        """The logits with the wanted token of each row in front."""
        logits_BV = logits_BV.clone()
        for place, row in enumerate(rows):
            wanted = self.ids[min(len(row.ids), len(self.ids) - 1)]
            logits_BV[place, wanted] = logits_BV[place].max() + 1
            self.probabilities.append(float(torch.softmax(logits_BV[place], -1)[wanted]))
        return logits_BV


def say(monkeypatch, fo1, text, *, stop=True):
    """Let `fo1` answer every question with `text`, then the stop token."""
    script = Script(fo1, text, stop=stop)
    choose, run = generate._choose, local.generate

    def scripted(logits_BV, rows, *rest):
        return choose(script.said(logits_BV, rows), rows, *rest)

    def recorded(model, prompts, **options):
        script.prompts += [[*prompt.prefix.ids, *prompt.ids] for prompt in prompts]
        return run(model, prompts, **options)

    monkeypatch.setattr(generate, "_choose", scripted)
    monkeypatch.setattr(local, "generate", recorded)
    return script
