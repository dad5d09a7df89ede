"""Text of captions: what Chromium's ``innerText`` returns for the same markup, white space collapsed."""

import pytest
from selectolax.lexbor import LexborHTMLParser

from pipelines.html.rendered import rendered
from pipelines.html.text import clean

# The right side is Chromium 156's innerText of a <div> with this markup.
BROWSER = [
    ("<p>Photo: <a>Ann</a>, (<em>2019</em>)</p>", "Photo: Ann, (2019)"),
    ("<h3>Red fox</h3><h4>Photo by Ann</h4>", "Red fox Photo by Ann"),
    ("Fox<script>var a=1;</script>", "Fox"),
    ("<style>.x{}</style><span>Map</span>", "Map"),
    ("<noscript>no</noscript>x", "x"),
    ("<template>no</template>x", "x"),
    ("<title>t</title>x", "x"),
    ("x<span hidden>h</span>y", "xy"),
    ("x<span style='color: red; display:none'>h</span>y", "xy"),
    ("x<span style='visibility:hidden'>h</span>y", "xy"),
    ("<div popover>pop</div>x", "x"),
    ("<dialog>d</dialog>x", "x"),
    ("<details><summary>s</summary>inner</details>after", "s after"),
    ("<details open><summary>s</summary>inner</details>after", "s inner after"),
    ("<svg><title>t</title><desc>d</desc><text>svgtext</text></svg>x", "svgtext x"),
    ("<math><mn>1</mn><annotation>anno</annotation></math>x", "1 x"),
    ("<audio>f</audio><video>f</video><canvas>f</canvas><object data=x>f</object><iframe>f</iframe>x", "x"),
    ("<noembed>n</noembed><noframes>z</noframes><progress>5</progress><meter>6</meter>x", "x"),
    ("<datalist><option>q</datalist><textarea>t</textarea>x", "x"),
    ("<select><option>o1<option>o2</select>x", "o1 o2 x"),
    ("<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp></ruby>字", "漢かん字"),
    ("<label>l</label><input value=v>x", "lx"),
    ("a<img alt=z>b<wbr>c<span>d</span><q>e</q>f<custom-el>g</custom-el>", "abcdefg"),
    ("a<button>b</button>x<slot>s</slot><map>m</map>", "abxsm"),
    ("<span>a</span> <span>b</span>", "a b"),
    ("<span style='display:block'>a</span><span>b</span>", "a b"),
    ("<span style='display:inline-block'>a</span><span>b</span>", "ab"),
    ("a<br>b<hr>c<div>d</div><div>e</div>", "a b c d e"),
    ("<ul><li>a<li>b</ul>c<dl><dt>d<dd>e</dl>", "a b c d e"),
    ("<table><caption>c</caption><tr><th>a<th>b<tr><td>d<td>e</table>x", "c a b d e x"),
    ("<figure>f<figcaption>g</figcaption></figure><blockquote>h</blockquote>i", "f g h i"),
    ("<search>a</search><hgroup>h</hgroup><main>m</main><center>n</center><address>o</address>p", "a h m n o p"),
    ("<fieldset><legend>L</legend>f</fieldset><menu><li>x</menu><dir><li>y</dir><listing>z</listing>w", "L f x y z w"),
    ("<pre>a\n  b</pre>c<!-- d -->", "a b c"),
]


@pytest.mark.parametrize(("markup", "shown"), BROWSER)
def test_as_a_browser_renders_it(markup, shown):
    node = LexborHTMLParser(f"<div>{markup}</div>").css_first("div")
    assert clean(rendered(node)[0]) == shown


def test_an_element_of_any_size_is_read_in_bounded_steps():
    wide = LexborHTMLParser("<div>" + "<b>x</b>" * 100_000 + "</div>").css_first("div")
    deep = LexborHTMLParser("<div>" * 500 + "x" + "</div>" * 500).css_first("div")
    assert rendered(wide) == ("x" * 1000, 2000)
    assert rendered(deep)[0].strip() == "x"
