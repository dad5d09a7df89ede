"""Filter: keep the images and captions worth training on, by a list of named rules.

The first rule in order that a row fails is its reason, so the counts add up; all that it fails are counted, too, so
that each rule can be questioned by itself. Dropped rows are stored next to the kept ones, and every reason has a
gallery, every rule with a threshold a histogram.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from infra.cluster import run_shards
from infra.formats.shards import shard_name
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest, ShardRecord
from pipelines.curate.filter.config import Config
from pipelines.curate.filter.rules import Listed, Pii, Rule
from pipelines.layout import Images, input_shards, kept_files

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``images``, or those rows of them that ``selection`` keeps, or ``pairs`` before their download -> a selection.

    Facts: ``failed``, rows by every rule they fail; ``rewritten``, captions that a rule changed; ``languages``, by the
    caption's language and then by what became of the row.
    """
    from pipelines.curate import gallery
    from pipelines.curate.filter import answers, figures, judge

    config.check_inputs(inputs)
    images, pairs, selection = Images.of(inputs), inputs.get("pairs"), inputs.get("selection")
    listed = kept_files(pairs) if pairs else []
    shards = list(enumerate(file.path for file in listed)) if pairs else input_shards(inputs)
    store = pairs.store if pairs else selection.store if selection else None
    given = [_with_list(rule, inputs) for rule in config.rules]
    rules = answers.settled(given, images, store, shards, context, config.limits)

    scratch = context.store if any(rule.question() for rule in rules) else None
    work = partial(judge.filter_shard, rules, images, store, scratch)
    specs = [(shard_name(shard), (shard, path)) for shard, path in shards]
    records = run_shards(context, specs, work, config.limits)

    facts = _facts(records)
    if images.stores:
        hidden = {rule.name: rule.hidden for rule in rules if isinstance(rule, Pii)}
        gallery.of_selection(context, images, records, hidden)
    figures.draw(context, rules, records, facts)
    total = records.funnel("pairs" if pairs else "images")
    manifest = context.finish(records, funnel=total, facts=facts)
    if scratch is not None:
        context.store.delete(judge.SCRATCH)
    return manifest


def _with_list(rule: Rule, inputs: Mapping[str, Artifact]) -> Rule:
    """A rule by a list with the artifact that has it; any other as it is."""
    return rule.reading(inputs[rule.source]) if isinstance(rule, Listed) and rule.source else rule


def _facts(records: Sequence[ShardRecord]) -> dict[str, Any]:
    """Sums of the counts of all shards."""
    failed: Counter[str] = Counter()
    rewritten: Counter[str] = Counter()
    languages: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        failed.update(record.facts["failed"])
        rewritten.update(record.facts.get("rewritten", {}))
        for language, counts in record.facts["languages"].items():
            languages[language].update(counts)
    facts: dict[str, Any] = {"failed": dict(sorted(failed.items()))}
    if rewritten:
        facts["rewritten"] = dict(sorted(rewritten.items()))
    return facts | {"languages": {one: dict(sorted(counts.items())) for one, counts in sorted(languages.items())}}
