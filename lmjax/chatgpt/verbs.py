"""The verb `chatgpt` of `python -m lmjax`; see `lmjax.commands`."""


def chatgpt(directory: str = "runs/chatgpt", seed: int = 0, coefficient: float = 0.2, iterations: int = 80) -> None:
    """All four steps of the ChatGPT recipe on a small made-up world whose true reward is known.

    Args:
        directory: Where its runs live; the same command again goes on where it was stopped.
        seed: Of the world, the models and all draws.
        coefficient: Of the divergence from the tuned model, in PPO; smaller ones let it go further.
        iterations: Of PPO.
    """
    from lmjax.chatgpt.recipe import Recipe
    from lmjax.chatgpt.stages import chatgpt
    from lmjax.memory import keep_freed_memory
    from lmjax.parallel import initialize_distributed

    keep_freed_memory()
    recipe = Recipe(directory=directory, seed=seed, coefficient=coefficient, iterations=iterations)
    initialize_distributed()  # a signal then ends a step with a checkpoint
    chatgpt(recipe)
