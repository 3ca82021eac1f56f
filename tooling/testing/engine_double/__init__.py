"""A double of both inference engines: their HTTP interfaces, spoken over a real tiny model that really decodes.

What SGLang 0.5.23 and vLLM 0.33 answer was read from their published wheels. The double keeps what a client can be hurt by:
defaults of engine and folder that apply where a request leaves something out, what a pause does to requests in flight and to
new ones, weights that change under a sequence, a prefix cache that outlives them, labels that are moved apart from what they
name. It decodes with a real cache, one token of every running request in a step: a row of two checkpoints really is one.

* `engine`: requests, steps, weights. `requests`, `drawing`: what is asked of a row, and how its next token is drawn.
* `web`, `sglang`, `vllm`, `replies`: the interfaces; `sglang_sampling`, `vllm_sampling`: what they make of a request's fields.
  `arguments`, `setup`: the engines' own flags, and what these decide.
* `faults`: everything that can be told to go wrong, in one table.
* `double`: a double in this process, for fast tests. `process`: one of its own, and an interpreter that poses as the engine's.

Not doubled: text prompts, chat, more than one answer to a prompt, speculation, adapters, several GPUs.
"""
