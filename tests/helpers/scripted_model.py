"""A model that says what a test wants, with everything around it real."""

from dataclasses import replace

import torch

from vlm_fo1.engine import generate


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

    def said(self, logits_RV, asked):
        """The logits with the wanted token of each place in front."""
        logits_RV = logits_RV.clone()
        places = [len(row.ids) + place for row, ahead in asked for place in ahead.asked]
        for number, place in enumerate(places):
            wanted = self.ids[min(place, len(self.ids) - 1)]
            logits_RV[number, wanted] = logits_RV[number].max() + 1
            self.probabilities.append(float(torch.softmax(logits_RV[number], -1)[wanted]))
        return logits_RV


def say(monkeypatch, fo1, text, *, stop=True):
    """Let `fo1` answer every question with `text`, then the stop token; nothing constrains it."""
    script = Script(fo1, text, stop=stop)
    choose, run = generate.choose, generate.Decoder.run

    def scripted(logits_RV, asked, *rest):
        return choose(script.said(logits_RV, asked), asked, *rest)

    def recorded(self, prompts):
        prompts = [replace(prompt, grammar=None) for prompt in prompts]
        script.prompts += [[*prompt.prefix.ids, *prompt.ids] for prompt in prompts]
        return run(self, prompts)

    monkeypatch.setattr(generate, "choose", scripted)
    monkeypatch.setattr(generate.Decoder, "run", recorded)
    return script
