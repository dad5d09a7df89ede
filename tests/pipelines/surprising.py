"""surprising: a pool of which the captions that say what hardly any other says are kept."""

from pipelines import adopt
from pipelines.curate import embed, filter, score
from pipelines.curate.filter import rules
from pipelines.curate.score import ClipScore, Score
from workflows.stage import Stage, Workflow


class Surprise(Score):
    """How far a caption is from the middle of all captions."""

    over = "embeddings"

    def collect(self, rows, total):
        return {"sum": rows.texts.sum(axis=0, dtype="f8")}

    def merge(self, name, parts):
        return sum(parts)

    def values(self, rows, known):
        middle = known["sum"] / (known["sum"] ** 2).sum() ** 0.5
        return 1 - rows.texts @ middle


def workflow(images: str, model: str, keep: float = 0.5) -> Workflow:
    pool = Stage("images", adopt.run, adopt.Config(path=images, contents="images"))
    clip = Stage("model", adopt.run, adopt.Config(path=model, contents="model"))
    embedded = Stage("embed", embed.run, embed.Config(), {"images": pool, "model": clip})
    scores = score.Config(scores=(ClipScore(), Surprise()))
    scored = Stage("score", score.run, scores, {"images": pool, "embeddings": embedded})
    best = filter.Config(rules=(rules.Score(column="clip_score", top=keep), rules.Score(column="surprise", min=0.1)))
    kept = Stage("filter", filter.run, best, {"images": pool, "selection": scored})
    return Workflow("surprising", (pool, clip, embedded, scored, kept))
