"""The elements of an HTML page, for tests."""

from html.parser import HTMLParser

EMPTY = ("meta", "img", "input", "link", "br")  # Elements without an end.


class Element:
    """An element: its tag, attributes and children, which are elements and texts."""

    def __init__(self, tag, attributes=()):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    def __getitem__(self, name):
        return self.attributes[name]

    @property
    def classes(self):
        return self.attributes.get("class", "").split()

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, *tags, kind=None):
        """The elements below this one with one of these tags, and of this CSS class."""
        for child in self.children:
            if isinstance(child, Element):
                if child.tag in tags and (kind is None or kind in child.classes):
                    yield child
                yield from child.all(*tags, kind=kind)

    def one(self, tag, **attributes):
        """The only element below this one with this tag and these attributes."""
        (found,) = (one for one in self.all(tag) if attributes.items() <= one.attributes.items())
        return found


class _Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.stack = [Element("page")]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, attrs)
        self.stack[-1].children.append(element)
        if tag not in EMPTY:
            self.stack.append(element)

    def handle_startendtag(self, tag, attrs):
        self.stack[-1].children.append(Element(tag, attrs))

    def handle_endtag(self, tag):
        assert self.stack[-1].tag == tag, f"</{tag}> ends <{self.stack[-1].tag}>"
        self.stack.pop()

    def handle_data(self, data):
        self.stack[-1].children.append(data)


def parsed(html):
    """The page as an element; an element that is not closed, or crosses another one, fails the test."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    (page,) = parser.stack
    return page


def cells(table):
    """The cells of a table, row by row, the header first."""
    return [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")]


def table_in(page, section):
    """The cells of the first table of a section."""
    return cells(next(page.one("section", id=section).all("table")))


def winning_rows(page, section):
    """The cells of the rows that are marked as the winner's in a section."""
    return [
        [cell.text for cell in row.all("th", "td")] for row in page.one("section", id=section).all("tr", kind="wins")
    ]


def other_files(page):
    """What the page leads to outside itself."""
    elements = page.all("a", "img", "link", "script")
    names = [element.attributes.get(name) for element in elements for name in ("href", "src")]
    return [name for name in names if name and not name.startswith(("data:", "#"))]
