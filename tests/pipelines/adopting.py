"""Files of a test as the artifact that the adopt stage makes of them."""

from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import adopt


def adopted(path, contents, **options) -> Artifact:
    config = adopt.Config(path=str(path), contents={"kind": contents, **options})
    return Artifact("unused", adopt.run(config, {}, Context("unused", location=config.location())))
