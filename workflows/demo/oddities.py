"""The oddities of the embedded web: which ones, how often, and the texts and pages that carry them."""

from __future__ import annotations

__all__ = [
    "ALTERED",
    "AWAY",
    "BAD_ANSWERS",
    "BAD_MARKUP",
    "BAD_SIZES",
    "BAD_TEXTS",
    "CALENDAR",
    "CLOSED",
    "COPIES",
    "DOWN",
    "FOREIGN",
    "JUNK",
    "ODD_PAGES",
    "SHORT",
    "TEXTS",
    "TWISTS",
    "UNSPACED",
    "UNTRAINED",
    "VAGUE",
    "VAGUE_TEXTS",
    "WORD",
]

# Harmless: a correct pipeline reads all of these. Per hundred good images.
TWISTS = {
    "rotated": 3.0,  # stored on its side, with the EXIF orientation to set it upright
    "progressive": 4.0,
    "cmyk": 1.0,
    "palette": 2.0,
    "alpha": 2.0,
    "moved": 3.0,  # behind a redirect
    "untyped": 2.0,  # declared as application/octet-stream
    "index-ok": 2.0,  # X-Robots-Tag that forbids nothing the pipeline does
}
ALTERED = ("rotated", "progressive", "cmyk", "palette", "alpha")  # of these, those that change the file
# Responses that make the download drop an image. Per hundred good images; at least one each.
BAD_ANSWERS = {
    "missing": 2.0,  # 404
    "gone": 0.6,  # 410
    "broken": 0.15,  # 500 every time; few, for each is retried
    "html": 0.6,  # a web page declared as image/jpeg
    "vector": 0.6,  # SVG, declared so
    "corrupt": 1.0,  # noise after a JPEG's header
    "stub": 0.5,  # half a JPEG, served as the whole
    "cut": 0.2,  # the connection ends before the body does
    "slow": 0.1,  # half of it, and then nothing
    "loop": 0.2,
    "inside": 0.2,  # redirects to a private address
    "scheme": 0.2,  # redirects to file:///
    "noai": 1.0,
    "noimageai": 0.4,
    "noindex": 0.4,
    "tdm": 0.4,  # TDM-Reservation: 1
    "private": 1.0,  # below a path that the image host's robots.txt disallows
    "untrained": 0.5,  # below one that it disallows to crawlers for AI
    "icon": 2.0,  # 16 to 28 pixels a side
    "banner": 1.0,  # ten times as wide as high
    "bomb": 0.1,  # claims far more pixels than a decoder should accept
}
# Sizes and texts that make the filter drop a pair. Per hundred good images; at least one each.
BAD_SIZES = {"thumbnail": 2.0, "panorama": 1.0}  # 48 pixels a side; four times as wide as high
BAD_TEXTS = {"junk": 4.0, "word": 1.5, "short": 2.0, "long": 1.0, "foreign": 4.0, "unspaced": 1.0}
# Texts that do not describe the image, which a filter cannot tell; balancing drops them, since it knows the words.
VAGUE_TEXTS = {"vague": 2.0}
# Markup that extraction drops, and copies that deduplication drops.
BAD_MARKUP = {"bare": 4.0, "pixel": 4.0, "inline": 1.0, "script": 0.5, "twice": 2.0}
COPIES = {"copy": 5.0, "twin": 5.0}  # the same bytes elsewhere; the same image smaller and in another format

JUNK = (
    "IMG_2034.JPG",
    "DSC00417.jpg",
    "logo",
    "click here to enlarge",
    "untitled",
    "image",
    "d41d8cd98f00b204e9800998ecf8427e",
    "http://cdn.example/pictures/banner.png",
    "thumbnail",
    "photo-1.png",
    "spacer",
    "loading...",
)
WORD = ("star", "blue", "heart", "red")  # of fewer than six characters
SHORT = ("red circle", "green star", "two crosses", "yellow", "purple hearts")
FOREIGN = (
    "ein roter Kreis auf einem grauen Hintergrund",
    "Das Bild zeigt einen kleinen gelben Stern oben links",
    "un petit cercle rouge au milieu de la page",
    "Une grande étoile bleue avec des rayures sur un fond gris",
    "un círculo rojo y grande en la esquina de la imagen",
    "El corazón verde está pintado sobre un papel de color crema",
    "un cerchio rosso su uno sfondo grigio nella parte alta",
    "красный круг на сером фоне в левом углу",
    "большая синяя звезда в центре картины",
    "회색 배경에 그려진 빨간 원",
    "دائرة حمراء كبيرة على خلفية رمادية",
    "κόκκινος κύκλος σε γκρι φόντο",
    "een kleine rode cirkel op een grijze achtergrond",
    "um pequeno círculo vermelho no meio da página",
    "mały czerwony krąg na szarym tle w rogu obrazu",
)
UNSPACED = (  # in languages not asked for, in scripts that put no spaces between words
    "ວົງມົນສີແດງຢູ່ເທິງພື້ນຫຼັງສີເທົາ",
    "រង្វង់ពណ៌ក្រហមនៅលើផ្ទៃពណ៌ប្រផេះ",
    "မီးခိုးရောင်နောက်ခံပေါ်ရှိအနီရောင်စက်ဝိုင်း",
    "སྐྱ་བོའི་རྒྱབ་ལྗོངས་ཐོག་ཏུ་སྒོར་དབྱིབས་དམར་པོ།",
)
VAGUE = (
    "our favourite from last summer",
    "seen on the way home from work",
    "this one goes to my sister",
    "a present for her birthday",
    "my first try with the new brush",
)
_RAMBLE = (
    "and then we walked on along the river and talked about the weather, the price of bread and the people we had met "
)

TEXTS = {
    "junk": JUNK,
    "word": WORD,
    "short": SHORT,
    "long": ((_RAMBLE * 14).strip(),),
    "foreign": FOREIGN,
    "unspaced": UNSPACED,
    "vague": VAGUE,
}

# Pages without content of their own: path on the gallery's host -> kind.
ODD_PAGES = {
    **{f"/private/{number}": "private" for number in range(6)},
    **{f"/old/{number}": "missing" for number in range(5)},
    "/retired": "gone",
    "/error": "broken",
    "/moved": "moved",
    "/moved/here": "here",  # what /moved leads to; linked from nowhere else
    "/loop": "loop",
    "/inside": "inside",
    "/metadata": "inside",
    "/files": "scheme",
    "/partner": "away",
    "/catalogue.pdf": "pdf",
    "/feed.json": "json",
    "/poster": "jpeg",
    "/endless": "endless",  # far too long a page, compressed to little
    "/cut": "cut",
    "/slow": "slow",
    "/noai": "noai-header",
    "/noimageai": "noai-meta",
    "/reserved": "tdm-header",
    "/reserved/too": "tdm-meta",
    "/empty": "empty",
    "/tags": "soup",  # HTML that no validator would let pass
}
CLOSED = ("http://closed.example/", "http://closed.example/attic")  # robots.txt disallows all
DOWN = ("http://down.example/",)  # robots.txt answers 503: a crawler that cannot read the rules must stay out
UNTRAINED = ("http://untrained.example/",)  # robots.txt disallows all to crawlers for AI
AWAY = "http://elsewhere.example/"  # outside the allowed hosts
CALENDAR = "http://gallery.example/calendar/"
