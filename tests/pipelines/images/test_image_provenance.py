"""Metadata that others wrote (Pillow the XMP, the C2PA's own library the manifests), read without decoding."""

import io
import json
import random
import struct
import zlib
from datetime import UTC, datetime, timedelta

import c2pa
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.curate.filter.rules import DigitalSource
from pipelines.images.embedded import c2pa_of, xmp_of
from pipelines.images.provenance import Provenance, provenance

AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SPACES = (
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" '
    'xmlns:tdm="http://www.w3.org/ns/tdmrep/"'
)


def xmp(attributes="", inside="", spaces=SPACES):
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description {spaces} {attributes}>'
        f'{inside}</rdf:Description></rdf:RDF></x:xmpmeta>{" " * 2000}<?xpacket end="w"?>'
    ).encode()


def saved(form, packet=b"", **options):
    out = io.BytesIO()
    if packet and form == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
    elif packet:
        options |= {"tiffinfo": {700: packet}} if form == "TIFF" else {"xmp": packet}
    Image.effect_noise((64, 48), 60).convert("RGB").save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("packet", "found"),
    [
        (xmp(f'Iptc4xmpExt:DigitalSourceType="{AI}"'), ("trainedAlgorithmicMedia", "")),
        (
            xmp("", "<Iptc4xmpExt:DigitalSourceType> http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture "
                "</Iptc4xmpExt:DigitalSourceType>"),
            ("digitalCapture", ""),
        ),
        (xmp("", f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{AI}"/>'), ("trainedAlgorithmicMedia", "")),
        (
            xmp(f'e:DigitalSourceType="{AI}"', spaces='xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'),
            ("trainedAlgorithmicMedia", ""),
        ),
        (xmp(f'x:DigitalSourceType="{AI}"'), ("", "")),  # another namespace's
        (
            xmp('plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING"'),
            ("", "XMP plus:DataMining: DMI-PROHIBITED-AIMLTRAINING"),
        ),
        (
            xmp("", "<plus:DataMining>http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING"
                "</plus:DataMining>"),
            ("", "XMP plus:DataMining: DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING"),
        ),
        (xmp('plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-ALLOWED" tdm:reservation="0"'), ("", "")),
        (xmp('tdm:reservation="1"'), ("", "XMP tdm:reservation: 1")),
        (xmp("", "<dc:title>DigitalSourceType, DataMining</dc:title>"), ("", "")),
        (b"", ("", "")),
    ],
)  # fmt: skip
def test_xmp(form, packet, found):
    data = saved(form, packet)
    assert not packet or b"DigitalSource" in b"".join(xmp_of(data)) or b"reservation" in packet or b"Mining" in packet
    assert provenance(data) == Provenance(*found)


def test_xmp_longer_than_a_segment_of_a_jpeg():
    """In segments of a second kind, here in the wrong order (ISO 16684-3)."""
    packet = xmp(f'Iptc4xmpExt:DigitalSourceType="{AI}"', f"<a>{'b' * 90_000}</a>")
    guid, pieces = b"A" * 32, [(60_000, packet[60_000:]), (0, packet[:60_000])]
    parts = [
        b"http://ns.adobe.com/xmp/extension/\0" + guid + struct.pack(">II", len(packet), at) + piece
        for at, piece in pieces
    ]
    data = saved("JPEG")
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
    assert provenance(data[:2] + segments + data[2:]).source == "trainedAlgorithmicMedia"


# --- C2PA: manifests signed by the reference library ------------------------------------------------------------------


@pytest.fixture(scope="module")
def signer():
    """A signer with a certificate of a throw-away authority, as the specification wants them."""
    now = datetime.now(UTC)

    def certificate(name, key, issuer, issuer_key, authority):
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, issuer)]))
            .public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(authority, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
            .add_extension(
                x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False), True
            )
        )  # fmt: skip
        if not authority:
            made = made.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return made.sign(issuer_key, hashes.SHA256())

    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = [certificate("leaf", leaf, "root", root, False), certificate("root", root, "root", root, True)]
    pem = serialization.Encoding.PEM
    key = leaf.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    info = c2pa.C2paSignerInfo(
        alg=b"es256",
        sign_cert=b"".join(one.public_bytes(pem) for one in chain),
        private_key=key,
        ta_url=None,
    )
    with c2pa.Signer.from_info(info) as made:
        yield made


def signed(signer, data, media_type, assertions):
    out = io.BytesIO()
    manifest = {"claim_generator_info": [{"name": "test"}], "assertions": assertions}
    with c2pa.Builder(json.dumps(manifest)) as builder:
        builder.sign(signer, media_type, io.BytesIO(data), out)
    return out.getvalue()


