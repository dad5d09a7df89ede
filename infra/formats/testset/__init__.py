"""Test sets in the forms in which people have them, read as strictly as an evaluation must.

===========================  ===========================================================================
:mod:`.webdataset`           CLIP_benchmark's WebDataset layout
:mod:`.hugging_face`         Parquet as on Hugging Face's hub, and what ``save_to_disk`` of ``datasets`` writes
:mod:`.captions`             captions as JSON beside a folder of images: COCO's, Karpathy's splits, ALBEF's lists
:mod:`.caption_lines`        captions as lines beside a folder of images: Flickr8k's and Flickr30k's files
:mod:`.metadata_folder`      images beside metadata.csv, .jsonl or .parquet, as the imagefolder of ``datasets``
:mod:`.selections`           SugarCrepe's, Winoground's and WinoGAViL's own files beside a folder of images
:mod:`.folders`              a folder of images for each class, as torchvision's ImageFolder
:mod:`.word_pairs`           WordSim-353's, SimLex-999's, MEN's and other files of rated pairs of words; no images
:mod:`.word_analogies`       Google's file of analogies, or BATS's folders; no images
===========================  ===========================================================================

A form of your own is a subclass of :class:`Form`, in a recipe too: it says which files make a set, and yields samples.
A sample that cannot be read is an error, never a skip: leaving out the hard ones would flatter the model. Lines
of files of words are the exception: they are left out, counted and told with the score.
"""

from infra.formats.testset.caption_lines import CaptionLines
from infra.formats.testset.captions import CaptionsJson
from infra.formats.testset.evalset import Broken, EvalSet, Form, Packed, Sample, SetFiles, find_sets, known_forms
from infra.formats.testset.folders import ImageFolder
from infra.formats.testset.hugging_face import HubParquet, SavedDataset
from infra.formats.testset.images import decode_image, decode_regions
from infra.formats.testset.metadata_folder import MetadataFolder
from infra.formats.testset.selections import SugarCrepe, WinoGAViL, Winoground
from infra.formats.testset.texts import (
    KINDS,
    prompts,
    read_classes,
    read_cues,
    read_languages,
    read_lines,
    read_templates,
)
from infra.formats.testset.webdataset import WebDataset
from infra.formats.testset.word_analogies import WordAnalogies
from infra.formats.testset.word_pairs import WordPairs

__all__ = [
    "KINDS",
    "Broken",
    "CaptionLines",
    "CaptionsJson",
    "EvalSet",
    "Form",
    "HubParquet",
    "ImageFolder",
    "MetadataFolder",
    "Packed",
    "Sample",
    "SavedDataset",
    "SetFiles",
    "SugarCrepe",
    "WebDataset",
    "WinoGAViL",
    "Winoground",
    "WordAnalogies",
    "WordPairs",
    "decode_image",
    "decode_regions",
    "find_sets",
    "known_forms",
    "prompts",
    "read_classes",
    "read_cues",
    "read_languages",
    "read_lines",
    "read_templates",
]
