"""Texts of the help pages: examples per command, and the exit codes."""

from __future__ import annotations

__all__ = ["ABOUT", "EXIT_CODES", "epilog"]

ABOUT = "From web pages to an evaluated CLIP model: one recipe, one Ray cluster, one MLflow run."

EXIT_CODES = (
    "**Exit codes** 0 done, 1 failed, 2 wrong usage or configuration, 73 another run holds a stage, "
    "75 stopped and resumable, 130 and 143 ended by a signal."
)

_EXAMPLES = {
    "clipline": (
        "clipline doctor",
        "clipline run quickstart",
        "clipline status",
        "clipline plan quickstart --set samples=100000",
    ),
    "run": (
        "clipline run quickstart",
        "clipline run website --set seeds=https://example.org/ --set contact=you@example.org",
        "clipline run my_recipe.py --set download.image_size=224 --until filter",
        "clipline run my_recipe.py --root s3://bucket/clip --wait",
    ),
    "submit": (
        "clipline submit my_recipe.py --root s3://bucket/clip --address http://head:8265",
        "clipline resume --root s3://bucket/clip --address http://head:8265",
    ),
    "plan": ("clipline plan quickstart", "clipline plan quickstart --set download.image_size=64 --json"),
    "sweep": (
        "clipline sweep quickstart --grid train.optimizer.lr=0.003,0.001 --seeds 3",
        "clipline sweep my_recipe.py --grid objective=infonce,siglip --grid batch_size=256,1024 --random 3 --plan",
        "clipline sweep my_recipe.py --grid seed=0,1,2 --root s3://bucket/clip --address http://head:8265",
    ),
    "accept-drift": (
        "clipline accept-drift quickstart",
        'clipline accept-drift quickstart --stage filter --why "only a docstring"',
    ),
    "export": (
        "clipline export quickstart-3fa9 s3://bucket/clip --plan",
        "clipline export train/3fa9 /mnt/disk --inputs --max-bytes 20GB",
    ),
    "import": ("clipline import quickstart-3fa9 s3://bucket/clip --max-bytes 50GB",),
    "gc": ("clipline gc", "clipline gc --older-than 14d --keep quickstart-3fa9c01b", "clipline gc --delete"),
    "ls": ("clipline ls", "clipline ls --name quickstart", "clipline ls download"),
    "show": ("clipline show filter", "clipline show download/3fa9 --verify"),
    "trace": ("clipline trace https://example.org/cat.jpg", "clipline trace 5d41402abc4b2a76b9719d911017c592 --json"),
    "search": (
        'clipline search run-3fa9 "a red circle" --page found.html',
        "clipline search embed/81c0 cat.jpg --most 30",
    ),
    "diff": ("clipline diff quickstart-3fa9 quickstart-81c0", "clipline diff zeroshot/3fa9 zeroshot/81c0 --json"),
    "compare": (
        "clipline compare zeroshot/3fa9 zeroshot/81c0",
        "clipline compare plain=run-3fa9,run-77b1 filtered=run-81c0,run-c2d4 --figure differences.png",
    ),
    "tasks": ("clipline tasks", "clipline tasks my_recipe.py", "clipline tasks /data/eval --json"),
    "fields": ("clipline fields", "clipline fields download", "clipline fields --recipe my_recipe.py"),
}


def epilog(command: str) -> str | None:
    """The examples of a command as Markdown; None for a command that needs none."""
    if command not in _EXAMPLES:
        return None
    return "\n\n".join(("**Examples**", *(f"- `{example}`" for example in _EXAMPLES[command])))