CREATED = {"label": "c2pa.actions", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": AI}]}}
MINING = {
    "label": "cawg.training-mining",
    "data": {"entries": {"cawg.ai_training": {"use": "notAllowed"}, "cawg.data_mining": {"use": "allowed"}}},
}
EDITED = {
    "label": "c2pa.actions",
    "data": {
        "actions": [
            {"action": "c2pa.created", "digitalSourceType": AI.replace("trainedAlgorithmicMedia", "digitalCapture")},
            {"action": "c2pa.edited", "digitalSourceType": AI.replace("trained", "compositeWithTrained")},
        ]
    },
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize(
    ("assertions", "found"),
    [
        ([CREATED], ("trainedAlgorithmicMedia", "")),
        ([CREATED, MINING], ("trainedAlgorithmicMedia", "C2PA cawg.training-mining: cawg.ai_training=notAllowed")),
        ([EDITED], ("compositeWithTrainedAlgorithmicMedia, digitalCapture", "")),
    ],
    ids=["made", "withheld", "edited"],
)
def test_c2pa(signer, form, assertions, found):
    data = signed(signer, saved(form), f"image/{form.lower()}", assertions)
    with c2pa.Reader(f"image/{form.lower()}", io.BytesIO(data)) as theirs:
        assert "trainedAlgorithmicMedia" in theirs.json() or "TrainedAlgorithmicMedia" in theirs.json()
    said = provenance(data)
    assert (set(said.source.split(", ")), said.opt_out) == (set(found[0].split(", ")), found[1])


def test_a_manifest_larger_than_a_segment(signer):
    """With the manifest of what it was made from, thumbnails and all."""
    before = signed(signer, saved("JPEG"), "image/jpeg", [CREATED])
    out = io.BytesIO()
    noise = {"label": "org.example.noise", "data": {"noise": random.Random(5).randbytes(100_000).hex()}}
    with c2pa.Builder(json.dumps({"claim_generator_info": [{"name": "test"}], "assertions": [noise]})) as builder:
        builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
        builder.sign(signer, "image/jpeg", io.BytesIO(before), out)
    assert len(c2pa_of(out.getvalue())) > 200_000
    assert provenance(out.getvalue()).source == "trainedAlgorithmicMedia"


# --- what must not happen ---------------------------------------------------------------------------------------------


@given(st.data())
def test_damaged_metadata_is_read_as_far_as_it_goes(data):
    form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF"]))
    whole = bytearray(FILES[form])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    said = provenance(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert len(said.source) < 20_000 and isinstance(said.opt_out, str)


FILES = {form: saved(form, xmp(f'Iptc4xmpExt:DigitalSourceType="{AI}"')) for form in ("JPEG", "PNG", "WEBP", "TIFF")}


def box(kind, content):
    return struct.pack(">I", len(content) + 8) + kind + content


def labelled(label, *inside):
    return box(b"jumb", box(b"jumd", b"c2pa" + bytes(12) + b"\x03" + label + b"\0") + b"".join(inside))


@pytest.mark.parametrize(
    "store",
    [
        labelled(b"c2pa", *[b"\0\0\0\x08jumb"] * 100_000),
        labelled(b"c2pa") * 20_000,
        b"".join(struct.pack(">I", 1 << 20) + b"jumb" for _ in range(100_000)),
        labelled(b"c2pa.actions", box(b"cbor", b"\x9f" * 200_000)),
        labelled(b"c2pa.actions", box(b"cbor", b"\xd8\x1c\x84" + b"\xd8\x1d\x00" * 4)),  # a list of itself
        labelled(b"c2pa.actions", box(b"cbor", b"\xa1" + b"\xd8\x1c\xa1\x01\xd8\x1d\x00" + b"\x02")),
        labelled(b"c2pa.actions", box(b"json", b"[" * 200_000)),
        labelled(b"c2pa.actions", b"\0\0\0\1cbor" + b"\xff" * 8),
    ],
    ids=["small", "many", "nested", "unending", "circle", "key", "json", "long"],
)
def test_hostile_manifests_cost_little(store):
    chunk = struct.pack(">I", len(store)) + b"caBX" + store + struct.pack(">I", zlib.crc32(b"caBX" + store))
    whole = saved("PNG")
    started = datetime.now(UTC)
    assert provenance(whole[:33] + chunk + whole[33:]) == Provenance()
    assert datetime.now(UTC) - started < timedelta(seconds=2)


def test_no_entity_of_xmp_is_expanded():
    bomb = b'<!DOCTYPE a [<!ENTITY b "DigitalSourceType">]>' + xmp(f'Iptc4xmpExt:DigitalSourceType="{AI}"')
    assert provenance(saved("JPEG", bomb)) == Provenance()


def test_the_rule_drops_what_says_it_was_made_by_ai():
    said = [
        "trainedAlgorithmicMedia",
        None,
        "digitalCapture",
        "digitalCapture, compositeWithTrainedAlgorithmicMedia",
        "",
    ]
    rows = pa.table({"digital_source": pa.array(said, pa.string())})
    assert DigitalSource().keeps(rows) == [False, True, True, False, True]
    assert DigitalSource(exclude=["digitalcapture"]).keeps(rows) == [True, True, False, False, True]
