"""Read a figure that moves (:mod:`slsnotebooks.moving`), and set it as its script does."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from itertools import product
from urllib.parse import unquote
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"


class Figure(HTMLParser):
    """The controls of a figure, where they start, and its picture at any setting."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, dict] = {}
        self.feed(page)
        self.fields, self.start, self.slots = json.loads(self.tags["div"]["data-moves"])
        self.alt = self.tags["img"]["alt"]
        head, _, picture = self.tags["img"]["src"].partition(",")
        assert head == "data:image/svg+xml"
        self.picture = unquote(picture)
        options = (options for _, options in self.fields)
        self.settings = [list(setting) for setting in product(*options)]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Keep the attributes of the first tag of each kind."""
        self.tags.setdefault(tag, dict(attrs))

    def at(self, *options: object) -> ElementTree.Element:
        """Return the picture at a setting."""
        root = ElementTree.fromstring(self.picture)
        parts, k = list(root.iter()), self.settings.index(list(options))
        for places, values, chosen in self.slots:
            for place, key in places:
                if key:
                    parts[place].set(key, values[chosen[k]])
                else:
                    assert not len(parts[place]), "setting its text would remove its elements"
                    parts[place].text = values[chosen[k]]
        return root


def said(root: ElementTree.Element) -> list[str]:
    """Return the lines that are read out."""
    return ["".join(e.itertext()) for e in root.iter() if e.get("class") == "sls-said"]
