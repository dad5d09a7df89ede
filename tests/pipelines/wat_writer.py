"""WAT records of pages, as Common Crawl's ia-web-commons would write them, by Python's own HTML parser."""

import gzip
import json
from html.parser import HTMLParser


class Observer(HTMLParser):
    """Notes tags in the order they are met: no tree, no context, attributes as they stand."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.head, self.links = {}, []

    def handle_starttag(self, tag, attrs):
        have = {name: value or "" for name, value in reversed(attrs)}
        if tag == "meta":
            wanted = ("name", "rel", "content", "http-equiv", "property")
            self._add("Metas", {name: have[name] for name in wanted if name in have})
        elif tag == "html":
            for name in ("lang", "xml:lang"):
                if name in have:
                    self._add("Metas", {"name": f"HTML@/{name}", "content": have[name]})
        elif tag == "base" and "href" in have:
            self.head["Base"] = have["href"]
        elif tag == "link" and "href" in have:
            self._add("Link", self._link("LINK@/href", have["href"], have, ("rel", "type")))
        elif tag == "a" and "href" in have:
            self.links.append(self._link("A@/href", have["href"], have, ("title", "rel")))
        elif tag == "img" and "src" in have:
            self.links.append(self._link("IMG@/src", have["src"], have, ("alt", "title")))

    def _add(self, key, value):
        self.head.setdefault(key, []).append(value)

    def _link(self, path, url, have, others):
        return {"path": path, "url": url} | {name: have[name] for name in others if name in have}


def document(url, html, headers=(), status="200"):
    observer = Observer()
    observer.feed(html)
    every = {}
    for name, value in headers:
        every.setdefault(name, []).append(value)
    named = {name: values if len(values) > 1 else values[0] for name, values in every.items()}
    metadata = {"Head": observer.head} | ({"Links": observer.links} if observer.links else {})
    return {
        "Container": {"Filename": "x.warc.gz"},
        "Envelope": {
            "Payload-Metadata": {
                "HTTP-Response-Metadata": {
                    "Response-Message": {"Status": status, "Version": "HTTP/1.1"},
                    "Headers": named,
                    "HTML-Metadata": metadata,
                }
            },
            "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url},
        },
    }


def record(block):
    """One gzip member around a JSON document, or any bytes in its place."""
    block = block if isinstance(block, bytes) else json.dumps(block).encode()
    head = b"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        block
    )
    return gzip.compress(head + block + b"\r\n\r\n", mtime=0)
