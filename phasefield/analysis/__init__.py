"""What `analyze` shows of a model: a module for each model that can be looked into, by the model's name.

Each offers ``analyze(model, tokenizer, text, save_path) -> dict``: it draws the picture ``save_path`` (a
PNG), writes its numbers beside it as JSON, with whatever else it draws under the same stem, and returns the
numbers.
"""
