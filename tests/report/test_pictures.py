"""Charts as images: whole files of their own, with the page's style."""

import base64
from xml.etree import ElementTree

from chatpipe.report.pictures import image_uri, markdown_pictures

CHART = '<svg class="chart" width="9" height="9"><text class="key">a &amp; b</text></svg>'


def test_a_chart_is_a_whole_image_that_loads_nothing():
    uri = image_uri(CHART)
    kind, _, content = uri.partition(",")
    assert kind == "data:image/svg+xml;base64"
    text = base64.b64decode(content).decode()
    image = ElementTree.fromstring(text)
    assert image.tag == "{http://www.w3.org/2000/svg}svg"
    assert [child.tag.partition("}")[2] for child in image] == ["style", "rect", "text"]
    assert "--ink: #" in text and ".chart .key" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_title_cannot_end_the_image_in_markdown():
    [line] = markdown_pictures([("a](b) | c", CHART)]).splitlines()
    assert line.startswith("![a\\](b) \\| c](data:image/svg+xml;base64,")
